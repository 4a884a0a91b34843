"""How one process gets messages: its open pulls, what arrived, and the answers to it. Publishes nothing."""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial

from romancy_nats.ports import Delivery, Source
from romancy_nats.testing.memory.process import Process
from romancy_nats.testing.memory.stream import Consumer, Handed, Pull, StoredMessage, Stream

PULL_WAIT = 30.0


class MemoryDelivery:
    """A message handed out; without a consumer (fetched by its place) its answers do nothing."""

    __slots__ = ("_consumer", "_process", "data", "deliveries", "headers", "id", "source", "time", "workflow")

    def __init__(
        self,
        process: Process,
        stream: Stream,
        message: StoredMessage,
        consumer: Consumer | None,
        deliveries: int,
    ) -> None:
        self._process = process
        self._consumer = consumer
        self.source = Source(stream.name, message.sequence)
        self.workflow = message.workflow
        self.id = message.id
        self.headers = message.headers
        self.data = message.data
        self.deliveries = deliveries
        self.time = message.time

    def ack(self) -> None:
        if self._consumer is not None:
            self._process.tell(partial(self._consumer.ack, self.source.sequence), "lost_answer")

    def nak(self, delay: float = 0.0) -> None:
        if self._consumer is not None:
            self._process.tell(partial(self._consumer.nak, self.source.sequence, delay), "lost_answer")

    def in_progress(self) -> None:
        if self._consumer is not None:
            self._process.tell(partial(self._consumer.in_progress, self.source.sequence), "lost_answer")

    def __repr__(self) -> str:
        return f"<MemoryDelivery {self.source.stream}:{self.source.sequence} deliveries={self.deliveries}>"


class Puller:
    """One consumer's messages, asked for ahead as the real client does."""

    def __init__(self, process: Process, consumer: Consumer) -> None:
        self._process = process
        self._consumer = consumer
        self._buffer: deque[Delivery] = deque()
        self._credit = 0
        self._waiters: dict[asyncio.Future[None], None] = {}
        self._pulls: dict[Pull, None] = {}
        self._closed = False

    async def arrived(self, most: int) -> None:
        """Wait until something is there, or the time is over. Cancelling it loses nothing."""
        loop = self._process.loop
        end = loop.time() + PULL_WAIT
        self._ask(most)
        while not self._buffer and loop.time() < end:
            await self._wait(end - loop.time())
            self._ask(most)

    def take(self, most: int) -> list[Delivery]:
        return [self._buffer.popleft() for _ in range(min(most, len(self._buffer)))]

    def close(self) -> None:
        """Ask for nothing more; give back what was not handed out, also what is still on its way."""
        self._closed = True
        for pull in list(self._pulls):
            pull.close()
        for delivery in self.take(len(self._buffer)):
            delivery.nak()

    def _ask(self, most: int) -> None:
        have = len(self._buffer) + self._credit
        if most < 1 or 2 * have > most or self._process.dead:
            return
        self._credit += most - have
        self._process.server.after(self._process.dice.delay(), self._open, most - have)

    def _open(self, most: int) -> None:
        server = self._process.server
        if self._process.dead or self._closed:
            return
        if server.down:
            # The client asks again once it is connected again.
            server.after(server.down_for(), self._open, most)
            return
        pull = Pull(self._consumer, most, PULL_WAIT, self._hear, self._over)
        self._process.subscriptions[pull] = None
        self._pulls[pull] = None
        self._consumer.serve()

    def _hear(self, handed: Handed) -> None:
        if self._process.dice.hit("duplicate"):
            again = self._process.dice.upto(self._process.server.ack_wait)
            self._consumer.again_early(handed.message.sequence, again)
        delivery = MemoryDelivery(
            self._process, self._consumer.stream, handed.message, self._consumer, handed.deliveries
        )
        self._process.here(self._process.dice.delay(), self._arrive, delivery)

    def _arrive(self, delivery: Delivery) -> None:
        self._credit = max(0, self._credit - 1)
        if self._closed:
            delivery.nak()
            return
        self._buffer.append(delivery)
        self._wake()

    def _over(self, pull: Pull, left: int) -> None:
        self._process.subscriptions.pop(pull, None)
        self._pulls.pop(pull, None)
        self._credit = max(0, self._credit - left)
        self._process.here(0, self._wake)

    async def _wait(self, seconds: float) -> None:
        waiter: asyncio.Future[None] = self._process.loop.create_future()
        self._waiters[waiter] = None
        timer = self._process.loop.call_later(seconds, self._wake, context=self._process.context)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiters.pop(waiter, None)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
