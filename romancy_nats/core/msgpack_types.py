"""Python values <-> msgpack bytes, of any type that can be told apart by itself. Annotations are not looked at here.

Scalars are ext types. A container or class instance is a map of one entry whose key is an empty ext, the marker, so
that neither packing nor unpacking recurses through Python and no dict of a user can be mistaken for it.
"""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgpack
from msgpack import ExtType

from romancy_nats.core.class_registry import ClassRegistry
from romancy_nats.core.scalars import FROM_EXT, KIN, TO_EXT
from romancy_nats.core.shapes import shape_of
from romancy_nats.errors import PayloadError


@dataclass(frozen=True, slots=True)
class Marker:
    """The key of a map that stands for something else."""

    code: int


@dataclass(frozen=True, slots=True)
class JsonText:
    """A value as pydantic serialised it: read, no longer written."""

    text: bytes


class UnencodableError(PayloadError):
    """Raised inside this package when a value has no form on the wire; the codec finds out where it sits."""


TUPLE, SET, FROZENSET, DEQUE, ORDERED, COUNTER, DEFAULT, OBJECT, JSON = range(16, 25)
_KEYS = {code: ExtType(code, b"") for code in range(16, 25)}
_MARKERS = {code: Marker(code) for code in _KEYS}
EXT_CODES = frozenset((*FROM_EXT, *_KEYS))
_FACTORIES: dict[str, Callable[[], object] | None] = {
    "": None, "list": list, "dict": dict, "set": set, "int": int, "float": float, "str": str, "bool": bool,
    "tuple": tuple, "frozenset": frozenset, "bytes": bytes, "deque": deque, "Counter": Counter,
    "OrderedDict": OrderedDict,
}  # fmt: skip
_NATIVE = frozenset({type(None), bool, int, float, str, bytes, list, dict, ExtType})
_FACTORY_NAMES = {factory: name for name, factory in _FACTORIES.items()}
_BAD_DATA = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    struct.error,
)

pack_scalar: Callable[[object], bytes] = msgpack.Packer(
    strict_types=True, unicode_errors="surrogatepass"
).pack
"""For None, bool, int of 64 bits, float, str and bytes only: those allocate nothing that could call back into it."""


class Encoder:
    """Packs values; instances of the registry's classes keep their class, others become plain containers."""

    def __init__(self, registry: ClassRegistry) -> None:
        self._registry = registry
        self._exactly = False
        self._containers: dict[type, Callable[[Any], dict[ExtType, object]]] = {
            tuple: lambda value: {_KEYS[TUPLE]: list(value)},
            set: lambda value: {_KEYS[SET]: self._sorted(value)},
            frozenset: lambda value: {_KEYS[FROZENSET]: self._sorted(value)},
            deque: lambda value: {_KEYS[DEQUE]: [value.maxlen, list(value)]},
            OrderedDict: lambda value: {_KEYS[ORDERED]: dict(value)},
            Counter: lambda value: {_KEYS[COUNTER]: dict(value)},
            defaultdict: lambda value: {_KEYS[DEFAULT]: [_factory_name(value), dict(value)]},
        }

    def pack(self, value: object) -> bytes:
        """The bytes of a value; raises UnencodableError."""
        try:
            packer = msgpack.Packer(default=self._default, strict_types=True, unicode_errors="surrogatepass")
            return packer.pack(value)
        except PayloadError:
            raise
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise UnencodableError(
                f"it is nested too deeply, refers to itself, or is too large ({error})"
            ) from error
        except Exception as error:  # attributes and items of the user's classes may raise anything
            raise UnencodableError(f"reading it raised {type(error).__name__}") from error

    def packs(self, value: object) -> bool:
        """Whether a value can be packed."""
        try:
            self.pack(value)
        except PayloadError:
            return False
        return True

    def keeps(self, value: object) -> bool:
        """Whether a value can be packed so that it comes back as what it is, not as a plain container."""
        before, self._exactly = self._exactly, True
        try:
            return self.packs(value)
        finally:
            self._exactly = before

    def _default(self, value: Any) -> object:
        cls = _class(value)
        scalar = TO_EXT.get(cls)
        if scalar is not None:
            return scalar(value)
        container = self._containers.get(cls)
        if container is not None:
            return container(value)
        entry = self._registry.entry(cls)
        if entry is not None:
            name, shape = entry
            return {_KEYS[OBJECT]: [name, *shape.take(value, self.keeps)]}
        unnamed = shape_of(cls)
        if unnamed is not None and self._exactly:
            raise UnencodableError(f"the annotation does not name {cls.__qualname__}")
        plain = _kin(value) if unnamed is None else unnamed.plain(value)
        return plain if type(plain) in _NATIVE else self._default(plain)

    def _sorted(self, values: Iterable[Any]) -> list[object]:
        items = list(values)
        kinds: set[type] = {type(item) for item in items}
        if kinds == {str} or kinds == {int}:
            return sorted(items)
        return sorted(items, key=self.pack)


