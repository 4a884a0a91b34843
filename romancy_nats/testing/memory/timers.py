"""Wake-ups of resting instances, held by the server in memory: never early, up to a tick late. Knows no workflow."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from romancy_nats.core.ids import InstanceKey
from romancy_nats.ports import WriteReply
from romancy_nats.testing.memory.process import Answer, Process

if TYPE_CHECKING:
    from romancy_nats.testing.memory.store import MemoryServer

TICK = 0.25
"""The server looks for what is due this often."""


class Armed(NamedTuple):
    """A schedule. `due` is µs since the epoch."""

    key: InstanceKey
    due: int
    firing: asyncio.Handle


class TimerTable:
    """The schedules of a server: one per instance and generation."""

    def __init__(self, server: MemoryServer) -> None:
        self._server = server
        self.armed: dict[tuple[str, int], Armed] = {}

    def arm(self, key: InstanceKey, generation: int, due: int, answer: Answer) -> None:
        self._forget(key, generation)
        away = max(0.0, (due - self._server.micros()) / 1_000_000)
        late = self._server.random.random() * TICK
        # A µs more: a sum of floats may fall short of what it should be.
        firing = self._server.after(away + late + 1e-6, self._fire, key, generation)
        self.armed[key.token, generation] = Armed(key, due, firing)
        stream = self._server.timers_stream
        stream.sequence += 1
        answer(stream.sequence)

    def disarm(self, key: InstanceKey, generation: int, answer: Answer) -> None:
        self._forget(key, generation)
        answer(1)

    def _forget(self, key: InstanceKey, generation: int) -> None:
        armed = self.armed.pop((key.token, generation), None)
        if armed is not None:
            armed.firing.cancel()

    def _fire(self, key: InstanceKey, generation: int) -> None:
        place = (key.token, generation)
        if self._server.down:
            # What is overdue fires when the server is back.
            again = self._server.after(self._server.down_for() + TICK / 2, self._fire, key, generation)
            self.armed[place] = self.armed[place]._replace(firing=again)
            return
        del self.armed[place]
        headers = {"Nats-Scheduler": f"timer.{key.token}.{generation}.next"}
        self._server.timers_stream.publish(key.workflow, key.id, b"", headers)


class MemoryTimers:
    """Implements `ports.Timers` for one process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._table = process.server.timers

    async def arm(self, key: InstanceKey, generation: int, due: int) -> WriteReply:
        return await self._process.write(partial(self._table.arm, key, generation, due))

    async def disarm(self, key: InstanceKey, generation: int) -> WriteReply:
        return await self._process.write(partial(self._table.disarm, key, generation))
