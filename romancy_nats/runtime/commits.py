"""Writes the commits of an owned instance: one at a time, fenced, sent again unchanged until it is answered (L3)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple, Protocol

from romancy_nats.core.commit import Commit, encode_commit, split
from romancy_nats.core.events import Event
from romancy_nats.core.ids import InstanceKey
from romancy_nats.errors import PayloadTooLargeError
from romancy_nats.ports import Refusal, Refused, World, WriteReply
from romancy_nats.runtime.pace import Pace
from romancy_nats.storage.backoff import Backoff
from romancy_nats.storage.records import read_commit

_log = logging.getLogger("romancy.worker")
_AFTER_A_REFUSAL_SECONDS = 5.0
ENVELOPE_BYTES = 500
"""What is around the events of a commit."""


class Fence(NamedTuple):
    """What a commit is fenced on: the generation, the incarnation that owns it, the revision of the record."""

    generation: int
    incarnation: str
    revision: int


class CommitListener(Protocol):
    """What a writer of commits needs from its instance."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> object:
        """Run something within the boundary of the instance."""

    def bounded(self, work: Callable[[], object]) -> None:
        """Do something at once within the boundary of the instance."""

    def committed(self) -> None:
        """Everything that was to be written is stored."""

    def commit_refused(self) -> None:
        """The memory is worthless: a write was refused, and what is stored is for somebody to look at."""

    def commit_too_large(self, reply: Refused) -> None:
        """The server takes no commit of this size: the same again would be refused again."""


class _Sent(NamedTuple):
    """A commit on its way: sent again unchanged, fence included, until it is answered."""

    n: int
    data: bytes
    id: str
    fence: Fence


class _Portion(NamedTuple):
    events: Sequence[Event]
    time: int
    open: bool


_NONE = _Sent(0, b"", "", Fence(0, "", 0))


class CommitWriter:
    """`number` is that of the last commit that the server has acknowledged."""

    def __init__(
        self,
        key: InstanceKey,
        number: int,
        *,
        world: World,
        pace: Pace,
        seconds_between_resends: float,
        listener: CommitListener,
    ) -> None:
        self.number = number
        self._key = key
        self._world = world
        self._pace = pace
        self._seconds_between_resends = seconds_between_resends
        self._listener: CommitListener | None = listener
        self._sent = _NONE
        self._portions: list[_Portion] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._closed = False

    @property
    def unanswered(self) -> bool:
        """Whether a commit is on its way whose fate nobody knows, or more of the same turn are to follow it."""
        return bool(self._portions) or self._sent.n > self.number

    @property
    def largest_event(self) -> int:
        """Bytes that one event of a commit may have."""
        return self._world.limits.commit - ENVELOPE_BYTES

    def write(self, events: Sequence[Event], time: int, *, open: bool, fence: Fence) -> None:
        """Write one commit, or several when it is more than a message holds: all but the last are open then.

        The listener hears when all of it is stored. Raises PayloadTooLargeError when one event alone is too large.
        """
        self._pace.sent(self)
        data, id = self._encode(events, time, open, fence)
        if len(data) > self._world.limits.commit:
            portions = split(list(events), self.largest_event)
            if portions is None:
                # One step asked for more than a message holds: what arrived is kept, and the reason.
                limit = self._world.limits.value
                raise PayloadTooLargeError(f"what one step of {self._key!r} asks for", len(data), limit)
            last = len(portions) - 1
            self._portions = [_Portion(part, time, open or n < last) for n, part in enumerate(portions)]
            self._write_portion(fence)
            return
        self._send(data, id, fence)

    def _write_portion(self, fence: Fence) -> None:
        portion = self._portions.pop(0)
        self._send(*self._encode(portion.events, portion.time, portion.open, fence), fence)

    def _encode(self, events: Sequence[Event], time: int, open: bool, fence: Fence) -> tuple[bytes, str]:
        id = self._world.chance.id()
        return encode_commit(id, fence.incarnation, fence.revision, time, events, open), id

    def _send(self, data: bytes, id: str, fence: Fence) -> None:
        self._sent = _Sent(self.number + 1, data, id, fence)
        self._append(self._answered)

    def _append(self, done: Callable[[WriteReply], None]) -> None:
        sent = self._sent
        self._world.ledger.append(
            self._key, sent.fence.generation, sent.n, sent.data, sent.fence.revision, done
        )

    # --- the answer

    def _answered(self, reply: WriteReply) -> None:
        listener = self._listener
        if listener is None:
            return
        if type(reply) is int:
            listener.bounded(self._stored)
        elif not self._closed:
            listener.spawn(self._settle(reply))

    def _stored(self) -> None:
        self.number = self._sent.n
        if self._portions and not self._closed:
            self._write_portion(self._sent.fence)
            return
        if self._listener is not None:
            self._listener.committed()

    def settled(self) -> None:
        """The listener has taken note of what is stored: let those go on who wait for it."""
        self._pace.answered(self)
        self._release()

    async def _settle(self, reply: WriteReply) -> None:
        """The commit has no plain success: send it again, unchanged, until the server says what it is."""
        sent_before, backoff = False, Backoff(self._seconds_between_resends, 2.0)
        while not self._closed:
            if isinstance(reply, int):
                self._stored()
                return
            if isinstance(reply, Refused):
                if sent_before and reply.why is Refusal.EXISTS and await self._is_stored():
                    self._stored()
                elif not self._closed:
                    await self._refused(reply)
                return
            sent_before = True
            await backoff.pause()
            reply = await self._append_again()

    async def _refused(self, reply: Refused) -> None:
        _log.warning("%r: commit %d was refused (%s)", self._key, self._sent.n, reply)
        if reply.why is Refusal.TOO_LARGE:
            self._sent, self._portions = _NONE._replace(n=self.number), []
            if self._listener is not None:
                self._listener.commit_too_large(reply)
            return
        if reply.why in (Refusal.OTHER, Refusal.DENIED):
            # A full disk, say: whoever loads it anew does its activities again, so not in a hot loop.
            await asyncio.sleep(_AFTER_A_REFUSAL_SECONDS)
        if self._listener is not None:
            self._listener.commit_refused()

    async def _append_again(self) -> WriteReply:
        answer: asyncio.Future[WriteReply] = asyncio.get_running_loop().create_future()
        self._append(lambda reply: None if answer.done() else answer.set_result(reply))
        return await answer

    async def _is_stored(self) -> bool:
        sent = self._sent
        stored = await read_commit(self._world, self._key, sent.fence.generation, sent.n)
        return stored is not None and Commit.decode(stored).id == sent.id

    # --- those who wait

    async def confirmed(self) -> bool:
        """Return when what the workflow code did so far is recorded; False when its memory was dropped before."""
        last = self._sent.n + len(self._portions)
        if self.number < last and not self._closed:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        return self.number >= last

    def _release(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    def close(self) -> None:
        """The memory is dropped or at rest: nothing is sent again, and nobody waits any longer."""
        self._closed = True
        self._pace.answered(self)
        self._release()

    def detach(self) -> None:
        """The instance is out of memory for good, and freed at once when nothing refers to it."""
        self.close()
        self._listener = None

    def reopen(self) -> None:
        """The instance is owned again with this memory."""
        self._closed = False
