"""The state of an exception, taken out and put back: `args`, attributes, slots. No class is chosen here.

A value is recorded as `[PLAIN, value]`, an exception as `[ERROR, failure]`, several as `[ERRORS, [failure…]]`, and the
`__cause__` itself as `[CAUSE]`.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, cast

from romancy_nats.core.class_registry import ClassRegistry
from romancy_nats.core.error_text import args_of, cause_of
from romancy_nats.core.msgpack_types import Decoder, Encoder
from romancy_nats.core.payload import ValueCodec
from romancy_nats.errors import PayloadError

PLAIN, ERROR, ERRORS, CAUSE = range(4)
MAX_BYTES = 64 * 1024
MAX_GROUP = 20

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


Nest = Callable[[BaseException], Recorded | None]
Entry = list[Any]


def packed(error: BaseException, nest: Nest) -> ExceptionState:
    """The state of an exception. An argument that cannot be stored becomes its text, an attribute is left out."""
    encoder = Encoder(_registry(type(error)))

    def small(entry: Entry | None) -> bool:
        return entry is not None and encoder.packs(entry) and len(encoder.pack(entry)) <= MAX_BYTES

    args: list[Entry] = []
    for value in args_of(error):
        entry = _entry(value, error, nest)
        args.append(cast("Entry", entry) if small(entry) else [PLAIN, _text(value)])
    found = {name: _entry(value, error, nest) for name, value in _attributes(error)}
    attributes = {name: entry for name, entry in found.items() if small(entry)}
    return ExceptionState(encoder.pack(args), encoder.pack(attributes))


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
        BaseException.__setattr__(error, "args", args)
        for name, item in attributes.items():
            BaseException.__setattr__(error, name, item)
    except (TypeError, ValueError, AttributeError, LookupError, RecursionError) as problem:
        raise PayloadError(f"{cls.__name__} could not be rebuilt: {problem}") from problem
    return error


def _made(cls: type[Exception], args: tuple[object, ...]) -> Exception:
    base = cast("Any", next(parent for parent in cls.__mro__ if parent.__module__ == "builtins"))
    error = cast("Exception", base.__new__(cls, *args))
    # what C code keeps is filled by its own __init__; one written in Python is not ours to call
    base.__init__(error, *args)
    return error


def _entry(value: object, error: BaseException, nest: Nest) -> Entry | None:
    if isinstance(value, BaseException):
        if value is cause_of(error):
            return [CAUSE]
        failure = nest(value)
        return None if failure is None else [ERROR, failure.encode()]
    if isinstance(value, (list, tuple)) and value:
        items = cast("Sequence[object]", value)[:MAX_GROUP]
        if all(isinstance(item, BaseException) for item in items):
            failures = [nest(cast("BaseException", item)) for item in items]
            return (
                None
                if None in failures
                else [ERRORS, [cast("Recorded", failure).encode() for failure in failures]]
            )
    return [PLAIN, value]


def _attributes(error: BaseException) -> Iterator[tuple[str, object]]:
    yield from vars(error).items()
    for cls in type(error).__mro__:
        slots = vars(cls).get("__slots__", ()) if cls.__module__ != "builtins" else ()
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
        if parent.__module__ == "builtins":
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
    except (NameError, TypeError, AttributeError):
        return []


def _text(value: object) -> str:
    try:
        return str(value)[: MAX_BYTES // 16]
    except Exception:  # noqa: BLE001 - `__str__` of a user's class may raise anything, and the failure counts
        return f"<{type(value).__name__}>"
