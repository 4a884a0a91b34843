"""The server of one simulation: its streams, its time, its outages. What a process may do with them is in the ports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextvars import Context
from random import Random
from typing import Any

from romancy_nats.ports import QueueKind
from romancy_nats.testing.memory.events import EventLog
from romancy_nats.testing.memory.faults import Faults
from romancy_nats.testing.memory.leases import LeaseTable
from romancy_nats.testing.memory.ledger import Shard
from romancy_nats.testing.memory.process import Process
from romancy_nats.testing.memory.stream import UNLIMITED, Consumer, Stream
from romancy_nats.testing.memory.timers import TimerTable
from romancy_nats.testing.memory.wire import Hub
from romancy_nats.testing.memory.world import MemoryWorld, make_world

EPOCH = 1_750_000_000.0
DEFAULT_ACK_WAIT = 16.0
MAX_PAYLOAD = 1024 * 1024
REPLICATION = 0.002
DEAD_WINDOW = 86_400.0


class MemoryServer:
    """Build it inside the loop that it shall live on. Same seed, same calls: same answers."""

    def __init__(
        self,
        *,
        namespace: str = "romancy",
        seed: int = 0,
        shards: int = 8,
        replicas: int = 1,
        ack_wait: float = DEFAULT_ACK_WAIT,
        max_ack_pending: Mapping[str, int] | None = None,
        epoch: float = EPOCH,
        max_payload: int = MAX_PAYLOAD,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.seed = seed
        self.random = Random(f"{seed}/server")
        self.replicas = replicas
        self.ack_wait = ack_wait
        self.max_ack_pending = dict(max_ack_pending or {})
        self.epoch = epoch
        self.max_payload = max_payload
        self.worlds: list[MemoryWorld] = []
        self._context = Context()
        self._up_at = 0.0
        self._numbers = 0
        self.archived: dict[int, bytes] = {}
        self._make_streams(namespace.upper(), shards)

    def _make_streams(self, prefix: str, shards: int) -> None:
        self.hub = Hub(self)
        self.leases = LeaseTable(self)
        self.shards = [Shard(self) for _ in range(shards)]
        self.start_stream = Stream(self, f"{prefix}_START")
        self.messages_stream = Stream(self, f"{prefix}_MESSAGES")
        self.timers_stream = Stream(self, f"{prefix}_TIMERS")
        self.dead_stream = Stream(self, f"{prefix}_DEAD", DEAD_WINDOW)
        self.timers = TimerTable(self)
        self.events = EventLog(self, f"{prefix}_EVENTS")
        queues = (self.start_stream, self.messages_stream, self.timers_stream)
        streams = (*queues, self.dead_stream, self.events.stream)
        self.streams = {stream.name: stream for stream in streams}

    def world(self, name: str, *, faults: Faults | None = None, skew: float = 0.0) -> MemoryWorld:
        """A process. Its name seeds its dice: a restarted worker needs another name."""
        process = Process(self, name, faults if faults is not None else Faults(seed=self.seed))
        world = make_world(process, skew)
        self.worlds.append(world)
        return world

    # --- time

    def after(self, seconds: float, call: Callable[..., object], *args: Any) -> asyncio.Handle:
        """Run something on the server, which no pause or crash of a process touches."""
        if seconds > 0:
            return self.loop.call_later(seconds, call, *args, context=self._context)
        return self.loop.call_soon(call, *args, context=self._context)

    def replicate(self, call: Callable[..., None], *args: Any) -> None:
        """What a write waits for when there are several replicas."""
        self.after(REPLICATION * (0.5 + self.random.random()), call, *args)

    def micros(self, at: float | None = None) -> int:
        """The server's own clock: µs since the epoch, now or at a virtual time."""
        return round((self.epoch + (self.loop.time() if at is None else at)) * 1_000_000)

    # --- outages

    @property
    def down(self) -> bool:
        return self.loop.time() < self._up_at

    def down_for(self) -> float:
        """How long the outage still lasts."""
        return max(0.0, self._up_at - self.loop.time())

    def outage(self, seconds: float) -> None:
        """Nothing is heard for that long; what is stored stays."""
        self._up_at = max(self._up_at, self.loop.time() + seconds)
        self.loop.call_at(self._up_at, self._back, context=self._context)

    def _back(self) -> None:
        if not self.down:
            for stream in self.streams.values():
                for consumer in stream.consumers.values():
                    consumer.serve()

    # --- queues

    def queue(self, kind: QueueKind) -> Stream:
        if kind is QueueKind.START:
            return self.start_stream
        return self.messages_stream if kind is QueueKind.MESSAGE else self.timers_stream

    def consumer(self, kind: QueueKind, workflow: str) -> Consumer:
        limit = self.max_ack_pending.get(workflow, UNLIMITED) if kind is QueueKind.START else UNLIMITED
        return self.queue(kind).consumer(workflow, limit)

    def limit(self, workflow: str, max_concurrency: int | None) -> None:
        """How many starts may be at work; also while it runs."""
        self.max_ack_pending[workflow] = UNLIMITED if max_concurrency is None else max_concurrency
        for kind in QueueKind:
            consumer = self.consumer(kind, workflow)
            if kind is QueueKind.START:
                consumer.max_ack_pending = self.max_ack_pending[workflow]
                consumer.serve()

    def number(self) -> int:
        self._numbers += 1
        return self._numbers
