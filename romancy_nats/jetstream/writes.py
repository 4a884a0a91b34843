"""One write to a stream and what its acknowledgement says. Knows the server's error codes, but no subject."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

from romancy_nats.errors import PayloadTooLargeError, PermissionDeniedError, ServerUnavailableError
from romancy_nats.jetstream.api import TEMPORARY, read
from romancy_nats.jetstream.connection import Connection
from romancy_nats.jetstream.replies import Reply
from romancy_nats.ports import Duplicate, Refusal, Refused, WriteReply

EXPECTED = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"
ROLLUP = "Nats-Rollup"
TTL = "Nats-TTL"
MESSAGE_ID = "Nats-Msg-Id"

TIMEOUT = 5.0

_STORE_FAILED = 10077
_WRONG_LAST = frozenset({10071, 10164})
_TOO_LARGE = frozenset({10054, 10097})
_HEADER_LINE = len(b"NATS/1.0\r\n\r\n")


def ack_prefix(stream: str) -> bytes:
    """How the acknowledgement of a stream begins; its sequence follows."""
    return f'{{"stream":"{stream}","seq":'.encode()


def outcome(reply: Reply | None, prefix: bytes = b"") -> WriteReply:
    """Read an acknowledgement; with the stream's `prefix` without parsing JSON."""
    if reply is None:
        return None
    data = reply.data
    if prefix and data.startswith(prefix) and (number := data[len(prefix) : -1]).isdigit():
        return int(number)
    return _slow_outcome(reply)


def _slow_outcome(reply: Reply) -> WriteReply:
    if reply.denied is not None:
        return Refused(Refusal.DENIED, str(reply.denied))
    if reply.no_responders:
        # No stream, or no leader of it: the first shows at start, the second passes.
        return None
    try:
        answer = read(json.loads(reply.data))
    except ValueError:
        return Refused(Refusal.OTHER, f"not an acknowledgement: {reply.data[:100]!r}")
    sequence = answer.body.get("seq")
    if not answer.code and isinstance(sequence, int) and sequence > 0:
        return Duplicate(sequence) if answer.body.get("duplicate") is True else sequence
    return None if answer.code in TEMPORARY else Refused(_why(answer.code, answer.text), answer.text)


def _why(code: int, text: str) -> Refusal:
    # 10077 says that storing failed, whyever: a full disk is not a commit that exists.
    if code == _STORE_FAILED and "per subject" in text:
        return Refusal.EXISTS
    if code in _WRONG_LAST:
        return Refusal.STALE
    return Refusal.TOO_LARGE if code in _TOO_LARGE else Refusal.OTHER


def size(data: bytes, headers: Mapping[str, str]) -> int:
    """The bytes of a message as the server counts them against its `max_payload`."""
    return len(data) + _HEADER_LINE + sum(len(k.encode()) + len(v.encode()) + 4 for k, v in headers.items())


async def write(
    connection: Connection, subject: str, data: bytes, headers: dict[str, str], prefix: bytes = b""
) -> WriteReply:
    """Write and wait for the acknowledgement."""
    # nats-py counts the payload alone, and the server closes a connection that sends too much.
    if (bytes_ := size(data, headers)) > connection.max_payload:
        text = str(PayloadTooLargeError(f"the message to {subject}", bytes_, connection.max_payload))
        return Refused(Refusal.TOO_LARGE, text)
    if not connection.connected:
        return await _write_later(connection, subject, data, headers)
    future: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()

    def done(reply: Reply | None) -> None:
        if not future.done():  # the caller may be gone
            future.set_result(reply)

    connection.request(subject, data, headers, done, TIMEOUT)
    return outcome(await future, prefix)


async def _write_later(
    connection: Connection, subject: str, data: bytes, headers: dict[str, str]
) -> WriteReply:
    try:
        return outcome(await connection.call(subject, data, headers, TIMEOUT))
    except ServerUnavailableError:
        return None
    except PermissionDeniedError as error:
        return Refused(Refusal.DENIED, str(error))
