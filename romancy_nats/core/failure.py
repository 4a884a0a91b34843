"""Exceptions <-> data, never by pickle: what is recorded of an error, and which classes may come back as themselves.

Those are the exceptions of builtins, this package's (with every subclass of TerminalError) and the ones registered
by `@activity(errors=[…])`. No constructor of a user is ever called: `args` and attributes are put back as they were.
"""

from __future__ import annotations

import builtins
import linecache
from collections.abc import Iterator, Mapping
from traceback import FrameSummary, StackSummary, TracebackException, walk_tb
from types import FrameType, TracebackType
from typing import Any, NamedTuple, cast

import msgpack

from romancy_nats.core.error_text import cause_of, class_key, class_name, error_text, is_one_of
from romancy_nats.core.exception_state import ExceptionState, packed, unpacked
from romancy_nats.errors import ActivityError, PayloadError, RomancyError, TerminalError

MAX_MESSAGE = 4_000
MAX_TRACEBACK = 8_000
MAX_DEPTH = 5

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
    ) -> Failure:
        """The failure of an exception. With `registered`, state is kept only of classes that can come back."""
        cls = type(error)
        args = attributes = None
        if is_one_of(error, (Exception,)) and (
            registered is None or _class(class_key(cls), registered) is cls
        ):
            args, attributes = _state(error, registered, depth)
        cause = cause_of(error)
        return Failure(
            type=class_key(cls),
            message=error_text(error, MAX_MESSAGE),
            args=args,
            attributes=attributes,
            traceback=_traceback(error),
            cause=None if cause is None else _nested(cause, registered, depth),
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


def _nested(error: BaseException, registered: Registered | None, depth: int) -> Failure | None:
    return Failure.of(error, registered, depth=depth - 1) if depth > 0 else None


def _state(
    error: BaseException, registered: Registered | None, depth: int
) -> tuple[bytes, bytes] | tuple[None, None]:
    try:
        return packed(error, lambda inner: _nested(inner, registered, depth))
    except BaseException:  # noqa: BLE001 - the boundary: attributes and values of a user's class may raise anything
        return None, None


def _class(key: str, registered: Registered) -> type[Exception] | None:
    module, _, name = key.rpartition(".")
    found: object = getattr(builtins, name, None) if module == "builtins" else registered.get(key)
    if found is None:
        found = next((cls for cls in _ours(RomancyError) if class_key(cls) == key), None)
    if found is None:
        found = _moved(key, registered)
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _ours(root: type[RomancyError]) -> Iterator[type[RomancyError]]:
    yield root
    for cls in reversed(root.__subclasses__()):
        yield from _ours(cls)


def _moved(key: str, registered: Registered) -> object:
    # a class of the program that was started is in __main__ there, and in its module for every other process
    for cls in (*registered.values(), *_ours(TerminalError)):
        if "__main__" in (cls.__module__, key.partition(".")[0]) and key.endswith(f".{cls.__qualname__}"):
            return cls
    return None


def _traceback(error: BaseException) -> str:
    cls = type(error)
    try:
        # The default marks the columns, and parses each line for it: three times as slow, on the loop of a worker.
        stack = StackSummary.from_list(list(map(_frame, walk_tb(_own_traceback(error)))))
    except Exception:  # noqa: BLE001 - the boundary: globals of a user's module may be anything
        stack = StackSummary()
    try:
        found = TracebackException(cls, error, None)
        found.stack = stack
        return "".join(found.format(chain=False))[-MAX_TRACEBACK:]
    except BaseException:  # noqa: BLE001 - the boundary: it reads attributes of a user's class
        lines = ["Traceback (most recent call last):\n", *stack.format()]
        return f"{''.join(lines)}{class_name(cls)}: {error_text(error)}\n"[-MAX_TRACEBACK:]


def _own_traceback(error: BaseException) -> TracebackType | None:
    found: Any = BaseException.__dict__["__traceback__"]
    return cast("TracebackType | None", found.__get__(error))


def _frame(place: tuple[FrameType, int]) -> FrameSummary:
    frame, line = place
    code = frame.f_code
    linecache.lazycache(code.co_filename, frame.f_globals)
    return FrameSummary(code.co_filename, line, code.co_name, lookup_line=False)


def _from_fields(fields: Any, depth: int) -> Failure:
    type_, message, args, attributes, traceback, cause, retryable = fields[:7]
    inner = None if cause is None or depth < 0 else _from_fields(cause, depth - 1)
    return Failure(type_, message, args, attributes, traceback, inner, retryable)
