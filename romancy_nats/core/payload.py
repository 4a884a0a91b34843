"""The codec of one annotated value: a result, an argument, the data of an event. Functions are not looked at here."""

from __future__ import annotations

import types
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from functools import cached_property, partial
from inspect import Parameter
from types import FunctionType
from typing import Any, Generic, Never, NoReturn, TypeVar, Union, cast, get_args, get_origin, is_typeddict

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError, SchemaValidator, to_json

from romancy_nats.core.annotations import storable
from romancy_nats.core.blame import blame, misfit
from romancy_nats.core.class_registry import ClassRegistry
from romancy_nats.core.conformity import Check, check_of
from romancy_nats.core.entry import validator_at_entry
from romancy_nats.core.error_text import shown
from romancy_nats.core.msgpack_types import Decoder, Encoder, JsonText, pack_scalar
from romancy_nats.core.scalars import KIN
from romancy_nats.core.shapes import shape_of
from romancy_nats.errors import PayloadError

T = TypeVar("T")

_SCALARS = frozenset({type(None), bool, float, str, bytes})  # int may be too large for msgpack
_EXACT = frozenset({*_SCALARS, int, *KIN})
_NEVER: frozenset[object] = frozenset(
    {Callable, type, FunctionType, AsyncIterator, AsyncGenerator, AsyncIterable}
)
_BARE = frozenset({list, dict, set, frozenset, tuple})
_UNTYPED: tuple[object, ...] = (Any, object, Parameter.empty, Never, NoReturn)
_LARGEST, _SMALLEST = 2**64 - 1, -(2**63)


class ValueCodec(Generic[T]):
    """Values of one annotation <-> bytes. What goes in comes out: the same value, of the same type.

    Pydantic validates and converts a value once, when it is encoded. The bytes are the value from then on: decoding
    runs no code of the annotation's, it only looks whether the value has the form that the annotation asks for.
    """

    def __init__(
        self, annotation: object = Any, *, name: str = "value", registry: ClassRegistry | None = None
    ) -> None:
        self.annotation = storable(type(None) if annotation is None else annotation)
        self.name = name
        self._registry = registry or ClassRegistry()
        self._exact, self.takes_model = _exact_types(self.annotation)
        self._exact_items = _exact_items(self.annotation)
        self._untyped = self.annotation in _UNTYPED or isinstance(self.annotation, TypeVar)
        self._encoder = Encoder(self._registry)
        if not (self._untyped or self._exact >= set(_members(self.annotation)) <= _EXACT | _BARE):
            self._registry.add_schema(self._adapter.core_schema)
            self._registry.add_annotation(self.annotation)

    def check(self) -> None:
        """Raises PayloadError when the annotation names only what can never be stored, such as functions."""
        classes = {get_origin(member) or member for member in _members(self.annotation)} - {type(None)}
        if classes and classes <= _NEVER:
            raise PayloadError(
                f"{self.name}: a value of {self.annotation!r} cannot be stored; pass plain values, dataclasses or "
                "models, and of a function or class its name"
            )

    def encode(self, value: T) -> bytes:
        """The bytes of a value, valid from now on; raises PayloadError when it does not fit or cannot be stored."""
        return self.pack(value if type(value) in self._exact else self.fit(value))

    def decode(self, data: bytes) -> T:
        """The value of the bytes; raises PayloadError when they cannot be read or are no value of the annotation."""
        return self.recall(Decoder(self._registry).unpack(data))

    def pack(self, value: object) -> bytes:
        """The bytes of a value that is valid already; raises PayloadError when it cannot be stored."""
        cls: type = type(value)
        if cls in _SCALARS or (cls is int and _SMALLEST <= cast("int", value) <= _LARGEST):
            return pack_scalar(value)
        try:
            return self._encoder.pack(value)
        except PayloadError as refusal:
            raise blame(value, self._encoder.pack, self.name) from refusal

    def recall(self, value: object) -> T:
        """A value that was read back, as it is; raises PayloadError when the annotation asks for something else now."""
        if self._untyped or self._fits(value):
            return cast("T", value)
        if type(value) is JsonText:
            return self._from_json(value.text)
        check = self._check
        wrong = None if check is None else check.misfit(value)
        if wrong is not None:
            raise PayloadError(f"{self.name}{wrong[0]}: {wrong[1]}")
        return cast("T", value)

    def fit(self, value: object) -> T:
        """A value as the annotation sees it; raises PayloadError, caused by pydantic's ValidationError."""
        if self._untyped or self._fits(value):
            return cast("T", value)
        try:
            return cast("T", self._validator.validate_python(value))
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

    def _fits(self, value: object) -> bool:
        """Whether a value is one of the annotation's classes, for which there is nothing to convert."""
        cls: type = type(value)
        if cls in self._exact:
            return True
        items = self._exact_items.get(cls)
        return items is not None and items(value)

    def _from_json(self, text: bytes) -> T:
        try:
            return self._adapter.validate_json(text, by_alias=False, by_name=True)
        except ValidationError as error:
            raise misfit(error, self.name) from error

    @cached_property
    def _check(self) -> Check | None:
        return check_of(self._adapter.core_schema)

    @cached_property
    def _validator(self) -> SchemaValidator:
        return validator_at_entry(self._adapter)

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
        except Exception as error:
            # pydantic's advice for an unknown class, `arbitrary_types_allowed`, would not make it storable
            unknown = getattr(error, "code", None) == "schema-for-unknown-type"
            why = "" if unknown else f" ({shown(error).splitlines()[0]})"
            raise PayloadError(
                f"{self.name}: pydantic has no schema for {annotation!r}; use plain types, dataclasses or models{why}"
            ) from error


class ResultReader(ValueCodec[T]):
    """Reads results as a type that the reader names, whoever wrote them and under whatever annotation."""

    def decode(self, data: bytes) -> T:
        """The value when it is one of the type already, else what the type makes of it; raises PayloadError."""
        value = Decoder(self._registry).unpack(data)
        try:
            return self.recall(value)
        except PayloadError:
            return self.fit(value)


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
            if member in _EXACT or member in _BARE or (cls is member and shape_of(cls) is not None):
                exact.add(cls)
            model = model or _has_named_fields(cls)
    return frozenset(exact), model


def _exact_items(annotation: object) -> dict[type, Callable[[Any], bool]]:
    """For each class of containers, what tells whether all items fit as they are."""
    found: dict[type, Callable[[Any], bool]] = {}
    twice: set[type] = set()
    for member in _members(annotation):
        origin, args = get_origin(member), get_args(member)
        if origin in found:
            twice.add(origin)
        if origin in (list, set, frozenset) and len(args) == 1:
            found[origin] = partial(_all_are, _exact_types(args[0])[0])
        elif origin is dict and len(args) == 2:
            found[dict] = partial(_keys_and_values_are, _exact_types(args[0])[0], _exact_types(args[1])[0])
    return {cls: fits for cls, fits in found.items() if cls not in twice}


def _all_are(exact: frozenset[type], values: Iterable[object]) -> bool:
    return exact.issuperset(map(type, values))


def _keys_and_values_are(keys: frozenset[type], values: frozenset[type], found: dict[object, object]) -> bool:
    return keys.issuperset(map(type, found)) and values.issuperset(map(type, found.values()))


def _has_named_fields(cls: Any) -> bool:
    return issubclass(cls, BaseModel) or hasattr(cls, "__dataclass_fields__") or is_typeddict(cls)
