"""Exceptions <-> data, never by pickle: what is recorded of an error, and which classes may come back as themselves.

Those are the exceptions of builtins, this package's (with every subclass of TerminalError) and the ones registered
by `@activity(errors=[…])`. No constructor of a user is ever called: `args` and attributes are put back as they were.
"""

from __future__ import annotations

import builtins
import linecache
import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from traceback import FrameSummary, StackSummary, walk_tb
from types import FrameType
from typing import Any, NamedTuple, cast

import msgpack

from romancy_nats.core.error_text import (
    cause_of,
    class_key,
    class_module,
    class_qualname,
    error_text,
    is_one_of,
    traceback_of,
)
from romancy_nats.core.exception_state import ExceptionState, packed, unpacked
from romancy_nats.core.limits import shortened
from romancy_nats.errors import ActivityError, PayloadError, RomancyError, TerminalError

MAX_MESSAGE = 4_000
"""Bytes of the text of an error, in UTF-8; so are the others."""
MAX_TRACEBACK = 8_000
MAX_DEPTH = 5
MAX_BYTES = 128 * 1024
"""Bytes of a whole failure, its causes included."""

_FIRST_FRAMES, _LAST_FRAMES = 10, 40
_MAX_NAME = 500
_MAX_NOTES = 20
_SMALLEST = 400
"""Bytes that a class and a few words take: so much every nested failure may have."""

_log = logging.getLogger("romancy.failure")

Registered = Mapping[str, type[BaseException]]


