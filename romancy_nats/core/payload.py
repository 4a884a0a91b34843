"""The codec of one annotated value: a result, an argument, the data of an event. Functions are not looked at here."""

from __future__ import annotations

import types
from functools import cached_property
from inspect import Parameter
from typing import Any, Generic, Never, NoReturn, TypeVar, Union, cast, get_args, get_origin, is_typeddict

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError, to_json

from romancy_nats.core.annotations import storable
from romancy_nats.core.blame import blame, misfit
from romancy_nats.core.class_registry import ClassRegistry
from romancy_nats.core.msgpack_types import Decoder, Encoder, JsonText, UnencodableError, pack_scalar
from romancy_nats.core.scalars import KIN
from romancy_nats.core.shapes import shape_of
from romancy_nats.errors import PayloadError

T = TypeVar("T")

_SCALARS = frozenset({type(None), bool, float, str, bytes})  # int may be too large for msgpack
_PLAIN: frozenset[object] = frozenset({list, dict})
_EXACT = frozenset({*_SCALARS, int, *KIN})
_UNTYPED: tuple[object, ...] = (Any, object, Parameter.empty, Never, NoReturn)
_LARGEST, _SMALLEST = 2**64 - 1, -(2**63)


class ValueCodec(Generic[T]):
    """Values of one annotation <-> bytes. What goes in comes out: the same value, of the same type.

    Pydantic decides what fits. Types that fit as they are, and plain data on the way in, never get there: the
    engine decodes every value that it recorded, so that a misfit is found there.
    """

    def __init__(
        self, annotation: object = Any, *, name: str = "value", registry: ClassRegistry | None = None
    ) -> None:
        self.annotation = storable(type(None) if annotation is None else annotation)
        self.name = name
        self._registry = registry or ClassRegistry()
        self._exact, self.takes_model = _exact_types(self.annotation)
        self._plain = _PLAIN.intersection(
            get_origin(member) or member for member in _members(self.annotation)
        )
        self._untyped = self.annotation in _UNTYPED or isinstance(self.annotation, TypeVar)
        self._encoder = Encoder(self._registry)
        if not (self._untyped or self._exact >= set(_members(self.annotation)) <= _EXACT):
            self._registry.add_schema(self._adapter.core_schema)

    def encode(self, value: T) -> bytes:
        """The bytes of a value; raises PayloadError when it does not fit or cannot be stored."""
        cls: type = type(value)
        if not (cls in self._exact or cls in self._plain or self._untyped):
            self.fit(value)
        return self._pack(value)

    def decode(self, data: bytes) -> T:
        """The value of the bytes; raises PayloadError when they cannot be read or do not fit."""
        value = self._unpack(data)
        return value if type(value) in self._exact else self.fit(value)

    def canonical(self, value: object) -> bytes:
        """The bytes of what the annotation makes of a value: 3 and 3.0 are the same where a float is asked for."""
        return self._pack(value if type(value) in self._exact else self.fit(value))

    def fit(self, value: object) -> T:
        """A value as the annotation sees it; raises PayloadError, caused by pydantic's ValidationError."""
        if type(value) is JsonText:
            return self._from_json(value.text)
        if self._untyped or type(value) in self._exact:
            return cast("T", value)
        try:
            return self._adapter.validate_python(value)
        except ValidationError as error:
            raise misfit(error, self.name) from error

    def fit_plain(self, value: object) -> T:
        """The same for JSON-like data from outside: a date is a string there, a model a dict."""
        if self._untyped:
            return cast("T", value)
        try:
            return self._adapter.validate_python(value, by_alias=True, by_name=True)
        except ValidationError as error:
            # strict models take a string for a date from JSON, but not from Python
            try:
                return self._adapter.validate_json(to_json(value), by_alias=True, by_name=True)
            except (ValidationError, PydanticSerializationError):
                raise misfit(error, self.name) from error

    def _pack(self, value: object) -> bytes:
        cls: type = type(value)
        if cls in _SCALARS or (cls is int and _SMALLEST <= cast("int", value) <= _LARGEST):
            return pack_scalar(value)
        try:
            return self._encoder.pack(value)
        except UnencodableError as error:
            return self._pack_as_json(value, error)

    def _unpack(self, data: bytes) -> Any:
        return Decoder(self._registry).unpack(data)

    def _pack_as_json(self, value: object, refusal: UnencodableError) -> bytes:
        try:
            if self._untyped:
                raise refusal
            text = self._adapter.dump_json(
                cast("T", value), by_alias=False, round_trip=True, warnings="error"
            )
            self._from_json(text)
        except (PydanticSerializationError, PayloadError, RecursionError, UnicodeError):
            raise blame(value, self._encoder.pack, self.name) from refusal
        return self._encoder.pack(JsonText(text))

    def _from_json(self, text: bytes) -> T:
        try:
            return self._adapter.validate_json(text, by_alias=False, by_name=True)
        except ValidationError as error:
            raise misfit(error, self.name) from error

    @cached_property
    def _adapter(self) -> TypeAdapter[T]:
        annotation = cast("type[T]", Any if self._untyped else self.annotation)
        try:
            try:
                return TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=True))
            except PydanticUserError as error:
                if error.code != "type-adapter-config-unused":
                    raise
                return TypeAdapter(annotation)
        except (PydanticUserError, NameError, TypeError) as error:
            raise PayloadError(
                f"{self.name}: pydantic has no schema for {annotation!r}; use plain types, dataclasses or models "
                f"({str(error).splitlines()[0]})"
            ) from error


def _members(annotation: object) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(member for arm in get_args(annotation) for member in _members(arm))
    return (type(None),) if annotation is None else (annotation,)


def _exact_types(annotation: object) -> tuple[frozenset[type], bool]:
    """Classes whose instances fit as they are, and whether one is built from named fields."""
    exact: set[type] = set()
    model = False
    for member in _members(annotation):
        cls = get_origin(member) or member
        if isinstance(cls, type):
            if member in _EXACT or (cls is member and shape_of(cls) is not None):
                exact.add(cls)
            model = model or _has_named_fields(cls)
    return frozenset(exact), model


def _has_named_fields(cls: Any) -> bool:
    return issubclass(cls, BaseModel) or hasattr(cls, "__dataclass_fields__") or is_typeddict(cls)
