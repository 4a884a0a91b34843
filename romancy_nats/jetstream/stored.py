"""Reading messages of a stream by subject or sequence, from the leader or by Direct Get. Knows no meaning of them."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from romancy_nats.errors import ServerError, ServerUnavailableError, StreamMissingError
from romancy_nats.jetstream.api import MESSAGE_MISSING, STREAM_MISSING, Answer, ask
from romancy_nats.jetstream.connection import Connection
from romancy_nats.jetstream.replies import NO_HEADERS, Reply

TOO_MANY = 413
_NOTHING = 404
_END = 204
_AGAIN_AFTER = 0.1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = 1_000_000


class Stored(NamedTuple):
    """A message as a stream holds it; `time` is µs since the epoch."""

    subject: str
    sequence: int
    headers: Mapping[str, str]
    data: bytes
    time: int

    @property
    def marker(self) -> bool:
        """Whether it says that something was deleted or expired, instead of being something."""
        return "Nats-Marker-Reason" in self.headers or self.headers.get("KV-Operation", "PUT") != "PUT"


class TooManyMatchesError(ServerError):
    """The server reads at most 1,024 last messages by wildcard; internal, the caller falls back."""


async def last(connection: Connection, stream: str, subject: str, timeout: float = 5.0) -> Stored | None:
    """The last message on a subject, from the leader. Raises ServerUnavailableError, StreamMissingError."""
    answer = await ask(connection, f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject}, timeout)
    return _one(answer, stream)


async def next_on(
    connection: Connection, stream: str, subject: str, sequence: int = 1, timeout: float = 5.0
) -> Stored | None:
    """The first message on a subject from a sequence on, from the leader. Raises as `last` does."""
    request = {"seq": sequence, "next_by_subj": subject}
    return _one(await ask(connection, f"STREAM.MSG.GET.{stream}", request, timeout), stream)


async def at(connection: Connection, stream: str, sequence: int, timeout: float = 5.0) -> Stored | None:
    """The message at a sequence, from the leader. Raises ServerUnavailableError, StreamMissingError."""
    return _one(await ask(connection, f"STREAM.MSG.GET.{stream}", {"seq": sequence}, timeout), stream)


async def several(
    connection: Connection, stream: str, request: Mapping[str, object], timeout: float = 10.0
) -> list[Stored]:
    """Direct Get of several messages, from any replica. Raises TooManyMatchesError beside the usual ones."""
    payload = json.dumps(request).encode()
    *found, end = await connection.collect(f"$JS.API.DIRECT.GET.{stream}", payload, timeout=timeout)
    if end.status == TOO_MANY:
        raise TooManyMatchesError(f"{stream}: {end.description}")
    if end.no_responders:
        raise ServerUnavailableError(
            f"no server answers reads of stream {stream}; does it exist, has it a leader?"
        )
    if end.status not in (_END, _NOTHING):
        raise ServerError(f"cannot read stream {stream}: {end.status} {end.description}")
    return [_direct(reply) for reply in found]


async def page(
    connection: Connection, stream: str, request: Mapping[str, object], patience: float
) -> list[Stored]:
    """The same for a part of a scan, asked again for `patience` seconds when nobody answers."""
    loop = asyncio.get_running_loop()
    end = loop.time() + patience
    while True:
        try:
            return await several(connection, stream, request)
        except ServerUnavailableError:
            if loop.time() >= end:
                raise
        await asyncio.sleep(_AGAIN_AFTER)


def _one(answer: Answer, stream: str) -> Stored | None:
    if answer.code == MESSAGE_MISSING:
        return None
    if answer.code == STREAM_MISSING:
        raise StreamMissingError(f"stream {stream} does not exist, or was deleted; apply the streams again")
    if answer.code:
        raise ServerError(f"cannot read stream {stream}: {answer.text} ({answer.code})")
    message = answer.part("message")
    raw = message.get("hdrs")
    sequence = message.get("seq")
    return Stored(
        str(message.get("subject", "")),
        sequence if isinstance(sequence, int) else 0,
        parse_headers(base64.b64decode(raw)) if isinstance(raw, str) else NO_HEADERS,
        base64.b64decode(str(message.get("data", ""))),
        micros(str(message.get("time", ""))),
    )


def _direct(reply: Reply) -> Stored:
    headers = reply.headers
    return Stored(
        headers.get("Nats-Subject", ""),
        int(headers.get("Nats-Sequence", "0")),
        headers,
        reply.data,
        micros(headers.get("Nats-Time-Stamp", "")),
    )


def parse_headers(raw: bytes) -> dict[str, str]:
    """The header block of a stored message."""
    lines = raw.split(b"\r\n")[1:]
    pairs = (line.partition(b":") for line in lines if b":" in line)
    return {
        name.decode("utf-8", "replace").strip(): value.decode("utf-8", "replace").strip()
        for name, _, value in pairs
    }


def micros(text: str) -> int:
    """µs since the epoch of a server's time stamp; 0 for none."""
    if not text:
        return 0
    # Nanoseconds, of which older Pythons read six digits only.
    seconds, _, fraction = text.rstrip("Z").partition(".")
    whole = datetime.fromisoformat(seconds).replace(tzinfo=UTC) - _EPOCH
    return (whole.days * 86_400 + whole.seconds) * _MICROSECOND + int(fraction[:6].ljust(6, "0"))
