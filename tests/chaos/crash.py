"""Dying on purpose: SIGKILL to this process at a named point. Wraps the ports from outside; the library knows nothing.

A point is `<what>:<n>:<before|after>`: the n-th record `write`, commit `append`, message `ack`, or activity `begin` or
`end` line.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from romancy_nats.ports import World, WriteReply
from tests.chaos.record import Line, Record

VARIABLE = "CHAOS_CRASH"


class CrashPoint:
    """Counts what happens, and dies at the point."""

    def __init__(self, point: str) -> None:
        self._what, n, self._when = point.split(":") if point else ("", "0", "")
        self._n = int(n)
        self._counts: Counter[str] = Counter()

    def count(self, what: str) -> int:
        """It is about to happen for the n-th time."""
        self._counts[what] += 1
        self.at(what, self._counts[what], "before")
        return self._counts[what]

    def at(self, what: str, n: int, when: str) -> None:
        """Die here if this is the point."""
        if (what, n, when) == (self._what, self._n, self._when):
            os.kill(os.getpid(), signal.SIGKILL)

    def line(self, line: Line) -> None:
        """A line of the record is in the file."""
        self.at(line.kind, self.count(line.kind), "after")


class _Over:
    """Passes on what it does not change."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Ledger(_Over):
    def __init__(self, inner: Any, crash: CrashPoint) -> None:
        super().__init__(inner)
        self._crash = crash

    def append(
        self, key: Any, generation: int, n: int, data: bytes, fence: int, done: Callable[[WriteReply], None]
    ) -> None:
        nth = self._crash.count("append")

        def answered(reply: WriteReply) -> None:
            self._crash.at("append", nth, "after")
            done(reply)

        self._inner.append(key, generation, n, data, fence, answered)

    async def write(self, key: Any, record: Any, expected: int) -> WriteReply:
        nth = self._crash.count("write")
        reply: WriteReply = await self._inner.write(key, record, expected)
        self._crash.at("write", nth, "after")
        return reply


class _Delivery(_Over):
    def __init__(self, inner: Any, crash: CrashPoint) -> None:
        super().__init__(inner)
        self._crash = crash

    def ack(self) -> None:
        self._crash.count("ack")
        self._inner.ack()


class _Queues(_Over):
    def __init__(self, inner: Any, crash: CrashPoint) -> None:
        super().__init__(inner)
        self._crash = crash

    async def pull(self, *args: Any) -> list[Any]:
        return [_Delivery(one, self._crash) for one in await self._inner.pull(*args)]


class _Leases(_Over):
    """Writes the lives of this worker into the record."""

    def __init__(self, inner: Any, record: Record) -> None:
        super().__init__(inner)
        self._record = record

    async def take(self, incarnation: str, ttl: float, label: str) -> WriteReply:
        if self._record.incarnation:
            self._record.life("lost", self._record.incarnation)
        reply: WriteReply = await self._inner.take(incarnation, ttl, label)
        if isinstance(reply, int):
            self._record.incarnation = incarnation
            self._record.life("taken", incarnation)
        return reply

    async def release(self, incarnation: str) -> None:
        self._record.life("left", incarnation)
        await self._inner.release(incarnation)


def fragile(world: World, record: Record, crash: CrashPoint | None) -> World:
    """The world, with its leases entered into the record, and with a point at which this process dies."""
    seen = replace(world, leases=_Leases(world.leases, record))
    if crash is None:
        return seen
    return replace(seen, ledger=_Ledger(world.ledger, crash), queues=_Queues(world.queues, crash))
