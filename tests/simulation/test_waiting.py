"""Waiting under faults: every event that was sent after its wait was registered is heard, every timer fires."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from romancy_nats import Client, EventTimeoutError, InstanceStatus, WorkflowContext, workflow
from romancy_nats.errors import RomancyError
from romancy_nats.runtime.engine import Engine
from romancy_nats.testing.memory import MemoryServer
from romancy_nats.testing.virtual_time import VirtualTimeLoop, clear
from tests.simulation.schedule import LONGEST, TUNING, plan

SCHEDULES = int(os.environ.get("ROMANCY_WAITING_SCHEDULES", "125"))
CHUNK = 125
MUST_FIRE = ("crash", "pause", "lost_ack", "late_write_landed", "duplicate", "outage", "drain", "stale_read")


@workflow
async def waiter(ctx: WorkflowContext, key: str | None, rounds: int, nap: float) -> list[object]:
    """Naps and waits in turn; what it heard. One wait is for what nobody sends."""
    heard: list[object] = []
    for _ in range(rounds):
        await ctx.sleep(nap)
        heard.append((await ctx.wait_event("news", key=key)).data)
    try:
        await ctx.wait_event("never", timeout=nap)
    except EventTimeoutError:
        heard.append("late")
    return heard


class Waiting:
    """One run: workers that die and come back, users who answer each wait once it is at rest."""

    def __init__(self, seed: int) -> None:
        chosen = plan(seed)
        self.faults = chosen.faults
        self.dice = Random(f"{seed}/waiting")
        self.server = MemoryServer(seed=seed, shards=2, replicas=chosen.replicas, ack_wait=TUNING.ack_wait)
        self.workers = chosen.workers
        self.over = False
        self.wrong: list[str] = []

    async def whole(self) -> None:
        slots = [asyncio.create_task(self._slot(number)) for number in range(self.workers)]
        users = [asyncio.create_task(self._user(f"i{number}")) for number in range(3)]
        await asyncio.wait(users, timeout=LONGEST / 4)
        self.faults.heal()
        _, late = await asyncio.wait(users, timeout=LONGEST)
        for task in users:
            if task in late:
                self.wrong.append("a user still waits")
                task.cancel()
            elif (error := task.exception()) is not None:
                self.wrong.append(f"a user met {error!r}")
        streams = (self.server.messages_stream, self.server.timers_stream, self.server.events.stream)
        for _ in range(60):
            # The last acks, expiries and sweeps take their time.
            if any(stream.messages for stream in streams):
                await asyncio.sleep(10)
        self.over = True
        for stream in streams:
            if stream.messages:
                self.wrong.append(f"{stream.name} still holds {list(stream.messages.values())[:2]}")
        left = [
            one for waits in self.server.events.waits.values() for one, w in waits.items() if not w.removed
        ]
        # A late write, or a frozen worker's, may land after it was removed: the first event that it hears removes it.
        if left and not (self.faults.fired["late_write_landed"] or self.faults.fired["pause"]):
            self.wrong.append(f"registrations are left: {left}")
        for slot in slots:
            slot.cancel()
        await asyncio.gather(*slots, return_exceptions=True)

    async def _user(self, id: str) -> None:
        spared = replace(self.faults, crash=0.0, pause=0.0, outage=0.0, clock_jump=0.0)
        spared.fired = self.faults.fired
        client = Client(self.server.world(f"client-{id}", faults=spared))
        key = self.dice.choice([None, id])
        rounds, nap = 1 + self.dice.randrange(3), self.dice.choice([0.0, 2.0, 10.0, 100.0])
        handle = await client.start(waiter.options(id=id), key, rounds, nap)
        said: list[object] = []
        for number in range(rounds):
            while True:
                try:
                    info = await handle.describe()
                except RomancyError:
                    info = None
                # At rest, and for this round: its registration is acknowledged (L5).
                if info and info.status is InstanceStatus.WAITING_FOR_EVENT and info.owner is None:
                    break
                if info and info.status.ended and key is None:
                    return  # it heard what was for others
                await asyncio.sleep(0.5)
            said.append(f"{id}/{number}")
            await client.send_event("news", said[-1], key=id)
            await self._heard(handle, number + 1)
        if key is not None:
            said.append("late")
            result = await handle.result()
            if result != said:
                self.wrong.append(f"{id} heard {result}, told was {said}")
        else:
            await handle.result()

    async def _heard(self, handle: object, count: int) -> None:
        from romancy_nats.core.events import EventReceived

        while True:
            try:
                commits = await handle.history()  # type: ignore[attr-defined]
            except RomancyError:
                commits = []
            heard = sum(isinstance(event, EventReceived) for commit in commits for event in commit.events)
            if heard >= count:
                return
            await asyncio.sleep(1)

    async def _slot(self, number: int) -> None:
        life = 0
        while not self.over:
            life += 1
            name = f"w{number}.{life}"
            world = self.server.world(name, faults=self.faults)
            engine = Engine(world, [waiter], replace(TUNING, label=name))
            task = world.spawn(self._engine(world, engine))
            if self.dice.random() < 0.3:
                world.spawn(self._drain(engine, self.dice.random() * 60))
            await asyncio.wait([task])
            if not world.crashed and not task.cancelled() and (error := task.exception()) is not None:
                self.wrong.append(f"worker {name} ended with {error!r}")
            await asyncio.sleep(self.dice.random() * 10)

    async def _engine(self, world: object, engine: Engine) -> None:
        await world.ensure_consumers({waiter.name: None})  # type: ignore[attr-defined]
        await engine.run()

    async def _drain(self, engine: Engine, after: float) -> None:
        await asyncio.sleep(after)
        self.faults.fired["drain"] += 1
        await engine.drain()


def run(seed: int) -> Waiting:
    loop = VirtualTimeLoop(seed, keep_order=True)

    async def main() -> Waiting:
        waiting = Waiting(seed)
        await waiting.whole()
        return waiting

    try:
        return loop.run_until_complete(main())
    finally:
        clear(loop)
        loop.close()


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.parametrize("first", range(0, SCHEDULES, CHUNK))
def test_every_wait_is_answered(first: int) -> None:
    counted: Counter[str] = Counter()
    for seed in range(first, first + CHUNK):
        waiting = run(seed)
        assert not waiting.wrong, f"seed {seed}: " + "\n".join(waiting.wrong)
        counted += waiting.faults.fired
    assert all(counted[fault] for fault in MUST_FIRE), f"a fault never happened in this chunk: {counted}"