class Decoder:
    """Unpacks one value. Instances of the registry's classes are put together from their state."""

    __slots__ = ("_open", "_registry")

    def __init__(self, registry: ClassRegistry) -> None:
        self._registry = registry
        self._open = 0

    def unpack(self, data: bytes) -> Any:
        """The value of the bytes; raises PayloadError."""
        if data in _SMALL:
            return _SMALL[data]
        try:
            value = msgpack.unpackb(
                data,
                strict_map_key=False,
                unicode_errors="surrogatepass",
                object_hook=self._map,
                ext_hook=self._ext,
            )
        except PayloadError:
            raise
        except _BAD_DATA as error:
            raise PayloadError(f"the bytes cannot be read: {type(error).__name__}") from error
        if self._open:
            raise PayloadError("the bytes cannot be read: a type marker is out of place")
        return value

    def _ext(self, code: int, data: bytes) -> object:
        marker = _MARKERS.get(code)
        if marker is not None and not data:
            self._open += 1
            return marker
        scalar = FROM_EXT.get(code)
        if scalar is None:
            raise PayloadError(f"the bytes cannot be read: ext code {code} is unknown")
        return scalar(data)

    def _map(self, found: dict[Any, Any]) -> object:
        if len(found) != 1:
            return found
        ((key, body),) = found.items()
        if type(key) is not Marker:
            return found
        self._open -= 1
        if key.code == OBJECT:
            return self._instance(body)
        return _BUILDERS[key.code](body)

    def _instance(self, body: list[Any]) -> object:
        shape = self._registry.shape(body[0])
        try:
            return shape.build(body[1:])
        except PayloadError:
            raise
        except Exception as error:  # bytes from outside may name anything; default factories are the user's
            raise PayloadError(
                f"{shape.cls.__name__} could not be rebuilt from its state: {error}"
            ) from error


_SMALL: dict[bytes, object] = {msgpack.packb(value): value for value in (None, True, False, *range(128))}

_BUILDERS: dict[int, Callable[[Any], object]] = {
    TUPLE: tuple,
    SET: set,
    FROZENSET: frozenset,
    DEQUE: lambda body: deque(body[1], body[0]),
    ORDERED: OrderedDict,
    COUNTER: Counter,
    DEFAULT: lambda body: defaultdict(_FACTORIES[body[0]], body[1]),
    JSON: JsonText,
}


def _class(value: object) -> type:
    return type(value)


def _factory_name(value: defaultdict[Any, Any]) -> str:
    name = _FACTORY_NAMES.get(value.default_factory)
    if name is None:
        raise UnencodableError("a defaultdict whose factory is not a built-in type cannot be stored")
    return name


def _kin(value: Any) -> object:
    """A subclass of a plain type as that type: where it matters the annotation builds the subclass again."""
    cls = _class(value)
    if not hasattr(cls, "__get_pydantic_core_schema__"):
        for base, exact in _EXACT.items():
            if isinstance(value, base):
                return exact(value)
        for base in KIN:
            if isinstance(value, base):
                return TO_EXT[base](value)
    raise UnencodableError(f"a value of type {cls.__module__}.{cls.__qualname__} cannot be stored")


_EXACT: dict[type, Callable[[Any], object]] = {
    str: lambda value: str.__str__(value),
    int: lambda value: int.__index__(value),
    float: lambda value: float.__float__(value),
    bytes: lambda value: bytes(memoryview(value)),
    dict: dict,
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
}
