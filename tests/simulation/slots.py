"""Where worker processes of a run live, die, and are started again. Knows neither programs nor rules."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from romancy_nats.runtime.engine import Engine
from romancy_nats.testing.memory import Faults, MemoryServer, MemoryWorld
from tests.simulation.leftovers import Leftovers


@dataclass(slots=True)
class Slots:
    """The places of one run. `build` makes the engine of a process; what goes wrong with one is put into `wrong`."""

    server: MemoryServer
    faults: Faults
    dice: Random
    build: Callable[[MemoryWorld, str], Engine]
    wrong: list[str]
    crash_at: int | None = None
    """The boundary at which the first process of `crash_slot` dies."""
    crash_slot: int = 0
    worlds: list[MemoryWorld] = field(default_factory=list[MemoryWorld])
    leftovers: Leftovers = field(default_factory=Leftovers)
    over: bool = False

    async def run(self, number: int) -> None:
        """A place where a worker process runs, dies, and is started again."""
        life = 0
        while not self.over:
            life += 1
            name = f"w{number}.{life}"
            skew = self.dice.uniform(-2, 2) if self.faults.clock_jump else 0.0
            world = self.server.world(name, faults=self.faults, skew=skew)
            if life == 1 and number == self.crash_slot and self.crash_at is not None:
                world.crash_after(self.crash_at)
            self.worlds.append(world)
            await self._live(world, name)
            await asyncio.sleep(self.dice.random() * 10)

    async def _live(self, world: MemoryWorld, name: str) -> None:
        engine = self.build(world, name)
        self.leftovers.follow(engine)
        task = world.spawn(self._engine(world, engine))
        if self.dice.random() < 0.3:
            world.spawn(self._drain(engine, self.dice.random() * 40))
        await asyncio.wait([task])
        if not world.crashed and not task.cancelled() and (error := task.exception()) is not None:
            self.wrong.append(f"worker {name} ended with {error!r}")

    async def _drain(self, engine: Engine, after: float) -> None:
        """SIGTERM."""
        await asyncio.sleep(after)
        self.faults.fired["drain"] += 1
        await engine.drain()

    async def _engine(self, world: MemoryWorld, engine: Engine) -> None:
        await world.ensure_consumers(dict.fromkeys(engine.host.workflows))
        await engine.run()

    def close(self) -> None:
        """Kill what still runs, and close the workflow code that was left suspended."""
        for world in self.worlds:
            world.crash()
        self.leftovers.close()
