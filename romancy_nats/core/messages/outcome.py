"""Notices to waiting clients that an instance rests. A notice may be lost: the record counts."""

from __future__ import annotations

from typing import NamedTuple

import msgpack

from romancy_nats.core.record import InstanceStatus

LARGEST_IN_NOTICE = 500_000
"""Bytes of an answer that a notice carries; what is larger is read from the record or the history."""


class Outcome(NamedTuple):
    """How an instance rests: its status, and the bytes of its result or failure when they are at hand."""

    status: InstanceStatus
    payload: bytes
    has_payload: bool


def write_outcome(status: InstanceStatus, payload: bytes | None) -> bytes:
    """The notice; without the payload when that is large."""
    if payload is not None and len(payload) > LARGEST_IN_NOTICE:
        payload = None
    return msgpack.packb((str(status), payload))


def read_outcome(notice: bytes) -> Outcome | None:
    """The outcome in a notice, None when the record has to be read for it."""
    if not notice:
        return None
    try:
        status, payload = msgpack.unpackb(notice)
        return Outcome(InstanceStatus(status), payload or b"", payload is not None)
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
