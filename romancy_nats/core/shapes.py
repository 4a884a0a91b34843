"""How an instance of a class comes apart into plain state and together again, exactly. Nothing about bytes in here.

State written by this very definition of the class is put back as it was, without running validators or `__init__`
(they ran already). State of another definition, or from outside, is validated instead.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from enum import Enum, Flag
from functools import cached_property, lru_cache
from typing import Any, Protocol, cast
from zlib import crc32

from pydantic import BaseModel, TypeAdapter
from pydantic_core import PydanticUndefined

_NOTHING_MORE: list[Any] = [[], {}, {}]
Packs = Callable[[object], bool]
"""Whether a value can be packed at all."""


class Shape(Protocol):
    """One class that can be taken apart."""

    cls: type

    def take(self, instance: Any, packs: Packs) -> list[object]:
        """The state of an instance."""
        ...

    def build(self, state: list[Any], *, trusted: bool) -> object:
        """The instance of a state; not `trusted` means that it is validated in any case."""
        ...

    def plain(self, instance: Any) -> object:
        """The instance as a plain container, for where its class cannot be named."""
        ...


@lru_cache(maxsize=1024)
def _shape_of(cls: Any) -> Shape | None:
    if issubclass(cls, Enum):
        return EnumShape(cls)
    if issubclass(cls, BaseModel):
        return ModelShape(cls)
    if hasattr(cls, "__dataclass_fields__"):
        return DataclassShape(cls)
    return NamedTupleShape(cls) if hasattr(cls, "_fields") and hasattr(cls, "_make") else None


def shape_of(cls: type) -> Shape | None:
    """The shape of a class, None when its instances cannot be taken apart."""
    return _shape_of(cls)


class ModelShape:
    """A pydantic model: fields, which of them were set, extras, and the private attributes that can be packed."""

    def __init__(self, cls: type[BaseModel]) -> None:
        self.cls: type[BaseModel] = cls

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(self.cls.model_fields)

    @cached_property
    def _definition(self) -> int:
        return _definition((name, field.annotation) for name, field in self.cls.model_fields.items())

    def take(self, instance: BaseModel, packs: Packs) -> list[object]:
        """Definition and fields; then, if there are any, names not set, extras and private attributes."""
        fields = self._fields(instance)
        given = instance.model_fields_set
        unset = [name for name in fields if name not in given]
        held = instance.__pydantic_private__ or {}
        private = {name: value for name, value in held.items() if packs(value)}
        state: list[object] = [self._definition, fields]
        if unset or private or instance.model_extra:
            state += [unset, instance.model_extra or {}, private]
        return state

    def build(self, state: list[Any], *, trusted: bool) -> object:
        """Put back as it was, or validated by field name when the definition is another."""
        definition, fields, unset, extra, private = state if len(state) == 5 else [*state, *_NOTHING_MORE]
        if not trusted or definition != self._definition:
            model = self._validated({**fields, **extra})
            model.model_fields_set.difference_update(unset)
            return model
        model = self.cls.__new__(self.cls)
        model.__setstate__(
            {
                "__dict__": fields,
                "__pydantic_fields_set__": fields.keys() - set(unset),
                "__pydantic_extra__": extra if self.cls.model_config.get("extra") == "allow" else None,
                "__pydantic_private__": self._private(private),
            }
        )
        return model

    def plain(self, instance: BaseModel) -> object:
        """A dict by field name."""
        fields = self._fields(instance)
        return (
            fields["root"] if self.cls.__pydantic_root_model__ else {**fields, **(instance.model_extra or {})}
        )

    def _fields(self, instance: BaseModel) -> dict[str, object]:
        held = instance.__dict__
        return {name: held[name] for name in self._names if name in held}

    def _private(self, recorded: Mapping[str, object]) -> dict[str, object] | None:
        attributes = self.cls.__private_attributes__
        if not attributes:
            return None
        missing = {name: item.get_default() for name, item in attributes.items() if name not in recorded}
        return {k: v for k, v in missing.items() if v is not PydanticUndefined} | dict(recorded)

    def _validated(self, fields: dict[str, object]) -> BaseModel:
        if self.cls.__pydantic_root_model__:
            return self.cls.model_validate(fields["root"])
        if self.cls.model_config.get("extra") != "allow":
            fields = {name: value for name, value in fields.items() if name in self._names}
        return self.cls.model_validate(fields, by_alias=False, by_name=True)


class DataclassShape:
    """A dataclass, the standard library's or pydantic's."""

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self._fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(cls)
        self._definition = _definition((field.name, field.type) for field in self._fields)
        every = cast("dict[str, dataclasses.Field[Any]]", vars(cls).get("__dataclass_fields__", {}))
        needs_more = any("InitVar" in repr(field.type) for field in every.values())
        self._post_init: Callable[[Any], None] | None = (
            None if needs_more else getattr(cls, "__post_init__", None)
        )

    def take(self, instance: Any, packs: Packs) -> list[object]:
        """Definition and fields."""
        return [self._definition, self._state(instance)]

    def build(self, state: list[Any], *, trusted: bool) -> object:
        """Put back as it was; `__post_init__` runs for what it keeps outside the fields, which have the last word."""
        definition, fields = state
        known = {field.name: fields[field.name] for field in self._fields if field.name in fields}
        if not trusted or definition != self._definition:
            given = {
                field.name: known[field.name] for field in self._fields if field.init and field.name in known
            }
            return self._adapter.validate_python(given, by_alias=False, by_name=True)
        instance: Any = cast("Any", self.cls).__new__(self.cls)
        _put(instance, known)
        if self._post_init is not None:
            self._post_init(instance)
            _put(instance, known)
        return instance

    def plain(self, instance: Any) -> object:
        """A dict by field name."""
        return self._state(instance)

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.cls)

    def _state(self, instance: object) -> dict[str, object]:
        return {f.name: getattr(instance, f.name) for f in self._fields if hasattr(instance, f.name)}


class EnumShape:
    """An enum member by name; a combination of flags, which has none of its own, by value."""

    def __init__(self, cls: type[Enum]) -> None:
        self.cls: type[Enum] = cls

    def take(self, instance: Enum, packs: Packs) -> list[object]:
        """The name, or nothing and the value."""
        if isinstance(instance, Flag) or instance.name not in self.cls.__members__:
            return [None, instance.value]
        return [instance.name]

    def build(self, state: list[Any], *, trusted: bool) -> object:
        """The member."""
        return self.cls(state[1]) if state[0] is None else self.cls[state[0]]

    def plain(self, instance: Enum) -> object:
        """The value."""
        return instance.value


class NamedTupleShape:
    """A named tuple: its values in order."""

    def __init__(self, cls: type) -> None:
        self.cls = cls

    def take(self, instance: tuple[object, ...], packs: Packs) -> list[object]:
        """The values."""
        return list(instance)

    def build(self, state: list[Any], *, trusted: bool) -> object:
        """Put back as it was; fields added since then get their defaults."""
        return TypeAdapter(self.cls).validate_python(state) if not trusted else self.cls(*state)

    def plain(self, instance: tuple[object, ...]) -> object:
        """A plain tuple."""
        return tuple(instance)


def _definition(fields: Iterable[tuple[str, object]]) -> int:
    # Module prefixes are dropped: the same class may be in __main__ for one process and in a module for another.
    text = ";".join(f"{name}:{annotation!r}" for name, annotation in fields)
    return crc32(re.sub(r"(\w+\.)+| at 0x\w+", "", text).encode())


def _put(instance: object, values: Mapping[str, object]) -> None:
    for name, value in values.items():
        object.__setattr__(instance, name, value)
