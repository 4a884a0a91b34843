"""Lease keys in memory: compare-and-set, a TTL that is never early, and news of their end. Knows no instance."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from romancy_nats.ports import Refusal, Refused, WriteReply
from romancy_nats.testing.memory.process import Answer, Process
from romancy_nats.testing.memory.revisions import Revisions

if TYPE_CHECKING:
    from romancy_nats.testing.memory.store import MemoryServer

EXPIRY_TICK = 0.25
"""The server looks for expired keys this often: an expiry is up to that much late."""


MARKER_TTL = 60.0


class LeaseKey(NamedTuple):
    """A key that exists."""

    revision: int
    label: str
    expiry: asyncio.Handle


class LeaseTable:
    """The bucket of lease keys."""

    def __init__(self, server: MemoryServer) -> None:
        self._server = server
        self._revisions = Revisions(server)
        self.keys: dict[str, LeaseKey] = {}
        self.watchers: dict[DeathWatch, None] = {}

    def put(self, incarnation: str, label: str, expected: int, ends_in: float, answer: Answer) -> None:
        store = partial(self._store, incarnation, label, ends_in)
        self._revisions.propose(incarnation, expected, None, store, answer)

    def _store(self, incarnation: str, label: str, ends_in: float) -> int:
        if (before := self.keys.get(incarnation)) is not None:
            before.expiry.cancel()
        revision = self._mark(incarnation)
        expiry = self._server.after(ends_in, self._expire, incarnation)
        self.keys[incarnation] = LeaseKey(revision, label, expiry)
        return revision

    def _mark(self, incarnation: str) -> int:
        # An end leaves a marker, which is a message: the last revision moves with it too.
        revision = self._revisions.next()
        self._revisions.last[incarnation] = revision
        return revision

    def _expire(self, incarnation: str) -> None:
        if self._server.down:
            # Overdue keys go when the server is back.
            later = self._server.after(self._server.down_for() + EXPIRY_TICK, self._expire, incarnation)
            self.keys[incarnation] = self.keys[incarnation]._replace(expiry=later)
            return
        self.delete(incarnation, lambda _: None)

    def delete(self, incarnation: str, answer: Answer) -> None:
        found = self.keys.pop(incarnation, None)
        revision = self._mark(incarnation)
        self._server.after(MARKER_TTL, self._forget, incarnation, revision)
        if found is not None:
            found.expiry.cancel()
        for watcher in list(self.watchers):
            watcher.tell(incarnation)
        answer(revision)

    def _forget(self, incarnation: str, marker: int) -> None:
        if self._revisions.last.get(incarnation) == marker:
            del self._revisions.last[incarnation]


class DeathWatch:
    """One watcher's news."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._news: asyncio.Queue[str] = asyncio.Queue()
        process.server.leases.watchers[self] = None
        process.subscriptions[self] = None

    def tell(self, incarnation: str) -> None:
        if not self._process.dice.hit("lost_notice"):
            self._process.here(self._process.dice.delay(), self._news.put_nowait, incarnation)

    async def next(self) -> str:
        return await self._news.get()

    def close(self) -> None:
        self._process.server.leases.watchers.pop(self, None)
        self._process.subscriptions.pop(self, None)


class MemoryLeases:
    """Implements `ports.Leases` for one process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._table = process.server.leases
        self._unanswered: dict[str, int] = {}

    async def take(self, incarnation: str, ttl: float, label: str) -> WriteReply:
        return await self.renew(incarnation, 0, ttl, label)

    async def renew(self, incarnation: str, revision: int, ttl: float, label: str) -> WriteReply:
        reply = await self._put(incarnation, revision, ttl, label)
        stale = isinstance(reply, Refused) and reply.why is Refusal.STALE
        if stale and self._unanswered.get(incarnation) == revision:
            # Nobody else writes this key: the write that was never answered did arrive (L3).
            found = await self._process.ask(lambda: self._table.keys.get(incarnation))
            if found is not None:
                reply = await self._put(incarnation, found.revision, ttl, label)
        if reply is None:
            self._unanswered[incarnation] = revision
        else:
            self._unanswered.pop(incarnation, None)
        return reply

    async def _put(self, incarnation: str, expected: int, ttl: float, label: str) -> WriteReply:
        # Whole seconds, upwards, as it goes over the wire.
        ends_in = max(1, math.ceil(ttl)) + self._process.server.random.random() * EXPIRY_TICK
        if self._process.dice.hit("late_expiry"):
            ends_in += self._process.dice.upto(self._process.faults.late_expiry_by)
        return await self._process.write(partial(self._table.put, incarnation, label, expected, ends_in))

    async def alive(self, incarnation: str) -> bool:
        return await self._process.ask(lambda: incarnation in self._table.keys)

    async def release(self, incarnation: str) -> None:
        self._unanswered.pop(incarnation, None)
        await self._process.write(partial(self._table.delete, incarnation))

    async def deaths(self) -> AsyncIterator[str]:
        await self._process.boundary()
        watch = DeathWatch(self._process)
        try:
            while True:
                yield await watch.next()
        finally:
            watch.close()
