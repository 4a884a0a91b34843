"""Lease keys of running workers: raw KV messages with a TTL. Knows nothing of what a lease is for.

nats-py's own KV calls are wrong while an expiry marker exists, and cannot renew with a TTL.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator

from romancy_nats.jetstream import stored
from romancy_nats.jetstream.connection import Connection
from romancy_nats.jetstream.replies import Msg
from romancy_nats.jetstream.stored import Stored
from romancy_nats.jetstream.subjects import Subjects
from romancy_nats.jetstream.writes import EXPECTED, ROLLUP, TTL, ack_prefix, write
from romancy_nats.ports import Refusal, Refused, WriteReply

_MARKER_TTL = "60s"


class JetStreamLeases:
    """Implements `ports.Leases`."""

    def __init__(self, connection: Connection, subjects: Subjects) -> None:
        self._connection = connection
        self._subjects = subjects
        self._stream = subjects.workers_stream
        self._prefix = ack_prefix(self._stream)
        self._unanswered: dict[str, int] = {}

    async def take(self, incarnation: str, ttl: float, label: str) -> WriteReply:
        """Create the key; the reply is its revision."""
        return await self.renew(incarnation, 0, ttl, label)

    async def renew(self, incarnation: str, revision: int, ttl: float, label: str) -> WriteReply:
        """Write the key again by compare-and-set; the reply is the new revision."""
        reply = await self._write(incarnation, revision, ttl, label)
        if (
            isinstance(reply, Refused)
            and reply.why is Refusal.STALE
            and self._unanswered.get(incarnation) == revision
        ):
            # Nobody else writes this key: the write that was never answered did arrive (L3).
            found = await self._last(incarnation)
            if found is not None and not found.marker:
                reply = await self._write(incarnation, found.sequence, ttl, label)
        if reply is None:
            self._unanswered[incarnation] = revision
        else:
            self._unanswered.pop(incarnation, None)
        return reply

    async def _write(self, incarnation: str, expected: int, ttl: float, label: str) -> WriteReply:
        headers = {
            EXPECTED: str(expected),
            # Whole seconds, upwards: the server cuts the fraction off, and a lease must never end early.
            TTL: f"{max(1, math.ceil(ttl))}s",
            ROLLUP: "sub",
        }
        data = json.dumps({"label": label}).encode()
        return await write(self._connection, self._subjects.lease(incarnation), data, headers, self._prefix)

    async def alive(self, incarnation: str) -> bool:
        """Whether the key exists, from the leader. Raises ServerUnavailableError."""
        found = await self._last(incarnation)
        return found is not None and not found.marker

    async def _last(self, incarnation: str) -> Stored | None:
        return await stored.last(self._connection, self._stream, self._subjects.lease(incarnation))

    async def release(self, incarnation: str) -> None:
        """Delete the key, so that nobody has to wait for its end."""
        self._unanswered.pop(incarnation, None)
        headers = {"KV-Operation": "PURGE", ROLLUP: "sub", TTL: _MARKER_TTL}
        await write(self._connection, self._subjects.lease(incarnation), b"", headers, self._prefix)

    async def deaths(self) -> AsyncIterator[str]:
        """Incarnations whose key went away while watching; a hint, never a proof (ask `alive`)."""
        gone: asyncio.Queue[str] = asyncio.Queue()

        def hear(msg: Msg) -> None:
            if "Nats-Marker-Reason" in msg.headers or msg.headers.get("KV-Operation", "PUT") != "PUT":
                gone.put_nowait(self._subjects.read_lease(msg.subject))

        subscription = await self._connection.subscribe(self._subjects.leases_live, hear)
        try:
            while True:
                yield await gone.get()
        finally:
            subscription.close()
