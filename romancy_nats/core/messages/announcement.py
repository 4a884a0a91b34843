"""Announcements of how an instance gets on: what workflow code emits, attempts that begin and fail. Never recorded."""

from __future__ import annotations

from typing import NamedTuple

import msgpack

EMITTED = "Emitted"
STARTED = "AttemptStarted"
FAILED = "AttemptFailed"
HEARTBEAT = "Heartbeat"


class Progress(NamedTuple):
    """One announcement: `data` is a payload, `time` µs since the epoch."""

    type: str
    time: int
    data: bytes


def write_progress(type: str, time: int, data: bytes) -> bytes:
    """The bytes of an announcement."""
    return msgpack.packb((type, time, data))


def read_progress(data: bytes) -> Progress | None:
    """The announcement in these bytes, None when there is none: anybody may publish there."""
    try:
        type, time, payload = msgpack.unpackb(data)
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    fits = isinstance(type, str) and isinstance(time, int) and isinstance(payload, bytes)
    return Progress(type, time, payload) if fits else None
