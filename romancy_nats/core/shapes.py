"""How an instance of a class comes apart into plain state and together again, exactly. Nothing about bytes in here.

State is put back as it was: no validator, converter, `__init__` or `__post_init__` runs, for they ran when the value
came in. Fields that the class gained since then get their defaults, fields that it lost are left out; a value that no
longer fits its annotation raises PayloadError, which names the field.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum, Flag
from functools import cached_property, lru_cache
from typing import Any, Protocol, cast
from zlib import crc32

from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError, PydanticUndefined, ValidationError

from romancy_nats.core.conformity import Check, Conformity, Misfit, Rest
from romancy_nats.errors import PayloadError

FITTING = 0
"""Stands for the definition of a class where all fields fit their annotations: then they are looked at when read."""
_MANY = 1000
_NOTHING_MORE: tuple[list[str], dict[str, object], dict[str, object]] = ([], {}, {})
_ABSENT = object()
Packs = Callable[[object], bool]
"""Whether a value can be packed at all."""


class Shape(Protocol):
    """One class that can be taken apart."""

    cls: type

    def take(self, instance: Any, packs: Packs) -> list[object]:
        """The state of an instance."""
        ...

    def build(self, state: list[Any]) -> object:
        """The instance of a state; raises PayloadError when the state is not one of this class."""
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


class Fields:
    """The fields of one class: whether values fit them, and what those are that a recorded state lacks."""

    def __init__(self, cls: type, annotations: Mapping[str, object]) -> None:
        self._cls = cls
        self.names = tuple(annotations)
        self._known = frozenset(annotations)
        self._left: dict[tuple[type, ...], list[tuple[str, Rest]]] = {}
        # Module prefixes are dropped: the same class may be in __main__ for one process and in a module for another.
        text = ";".join(f"{name}:{annotation!r}" for name, annotation in annotations.items())
        self._definition = crc32(re.sub(r"(\w+\.)+| at 0x\w+", "", text).encode()) or 1

    def definition(self, values: Mapping[str, object]) -> int:
        """What is recorded beside the values: nothing of the class when they fit, else which class it was.

        `model_construct`, an assignment and a plain dataclass keep what does not fit; it is kept as long as the class
        stays the same.
        """
        if len(values) < len(self.names):
            return self._definition
        return FITTING if self._misfit(values) is None else self._definition

    def restored(self, definition: object, state: object, default: Callable[[str], object]) -> dict[str, Any]:
        """The values by name; raises PayloadError. `default` gives that of a field that the class gained."""
        if not isinstance(state, dict):
            raise PayloadError(f"{self._cls.__name__} could not be rebuilt: its fields were not recorded")
        values = cast("dict[str, Any]", state)
        if definition == self._definition:
            return values if self._known.issuperset(values) else self._without_lost(values)
        if tuple(values) != self.names:
            values = self._completed(values, default)
        wrong = self._misfit(values)
        if wrong is not None:
            raise PayloadError(f"{self._cls.__name__}.{wrong[0]}: {wrong[1]}")
        return values

    def _completed(self, values: dict[str, Any], default: Callable[[str], object]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in self.names:
            value = values[name] if name in values else default(name)
            if value is not _ABSENT:
                found[name] = value
        return found

    def _misfit(self, values: Mapping[str, object]) -> Misfit:
        """The first value that does not fit. Which checks are left once the classes are known is worked out once."""
        classes = tuple(map(type, values.values()))
        whole = len(classes) == len(self.names)
        checks = self._left.get(classes) if whole else None
        if checks is None:
            held = dict(zip(values, classes, strict=True))
            checks = [
                (name, check.rest)
                for name, check in self._checks
                if name in held and held[name] not in check.exact
            ]
            if whole and len(self._left) < _MANY:
                self._left[classes] = checks
        for name, rest in checks:
            wrong = rest(values[name])
            if wrong is not None:
                return f"{name}{wrong[0]}", wrong[1]
        return None

    def gained(self, name: str) -> PayloadError:
        """The error for a field that a recorded value lacks and that has no default."""
        return PayloadError(
            f"{self._cls.__name__}.{name}: the class has this field now, the recorded value lacks it; "
            "give it a default"
        )

    def _without_lost(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if name in self._known}

    @cached_property
    def _checks(self) -> list[tuple[str, Check]]:
        cls: Any = self._cls
        try:
            found = Conformity(TypeAdapter(cls).core_schema).fields()
        except (PydanticUserError, NameError, TypeError):
            return []
        return [(name, check) for name, check in found.items() if check is not None and name in self._known]


class ModelShape:
    """A pydantic model: fields, which of them were set, extras, and the private attributes that can be packed."""

    def __init__(self, cls: type[BaseModel]) -> None:
        self.cls: type[BaseModel] = cls
        self._new = maker(cls)
        self._keeps_extra = cls.model_config.get("extra") == "allow"
        self._has_private = bool(cls.__private_attributes__)

    @cached_property
    def _fields(self) -> Fields:
        return Fields(self.cls, {name: field.annotation for name, field in self.cls.model_fields.items()})

    def take(self, instance: BaseModel, packs: Packs) -> list[object]:
        """Definition and fields; then, if there are any, names not set, extras and private attributes."""
        fields = self._values(instance)
        given = instance.model_fields_set
        unset = [] if given.issuperset(fields) else [name for name in fields if name not in given]
        held = instance.__pydantic_private__ or {}
        private = {name: value for name, value in held.items() if packs(value)}
        state: list[object] = [self._fields.definition(fields), fields]
        if unset or private or instance.model_extra:
            state += [unset, instance.model_extra or {}, private]
        return state

    def build(self, state: list[Any]) -> object:
        """Put back as it was."""
        if len(state) == 2:
            definition, values = state
            unset, extra, private = _NOTHING_MORE
        else:
            definition, values, unset, extra, private = state
        fields = self._fields.restored(definition, values, self._default)
        given = set(fields) if fields is values else fields.keys() & values.keys()
        model = self._new()
        put = object.__setattr__
        put(model, "__dict__", fields)
        put(
            model,
            "__pydantic_fields_set__",
            given.difference(unset).union(extra) if len(state) > 2 else given,
        )
        put(model, "__pydantic_extra__", extra if self._keeps_extra else None)
        put(model, "__pydantic_private__", self._private(private) if self._has_private else None)
        return model

    def plain(self, instance: BaseModel) -> object:
        """A dict by field name."""
        fields = self._values(instance)
        return (
            fields["root"] if self.cls.__pydantic_root_model__ else {**fields, **(instance.model_extra or {})}
        )

    def _values(self, instance: BaseModel) -> dict[str, object]:
        held = cast("dict[str, object]", instance.__dict__)
        names = self._fields.names
        return held if tuple(held) == names else {name: held[name] for name in names if name in held}

    def _default(self, name: str) -> object:
        field = self.cls.model_fields[name]
        if field.is_required():
            raise self._fields.gained(name)
        return field.get_default(call_default_factory=True, validated_data={})

    def _private(self, recorded: Mapping[str, object]) -> dict[str, object]:
        attributes = self.cls.__private_attributes__
        missing = {name: item.get_default() for name, item in attributes.items() if name not in recorded}
        return {k: v for k, v in missing.items() if v is not PydanticUndefined} | {
            name: value for name, value in recorded.items() if name in attributes
        }


class DataclassShape:
    """A dataclass, the standard library's or pydantic's: its fields, and what it keeps beside them."""

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self._by_name = {field.name: field for field in dataclasses.fields(cls)}
        self._fields = Fields(cls, {name: field.type for name, field in self._by_name.items()})
        slots = tuple(slots_of(cls))
        self._slots = tuple(name for name in slots if name not in self._by_name)
        # neither slots nor properties: what an instance holds is its __dict__
        self._in_dict = not slots and not any(
            hasattr(getattr(cls, n, None), "__set__") for n in self._by_name
        )
        self._new = maker(cls)

    def take(self, instance: Any, packs: Packs) -> list[object]:
        """Definition and fields; then the attributes that are no fields, if there are any."""
        if self._in_dict and tuple(instance.__dict__) == self._fields.names:
            return [self._fields.definition(instance.__dict__), instance.__dict__]
        fields = self._values(instance)
        more = self._more(instance)
        for name, value in more.items():
            if not packs(value):
                raise PayloadError(
                    f"{self.cls.__name__}.{name}: a value of type {type(value).__name__} cannot be stored, and "
                    "neither __init__ nor __post_init__ runs again to make it; make it a cached_property"
                )
        definition = self._fields.definition(fields)
        return [definition, fields, more] if more else [definition, fields]

    def build(self, state: list[Any]) -> object:
        """Put back as it was."""
        fields = self._fields.restored(state[0], state[1], self._default)
        instance = self._new()
        if self._in_dict:
            instance.__dict__.update(fields)
        else:
            for name, value in fields.items():
                object.__setattr__(instance, name, value)
        for name, value in state[2].items() if len(state) > 2 else ():
            object.__setattr__(instance, name, value)
        return instance

    def plain(self, instance: Any) -> object:
        """A dict by field name."""
        return self._values(instance)

    def _values(self, instance: object) -> dict[str, object]:
        found: dict[str, object] = {}
        for name in self._by_name:
            value = getattr(instance, name, _ABSENT)
            if value is not _ABSENT:
                found[name] = value
        return found

    def _more(self, instance: object) -> dict[str, object]:
        held: dict[str, object] = getattr(instance, "__dict__", {})
        cls: Any = self.cls
        found = {
            name: value
            for name, value in held.items()
            if name not in self._by_name
            and not isinstance(getattr(cls, name, None), functools.cached_property)
        }
        return found | {name: getattr(instance, name) for name in self._slots if hasattr(instance, name)}

    def _default(self, name: str) -> object:
        field = self._by_name[name]
        if field.default is not dataclasses.MISSING:
            return field.default
        if field.default_factory is not dataclasses.MISSING:
            return field.default_factory()
        if field.init:
            raise self._fields.gained(name)
        return _ABSENT


class EnumShape:
    """An enum member by name; a combination of flags, which has none of its own, by value."""

    def __init__(self, cls: type[Enum]) -> None:
        self.cls: type[Enum] = cls

    def take(self, instance: Enum, packs: Packs) -> list[object]:
        """The name, or nothing and the value."""
        if isinstance(instance, Flag) or instance.name not in self.cls.__members__:
            return [None, instance.value]
        return [instance.name]

    def build(self, state: list[Any]) -> object:
        """The member."""
        if state[0] is None:
            return self.cls(state[1])
        member = self.cls.__members__.get(state[0])
        if member is None:
            raise PayloadError(f"{self.cls.__name__} has no member {state[0]!r:.80}, which was recorded")
        return member

    def plain(self, instance: Enum) -> object:
        """The value."""
        return instance.value


class NamedTupleShape:
    """A named tuple: its values in order."""

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self._names: tuple[str, ...] = cast("Any", cls)._fields
        self._defaults: dict[str, object] = getattr(cls, "_field_defaults", {})

    def take(self, instance: tuple[object, ...], packs: Packs) -> list[object]:
        """The values."""
        return list(instance)

    def build(self, state: list[Any]) -> object:
        """Put back as it was; fields added at the end since then get their defaults, fields lost there are left out."""
        cls: Any = self.cls
        values = state[: len(self._names)]
        for name in self._names[len(values) :]:
            if name not in self._defaults:
                raise PayloadError(
                    f"{cls.__name__}.{name}: the class has this field now, the recorded value lacks it; "
                    "give it a default"
                )
            values.append(self._defaults[name])
        made: object = _tuple.__new__(cls, values)
        return made

    def plain(self, instance: tuple[object, ...]) -> object:
        """A plain tuple."""
        return tuple(instance)


class ForeignShape:
    """A class that only pydantic knows how to read (`__get_pydantic_core_schema__`, or validators in `Annotated`).

    Its own state when that is plain data; else what pydantic serialises, which is the one case in which pydantic
    reads a value again.
    """

    def __init__(self, cls: type, annotation: object) -> None:
        self.cls = cls
        self.annotation = annotation
        self._slots = tuple(slots_of(cls))
        self._base = _plain_base(cls)

    def take(self, instance: Any, packs: Packs) -> list[object]:
        """The attributes, and what it is as an instance of a built-in class; or bytes of JSON."""
        if self._base is not None:
            held: dict[str, object] = dict(getattr(instance, "__dict__", {}))
            held |= {name: getattr(instance, name) for name in self._slots if hasattr(instance, name)}
            value = None if self._base is object else _as_base(self._base, instance)
            if _is_plain(held) and _is_plain(value):
                return [held, value]
        return [self._text(instance)]

    def build(self, state: list[Any]) -> object:
        """Put back as it was."""
        if len(state) == 1:
            return self._adapter.validate_json(state[0])
        held, value = state
        base: Any = self._base
        if base is None:
            raise PayloadError(f"{self.cls.__name__} could not be rebuilt: it is another kind of class now")
        cls: Any = self.cls
        instance = object.__new__(cls) if base is object else base.__new__(cls, value)
        fill = _FILL.get(base)
        if fill is not None:
            fill(instance, value)
        for name, item in held.items():
            object.__setattr__(instance, name, item)
        return instance

    def plain(self, instance: Any) -> object:
        """What pydantic serialises."""
        return self._adapter.dump_python(instance, mode="json")

    def _text(self, instance: Any) -> bytes:
        try:
            text = self._adapter.dump_json(instance, round_trip=True, warnings="error")
            self._adapter.validate_json(text)
        except (
            PydanticSerializationError,
            ValidationError,
            PydanticUserError,
            ValueError,
            TypeError,
        ) as error:
            name = f"{self.cls.__module__}.{self.cls.__qualname__}"
            raise PayloadError(
                f"a value of type {name} cannot be stored: pydantic cannot serialise it and read it again"
            ) from error
        return text

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        annotation: Any = self.annotation
        try:
            return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
        except PydanticUserError as error:
            if error.code != "type-adapter-config-unused":
                raise
            return TypeAdapter(annotation)


def maker(cls: type) -> Callable[[], Any]:
    """What makes an empty instance of a class without calling code of the user."""
    made: Any = next((base for base in cls.__mro__ if not base.__flags__ & _HEAP_TYPE), object)
    return functools.partial(made.__new__, cls)


def slots_of(cls: type) -> Iterator[str]:
    """The names of all slots of a class written in Python."""
    for base in cls.__mro__:
        if base.__flags__ & _HEAP_TYPE and not base.__module__.startswith("pydantic."):
            slots = vars(base).get("__slots__", ())
            names: Iterable[str] = (slots,) if isinstance(slots, str) else tuple(slots)
            for name in names:
                if name not in ("__dict__", "__weakref__"):
                    yield f"_{base.__name__.lstrip('_')}{name}" if _is_mangled(name) else name


_HEAP_TYPE = 1 << 9
_BASES: tuple[type, ...] = (str, int, float, bytes, dict, list, tuple, set, frozenset)
_list: Any = list
_set: Any = set
_dict: Any = dict
_FILL: dict[Any, Callable[[Any, Any], object]] = {
    list: _list.extend,
    set: _set.update,
    dict: _dict.update,
}
_tuple: Any = tuple
_PLAIN = frozenset({type(None), bool, *_BASES})


def _plain_base(cls: type) -> type | None:
    """The built-in class that instances are made of: `object` or one whose value can be taken, else None."""
    base = next((base for base in cls.__mro__ if not base.__flags__ & _HEAP_TYPE), object)
    written_in_python = all(map(_in_python, cls.__mro__[: cls.__mro__.index(base)]))
    return base if written_in_python and (base is object or base in _BASES) else None


def _in_python(cls: type) -> bool:
    new = vars(cls).get("__new__")
    new = getattr(new, "__func__", new)
    return (new is None or hasattr(new, "__code__")) and ("__slots__" in vars(cls) or cls.__dictoffset__ != 0)


def _as_base(base: Any, instance: Any) -> object:
    if base is str:
        return str.__str__(instance)
    if base is int:
        return int.__index__(instance)
    if base is float:
        return float.__float__(instance)
    return bytes(memoryview(instance)) if base is bytes else base(instance)


def _is_plain(value: Any) -> bool:
    cls = cast("type[object]", type(value))
    if cls not in _PLAIN:
        return False
    if cls is dict:
        return all(_is_plain(key) and _is_plain(item) for key, item in value.items())
    return cls not in (list, tuple, set, frozenset) or all(map(_is_plain, value))


def _is_mangled(name: str) -> bool:
    return name.startswith("__") and not name.endswith("__")
