"""One process's view of the server in memory, with the handles by which a test torments it. Composition only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from romancy_nats.ports import World
from romancy_nats.testing.memory.archive import MemoryArchive
from romancy_nats.testing.memory.events import MemoryEvents
from romancy_nats.testing.memory.faults import Faults
from romancy_nats.testing.memory.leases import MemoryLeases
from romancy_nats.testing.memory.ledger import MemoryLedger
from romancy_nats.testing.memory.orphans import MemoryOrphans
from romancy_nats.testing.memory.process import Process
from romancy_nats.testing.memory.queues import MemoryQueues
from romancy_nats.testing.memory.timers import MemoryTimers
from romancy_nats.testing.memory.wire import MemoryWire

T = TypeVar("T")


class MemoryClock:
    """Virtual time since the server's epoch, wrong by `skew`; `monotonic` never steps."""

    def __init__(self, process: Process, skew: float) -> None:
        self._process = process
        self.skew = skew

    def now(self) -> float:
        if self._process.faults.clock_jump and self._process.dice.hit("clock_jump"):
            self.skew = self._process.dice.either_way(self._process.faults.clock_jump_by)
        return self._process.server.epoch + self._process.loop.time() + self.skew

    def monotonic(self) -> float:
        return self._process.loop.time()

    def step(self, seconds: float) -> None:
        """Somebody sets the clock."""
        self.skew += seconds


class MemoryChance:
    """Seeded by the faults' seed and the name of the process."""

    def __init__(self, process: Process) -> None:
        self._dice = process.dice.random

    def id(self) -> str:
        return f"{self._dice.getrandbits(128):032x}"

    def number(self) -> float:
        return self._dice.random()


@dataclass(slots=True, frozen=True)
class MemoryWorld(World):
    """A World whose process can be stopped, killed, and followed boundary by boundary."""

    process: Process

    @property
    def name(self) -> str:
        return self.process.name

    @property
    def max_payload(self) -> int:
        return self.process.server.max_payload

    @property
    def faults(self) -> Faults:
        return self.process.faults

    @property
    def crashed(self) -> bool:
        return self.process.dead

    @property
    def boundaries(self) -> int:
        """How many boundaries it passed so far: the range of `crash_after`."""
        return self.process.boundaries

    async def ensure_consumers(self, workflows: Mapping[str, int | None]) -> None:
        """The queues of these workflows (name to `max_concurrency`); before a worker pulls."""
        await self.process.boundary()
        for workflow, max_concurrency in workflows.items():
            self.process.server.limit(workflow, max_concurrency)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run it as part of this process: paused with it, cancelled by its crash."""
        return self.process.spawn(work)

    def crash(self) -> None:
        """kill -9."""
        self.process.crash()

    def crash_after(self, boundaries: int) -> None:
        """Kill it at that boundary, counted from now: each call has one before and one after its effect."""
        self.process.crash_at = self.process.boundaries + boundaries

    def on_crash(self, hook: Callable[[], None]) -> None:
        """Called once it is dead, after its spawned tasks were cancelled."""
        self.process.on_crash = hook

    def pause(self, seconds: float) -> None:
        """SIGSTOP for that long; only on the virtual-time loop."""
        self.process.pause(seconds)


def make_world(process: Process, skew: float) -> MemoryWorld:
    return MemoryWorld(
        ledger=MemoryLedger(process),
        queues=MemoryQueues(process),
        orphans=MemoryOrphans(process),
        leases=MemoryLeases(process),
        wire=MemoryWire(process),
        timers=MemoryTimers(process),
        events=MemoryEvents(process),
        archive=MemoryArchive(process),
        clock=MemoryClock(process, skew),
        chance=MemoryChance(process),
        process=process,
    )
