"""A work queue in memory: stored messages, their deduplication, and one consumer per workflow. No process, no fault."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from romancy_nats.ports import Duplicate

if TYPE_CHECKING:
    from romancy_nats.testing.memory.store import MemoryServer

MESSAGE_ID = "Nats-Msg-Id"
DEDUPE_WINDOW = 120.0
UNLIMITED = -1


class StoredMessage(NamedTuple):
    """A message as the stream holds it; `time` is µs since the epoch."""

    sequence: int
    workflow: str
    id: str
    data: bytes
    headers: Mapping[str, str]
    time: int


class Handed(NamedTuple):
    """One delivery of a message."""

    message: StoredMessage
    deliveries: int


class Stream:
    """One sequence; a message goes when it is acked."""

    def __init__(self, server: MemoryServer, name: str, window: float = DEDUPE_WINDOW) -> None:
        self.server = server
        self.name = name
        self._window = window
        self.sequence = 0
        self.messages: dict[int, StoredMessage] = {}
        self.consumers: dict[str, Consumer] = {}
        self._seen: dict[str, tuple[int, float]] = {}

    def publish(self, workflow: str, id: str, data: bytes, headers: Mapping[str, str]) -> int:
        """Store it; the same message id within the window answers with the sequence of the first."""
        now = self.server.loop.time()
        name = headers.get(MESSAGE_ID, "")
        if name and (seen := self._seen.get(name)) is not None and now - seen[1] < self._window:
            return Duplicate(seen[0])
        self.sequence += 1
        if name:
            self._seen[name] = (self.sequence, now)
        message = StoredMessage(self.sequence, workflow, id, data, dict(headers), self.server.micros())
        self.messages[self.sequence] = message
        if (consumer := self.consumers.get(workflow)) is not None:
            consumer.arrived(message)
        return self.sequence

    def remove(self, sequence: int) -> None:
        """Delete a message, handed out or not."""
        message = self.messages.pop(sequence, None)
        if message is not None and (consumer := self.consumers.get(message.workflow)) is not None:
            consumer.removed(sequence)

    def consumer(self, workflow: str, max_ack_pending: int) -> Consumer:
        found = self.consumers.get(workflow)
        if found is None:
            found = self.consumers[workflow] = Consumer(self, max_ack_pending)
            for message in self.messages.values():
                if message.workflow == workflow:
                    found.arrived(message)
        return found


class Consumer:
    """A durable pull consumer with explicit acks. Handed out again first, then what is new (as measured)."""

    def __init__(self, stream: Stream, max_ack_pending: int) -> None:
        self.stream = stream
        self.max_ack_pending = max_ack_pending
        self._server = stream.server
        self._new: deque[int] = deque()
        self._again: dict[int, None] = {}
        self._waits: dict[int, asyncio.Handle] = {}
        self._deliveries: dict[int, int] = {}
        self.pulls: dict[Pull, None] = {}

    @property
    def unacked(self) -> int:
        return len(self._deliveries)

    @property
    def pending(self) -> int:
        return len(self._new)

    def arrived(self, message: StoredMessage) -> None:
        self._new.append(message.sequence)
        self.serve()

    def take(self, most: int) -> list[Handed]:
        handed: list[Handed] = []
        while len(handed) < most and (sequence := self._next()):
            count = self._deliveries[sequence] = self._deliveries.get(sequence, 0) + 1
            self._again_in(sequence, self._server.ack_wait)
            handed.append(Handed(self.stream.messages[sequence], count))
        return handed

    def _next(self) -> int:
        if self._again:
            sequence = next(iter(self._again))
            del self._again[sequence]
            return sequence
        if self._new and (self.max_ack_pending == UNLIMITED or self.unacked < self.max_ack_pending):
            return self._new.popleft()
        return 0

    def _again_in(self, sequence: int, seconds: float) -> None:
        self._forget_wait(sequence)
        self._waits[sequence] = self._server.after(seconds, self._due_again, sequence)

    def _due_again(self, sequence: int) -> None:
        if sequence in self._deliveries:
            self._again[sequence] = None
            self.serve()

    def _forget_wait(self, sequence: int) -> None:
        if (wait := self._waits.pop(sequence, None)) is not None:
            wait.cancel()

    def ack(self, sequence: int) -> None:
        """Any delivery's ack is the message's."""
        if self._deliveries.pop(sequence, None) is None:
            return
        self._forget_wait(sequence)
        self._again.pop(sequence, None)
        self.stream.messages.pop(sequence, None)
        self.serve()

    def removed(self, sequence: int) -> None:
        """The message is no longer there."""
        if sequence in self._new:
            self._new.remove(sequence)
        self.ack(sequence)

    def nak(self, sequence: int, delay: float) -> None:
        if sequence not in self._deliveries or sequence in self._again:
            return
        if delay > 0:
            self._again_in(sequence, delay)
        else:
            self._forget_wait(sequence)
            self._due_again(sequence)

    def in_progress(self, sequence: int) -> None:
        # It does not recall what is due again already.
        if sequence in self._deliveries and sequence not in self._again:
            self._again_in(sequence, self._server.ack_wait)

    def again_early(self, sequence: int, seconds: float) -> None:
        """A duplicate: due again although nobody gave it back."""
        if sequence in self._deliveries and sequence not in self._again:
            self._again_in(sequence, min(seconds, self._server.ack_wait))

    def _ready(self) -> bool:
        if self._again:
            return True
        return bool(self._new) and (self.max_ack_pending == UNLIMITED or self.unacked < self.max_ack_pending)

    def serve(self) -> None:
        """Hand out what there is to the open pulls in turn, whether or not anybody is awake to see it."""
        while self.pulls and not self._server.down and self._ready():
            pull = next(iter(self.pulls))
            for handed in self.take(1):
                pull.hand(handed)


class Pull:
    """A pull request in the server's hands, until it is served in full, its time is over, or its process dies.

    A pull outlives the call that made it: what arrives then waits in that process, its ack wait running.
    """

    def __init__(
        self,
        consumer: Consumer,
        most: int,
        seconds: float,
        hear: Callable[[Handed], None],
        over: Callable[[Pull, int], None],
    ) -> None:
        self._consumer = consumer
        self._left = most
        self._hear = hear
        self._over = over
        self._timer = consumer.stream.server.after(seconds, self.close)
        consumer.pulls[self] = None

    def hand(self, handed: Handed) -> None:
        self._left -= 1
        # To the end of the row: those who wait take turns.
        self._consumer.pulls.pop(self, None)
        self._consumer.pulls[self] = None
        self._hear(handed)
        if self._left == 0:
            self.close()

    def close(self) -> None:
        self._timer.cancel()
        if self in self._consumer.pulls:
            del self._consumer.pulls[self]
            self._over(self, self._left)
