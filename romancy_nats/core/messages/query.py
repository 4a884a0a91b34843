"""Queries: the arguments, the question to a worker, and its answer."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgpack

from romancy_nats.core.plain import encode_plain
from romancy_nats.errors import PayloadError, QueryError

ANSWERED, FAILED, NOT_BEGUN, ELSEWHERE = range(4)


class Question(NamedTuple):
    """What a client asks. `body` is a payload, `{"args": …, "kwargs": …}`; `forwarded`: to the owner alone."""

    workflow: str
    id: str
    name: str
    body: bytes
    forwarded: bool = False

    def encode(self) -> bytes:
        """The bytes of a question; that of a forwarded message has four fields."""
        return msgpack.packb(self)

    @staticmethod
    def decode(data: bytes) -> Question:
        """Raises QueryError when it is none."""
        try:
            return Question(*msgpack.unpackb(data))
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise QueryError(str(error)) from error


class Answer(NamedTuple):
    """`data` is the answer as a payload, or the reason why there is none as text."""

    kind: int
    data: bytes = b""

    def encode(self) -> bytes:
        """The bytes of an answer."""
        return msgpack.packb(self)

    @staticmethod
    def decode(data: bytes) -> Answer:
        """Raises QueryError when it is none."""
        try:
            kind, payload = msgpack.unpackb(data)
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise QueryError("the worker's answer cannot be read; does it run another release?") from error
        return Answer(kind, payload)


def ask_body(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """The arguments of a query or update; raises PayloadError."""
    if not args and not kwargs:
        return b""
    try:
        return encode_plain({"args": list(args), "kwargs": kwargs}, "the arguments")
    except PayloadError as error:
        raise PayloadError(f"{error}; pass plain values, models or dataclasses") from error
