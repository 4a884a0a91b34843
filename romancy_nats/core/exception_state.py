"""The state of an exception, taken out and put back: `args`, attributes, slots. No class is chosen here.

A value is recorded as `[PLAIN, value]`, an exception as `[ERROR, failure]`, several as `[ERRORS, [failure…]]`, and the
`__cause__` itself as `[CAUSE]`.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple, Protocol, cast

from romancy_nats.core.class_registry import ClassRegistry
from romancy_nats.core.error_text import args_of, cause_of, class_module, class_name, shown
from romancy_nats.core.limits import shortened
from romancy_nats.core.msgpack_types import Decoder, Encoder
from romancy_nats.core.payload import ValueCodec
from romancy_nats.errors import PayloadError

PLAIN, ERROR, ERRORS, CAUSE = range(4)
MAX_GROUP = 20
MAX_ARGS = 100
_SMALLEST_FAILURE = 400
_MOST_VALUES = 50_000
"""More than that are more bytes than the state of an exception may have."""
_SMALLEST_VALUE = 60
"""Bytes below which room is not divided any further."""
_MOST_NAMED = 20

_IN_C: tuple[tuple[type[Exception], tuple[str, ...]], ...] = (
    (OSError, ("errno", "strerror", "filename", "filename2")),
    (ImportError, ("name", "path")),
    (NameError, ("name",)),
    (AttributeError, ("name",)),
)


class Recorded(Protocol):
    """A nested failure."""

    def encode(self) -> bytes:
        """Its bytes."""
        ...


class ExceptionState(NamedTuple):
    """Two payloads."""

    args: bytes
    attributes: bytes


Nest = Callable[[BaseException, int], Recorded]
"""The failure of an exception in about so many bytes."""
Entry = list[Any]


def packed(error: BaseException, message: str, nest: Nest, most: int) -> tuple[ExceptionState, list[str]]:
    """The state of an exception in about `most` bytes, and the names of what was left out of it.

    An argument that cannot be stored, or is too large, becomes its text or its beginning, so that the class can be
    made from as many arguments; an attribute is left out.
    """
    encoder = Encoder(_registry(type(error)))
    try:
        args, cut = _packed_args(encoder, error, nest, most // 2)
        attributes, lacking = _packed_attributes(encoder, error, nest, most // 2)
        return ExceptionState(encoder.pack(args), encoder.pack(attributes)), cut + lacking
    except BaseException:  # noqa: BLE001 - whatever a class of a user does when it is looked at: the failure counts
        return ExceptionState(encoder.pack([[PLAIN, message]]), encoder.pack({})), ["its state"]


def _packed_args(
    encoder: Encoder, error: BaseException, nest: Nest, most: int
) -> tuple[list[Entry], list[str]]:
    given = args_of(error)
    if len(given) <= MAX_ARGS and _fits(encoder, [[PLAIN, value] for value in given], most):
        return [[PLAIN, value] for value in given], []
    kept = given[: max(1, min(MAX_ARGS, most // _SMALLEST_VALUE))]
    args: list[Entry] = []
    cut: list[str] = []
    left = most
    for number, value in enumerate(kept):
        room = max(_SMALLEST_VALUE, left // (len(kept) - number))
        entry = _entry(value, error, nest, room)
        size = _size(encoder, entry)
        if size is None or (entry[0] == PLAIN and size > room):
            entry = [PLAIN, _beginning(value, room)]
            size = _size(encoder, entry) or 0
            cut.append(f"argument {number + 1}")
        args.append(entry)
        left = max(0, left - size)
    if len(given) > len(kept):
        cut.append(f"{len(given) - len(kept):,} more arguments")
    return args, cut[-_MOST_NAMED:]


def _packed_attributes(
    encoder: Encoder, error: BaseException, nest: Nest, most: int
) -> tuple[dict[str, Entry], list[str]]:
    """As many as fit, the smallest first: one that is large takes the place of no other."""
    found = dict(_attributes(error))
    entries = {
        name: _entry(value, error, nest, most // max(1, min(len(found), 4))) for name, value in found.items()
    }
    sizes = {name: _size(encoder, entry) for name, entry in entries.items()}
    kept: set[str] = set()
    left = most
    for name in sorted(found, key=lambda name: sizes[name] or 0):
        size = sizes[name]
        if size is None:
            continue
        left -= size + len(name) + 4
        if left < 0:
            break
        kept.add(name)
    # What cannot be stored was never promised; what is too large is missed.
    lacking = [
        f"attribute {name} ({size:,} bytes)"
        for name, size in sizes.items()
        if name not in kept and size is not None
    ]
    return {name: entry for name, entry in entries.items() if name in kept}, lacking[:_MOST_NAMED]


def _size(encoder: Encoder, entry: object) -> int | None:
    """The bytes of an entry, None when it cannot be stored."""
    least = _values_in(entry, _MOST_VALUES)
    if least > _MOST_VALUES:
        # Packing millions of values takes seconds of the loop, only to find that they are too many.
        return least
    try:
        return len(encoder.pack(entry)) if encoder.packs(entry) else None
    except Exception:  # noqa: BLE001 - encoding runs code of the user's classes, and the failure counts
        return None


def _values_in(value: object, most: int) -> int:
    """How many values there are in nested containers, counted a little further than `most` at the furthest."""
    found = 0
    left = [value]
    while left and found <= most:
        item = left.pop()
        found += 1
        if type(item) in (list, tuple, set, frozenset):
            left += islice(cast("Iterable[object]", item), most)
        elif type(item) is dict:
            pairs = cast("dict[object, object]", item)
            left += islice(pairs, most)
            left += islice(pairs.values(), most)
    return found


def _fits(encoder: Encoder, entry: object, most: int) -> bool:
    size = _size(encoder, entry)
    return size is not None and size <= most


def _beginning(value: object, most: int) -> object:
    """As much of a value as fits, of the same type where that can be cut, else as text."""
    if type(value) is str:
        return shortened(value, most // 2)
    if type(value) is bytes:
        return value[: most // 2]
    if type(value) in (int, float, bool, type(None)):
        return value if not isinstance(value, int) or value.bit_length() <= 64 else 0
    if type(value) in (list, tuple):
        items = cast("Sequence[object]", value)[:MAX_GROUP]
        parts = [_beginning(item, most // max(1, len(items))) for item in items]
        return parts if type(value) is list else tuple(parts)
    return _text(value, most // 2)


def unpacked(
    cls: type[Exception],
    state: ExceptionState,
    rebuild: Callable[[bytes], Exception],
    cause: Exception | None,
) -> Exception:
    """The exception of a state; raises PayloadError when its class refuses it."""

    def value(entry: Entry) -> object:
        if entry[0] == CAUSE:
            return cause
        if entry[0] == ERROR:
            return rebuild(entry[1])
        return [rebuild(data) for data in entry[1]] if entry[0] == ERRORS else entry[1]

    registry = _registry(cls)
    try:
        args = tuple(value(entry) for entry in Decoder(registry).unpack(state.args))
        attributes = {
            name: value(entry) for name, entry in Decoder(registry).unpack(state.attributes).items()
        }
        error = _made(cls, args)
        BaseException.__dict__["args"].__set__(error, args)
        for name, item in attributes.items():
            BaseException.__setattr__(error, name, item)
    except BaseException as problem:
        # Whatever a class of a user does when it is filled: its error comes back as an ActivityError.
        raise PayloadError(f"{class_name(cls)} could not be rebuilt: {shown(problem)}") from problem
    return error


def _made(cls: type[Exception], args: tuple[object, ...]) -> Exception:
    base = cast("Any", next(parent for parent in cls.__mro__ if class_module(parent) == "builtins"))
    error = cast("Exception", base.__new__(cls, *args))
    # what C code keeps is filled by its own __init__; one written in Python is not ours to call
    base.__init__(error, *args)
    return error


def _entry(value: object, error: BaseException, nest: Nest, room: int) -> Entry:
    if isinstance(value, BaseException):
        return [CAUSE] if value is cause_of(error) else [ERROR, nest(value, room).encode()]
    if type(value) in (list, tuple) and value:
        items = cast("Sequence[object]", value)
        if all(isinstance(item, BaseException) for item in items):
            most = max(1, min(len(items), MAX_GROUP, room // _SMALLEST_FAILURE))
            failures = [nest(cast("BaseException", item), room // most) for item in items[:most]]
            return [ERRORS, [failure.encode() for failure in failures]]
    return [PLAIN, value]


def _attributes(error: BaseException) -> Iterator[tuple[str, object]]:
    yield from vars(error).items()
    for cls in type(error).__mro__:
        slots = vars(cls).get("__slots__", ()) if class_module(cls) != "builtins" else ()
        for name in (slots,) if isinstance(slots, str) else cast("Sequence[str]", slots):
            if hasattr(error, name):
                yield name, getattr(error, name)
    for base, names in _IN_C:
        if isinstance(error, base):
            yield from (
                (name, getattr(error, name)) for name in names if getattr(error, name, None) is not None
            )


def _registry(cls: type[BaseException]) -> ClassRegistry:
    """The classes that an exception names in its annotations: instances in its state come back as themselves."""
    found: Any = cls
    return _registry_of(found)


@lru_cache(maxsize=256)
def _registry_of(cls: type[Any]) -> ClassRegistry:
    registry = ClassRegistry()
    parents: tuple[type, ...] = cls.__mro__
    for parent in parents:
        if class_module(parent) == "builtins":
            continue
        for owner in (parent, vars(parent).get("__init__")):
            for hint in _hints(owner):
                try:
                    ValueCodec[Any](hint, registry=registry)
                except PayloadError:
                    continue
    return registry


def _hints(owner: object) -> list[object]:
    try:
        return list(typing.get_type_hints(owner, include_extras=True).values()) if owner is not None else []
    except Exception:  # noqa: BLE001 - annotations are code of a user, and a metaclass may raise anything
        return []


def _text(value: object, most: int) -> str:
    try:
        return shortened(str(value), most)
    except BaseException:  # noqa: BLE001 - `__str__` of a user's class may raise anything, and the failure counts
        return f"<{class_name(type(value))}>"