class Failure(NamedTuple):
    """What is known of an exception. `args` and `attributes` are payloads, None when the class cannot come back."""

    type: str
    message: str
    args: bytes | None = None
    attributes: bytes | None = None
    traceback: str = ""
    cause: Failure | None = None
    retryable: bool = True

    @property
    def error_type(self) -> str:
        """The name of the class, without its module."""
        return self.type.rpartition(".")[2]

    @staticmethod
    def of(
        error: BaseException,
        registered: Registered | None = None,
        *,
        retryable: bool | None = None,
        depth: int = MAX_DEPTH,
        most: int = MAX_BYTES,
        quiet: bool = False,
    ) -> Failure:
        """The failure of an exception, in at most `most` bytes. Never raises, whatever the exception does.

        Its class and a shortened message are always there. What does not fit of its arguments, attributes, causes and
        traceback is left out, and named in the log unless `quiet`. With `registered`, state is kept only of classes
        that can come back.
        """
        cls = type(error)
        message = _message(error, min(MAX_MESSAGE, most // 8))
        args = attributes = None
        left_out: Sequence[str] = ()
        if is_one_of(error, (Exception,)) and (registered is None or _class(_key_of(cls), registered) is cls):
            (args, attributes), left_out = packed(
                error, message, lambda inner, room: _within(inner, registered, depth, room), most * 3 // 8
            )
        if left_out and not quiet:
            _log.warning(
                "the record of %s lacks what is too large or cannot be stored: %s",
                _key_of(cls),
                ", ".join(left_out),
            )
        cause = cause_of(error)
        return Failure(
            type=_key_of(cls),
            message=message,
            args=args,
            attributes=attributes,
            traceback=_traceback(error, message, min(MAX_TRACEBACK, most // 8)),
            cause=None if cause is None else _nested(cause, registered, depth, most * 3 // 8),
            retryable=not is_one_of(error, (TerminalError,)) if retryable is None else retryable,
        )

    def rebuild(self, registered: Registered | None = None) -> Exception:
        """The exception again, of its own class when that may come back, else an ActivityError; with its cause."""
        cause = None if self.cause is None else self.cause.rebuild(registered)
        error = self._itself(registered or {}, cause)
        if error is None:
            error = ActivityError(self.message, self.error_type, self.traceback)
        if cause is not None:
            error.__cause__ = cause
        return error

    def encode(self) -> bytes:
        """The bytes of a failure."""
        return msgpack.packb(self.plain(), unicode_errors="surrogatepass")

    @staticmethod
    def decode(data: bytes) -> Failure:
        """The failure of the bytes; raises PayloadError."""
        try:
            return _from_fields(msgpack.unpackb(data, unicode_errors="surrogatepass"), MAX_DEPTH)
        except (ValueError, TypeError) as error:
            raise PayloadError("the record of a failure cannot be read") from error

    def plain(self) -> list[object]:
        """The fields, for msgpack."""
        return [*self[:5], None if self.cause is None else self.cause.plain(), self.retryable]

    def _itself(self, registered: Registered, cause: Exception | None) -> Exception | None:
        cls = _class(self.type, registered)
        if cls is None or self.args is None:
            return None

        def rebuilt(data: bytes) -> Exception:
            return Failure.decode(data).rebuild(registered)

        try:
            return unpacked(cls, ExceptionState(self.args, self.attributes or b"\x80"), rebuilt, cause)
        except PayloadError:
            return None


def _nested(error: BaseException, registered: Registered | None, depth: int, room: int) -> Failure | None:
    if depth <= 0:
        return None
    if room < _SMALLEST:
        return _bare(error)
    return Failure.of(error, registered, depth=depth - 1, most=room, quiet=True)


def _within(error: BaseException, registered: Registered | None, depth: int, room: int) -> Failure:
    """The failure of an exception that another holds: where there is no room for more, its class and some words."""
    return _nested(error, registered, depth, room) or _bare(error)


def _key_of(cls: type) -> str:
    return shortened(class_key(cls), _MAX_NAME)


def _bare(error: BaseException) -> Failure:
    message = _message(error, _SMALLEST // 4)
    return Failure(_key_of(type(error)), message, retryable=not is_one_of(error, (TerminalError,)))


def _class(key: str, registered: Registered) -> type[Exception] | None:
    module, _, name = key.rpartition(".")
    found: object = getattr(builtins, name, None) if module == "builtins" else registered.get(key)
    if found is None:
        found = next((cls for cls in _ours(RomancyError) if _key_of(cls) == key), None)
    if found is None:
        found = _moved(key, registered)
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _ours(root: type[RomancyError]) -> Iterator[type[RomancyError]]:
    yield root
    for cls in reversed(type.__subclasses__(root)):
        yield from _ours(cls)


def _moved(key: str, registered: Registered) -> object:
    # a class of the program that was started is in __main__ there, and in its module for every other process
    for cls in (*registered.values(), *_ours(TerminalError)):
        if "__main__" in (class_module(cls), key.partition(".")[0]) and key.endswith(
            f".{class_qualname(cls)}"
        ):
            return cls
    return None


def _message(error: BaseException, most: int) -> str:
    return shortened(error_text(error, most + 1), most)


def _traceback(error: BaseException, message: str, most: int) -> str:
    """Where it was raised, and with which notes. The end counts most, so it is cut at its beginning."""
    try:
        notes = shortened("".join(f"\n{note}" for note in _notes(error)), most // 4)
    except BaseException:  # noqa: BLE001 - notes of a user may be anything, and the failure counts
        notes = ""
    try:
        stack = _stack(error)
    except BaseException:  # noqa: BLE001 - reading source runs the loader of a user's module, and the failure counts
        stack = ""
    name = _key_of(type(error)).removeprefix("builtins.")
    text = f"{stack}{name}: {shortened(message, most // 4)}{notes}\n"
    data = text.encode("utf-8", "backslashreplace")
    return data[-most:].decode("utf-8", "ignore") if len(data) > most else data.decode()


def _stack(error: BaseException) -> str:
    # The default marks the columns, and parses each line for it: three times as slow, on the loop of a worker.
    places = walk_tb(traceback_of(error))
    first = list(islice(places, _FIRST_FRAMES))
    last: deque[tuple[FrameType, int]] = deque(maxlen=_LAST_FRAMES)
    more = 0
    for more, place in enumerate(places, 1):  # noqa: B007 - how many there were is what is asked
        last.append(place)
    if not first:
        return ""
    lines = StackSummary.from_list(list(map(_frame, first))).format()
    if more > len(last):
        lines.append(f"  [{more - len(last):,} frames left out]\n")
    lines += StackSummary.from_list(list(map(_frame, last))).format()
    return "Traceback (most recent call last):\n" + "".join(lines)


def _notes(error: BaseException) -> list[object]:
    found: object = getattr(error, "__notes__", ())
    return list(cast("Sequence[object]", found)[:_MAX_NOTES]) if isinstance(found, (list, tuple)) else []


def _frame(place: tuple[FrameType, int]) -> FrameSummary:
    frame, line = place
    code = frame.f_code
    linecache.lazycache(code.co_filename, frame.f_globals)
    return FrameSummary(shortened(code.co_filename, _MAX_NAME), line, code.co_name, lookup_line=False)


def _from_fields(fields: Any, depth: int) -> Failure:
    type_, message, args, attributes, traceback, cause, retryable = fields[:7]
    inner = None if cause is None or depth < 0 else _from_fields(cause, depth - 1)
    return Failure(type_, message, args, attributes, traceback, inner, retryable)
