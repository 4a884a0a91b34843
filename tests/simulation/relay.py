"""An instance that begins anew again and again while it is talked to, under faults: program, user, rules."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from romancy_nats import Client, WorkflowCancelledError, WorkflowContext, WorkflowHandle, activity, workflow
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.record import InstanceRecord
from romancy_nats.errors import EventTimeoutError, RomancyError
from romancy_nats.runtime.engine import Engine
from romancy_nats.testing.memory import Faults, MemoryServer, MemoryWorld
from romancy_nats.testing.virtual_time import VirtualTimeLoop, clear
from tests.simulation.schedule import LONGEST, TUNING
from tests.simulation.slots import Slots


@activity
async def note(what: str) -> str:
    """Some work between two messages."""
    await asyncio.sleep(0.1)
    return what


@workflow
async def relay(ctx: WorkflowContext, got: list[str], count: int, each: int, nap: float) -> list[str]:
    """Takes `each` messages a generation, naps, works, waits in vain, until it has `count`; what it was told."""
    for _ in range(each):
        got.append(await ctx.run(note, (await ctx.receive("words")).data))
        if len(got) == count:
            return got
    await ctx.sleep(nap)
    try:
        await ctx.wait_event("never", timeout=nap / 2)
    except EventTimeoutError:
        ctx.recur(got, count, each, nap)
    return ["heard what nobody sent"]


@dataclass(slots=True)
class Relay:
    """How a run is set up, and what came of it."""

    seed: int
    faults: Faults
    replicas: int = 1
    workers: int = 2
    words: int = 8
    each: int = 2
    nap: float = 0.5
    cancel_after: float | None = None
    trouble: float = 300.0
    patience: float = LONGEST
    generations: int = 0
    wrong: list[str] = field(default_factory=list[str])


def random_relay(seed: int, faults: Faults, replicas: int, workers: int) -> Relay:
    """A random one under the faults of a plan."""
    dice = Random(f"{seed}/relay")
    cancel = dice.random() * 30 if dice.random() < 0.2 else None
    words, nap = 1 + dice.randrange(12), dice.choice([0.0, 0.0, 0.4, 3.0, 20.0])
    return Relay(seed, faults, replicas, workers, words, 1 + dice.randrange(3), nap, cancel)


def run(relay_: Relay) -> Relay:
    """Carry it out in virtual time."""
    loop = VirtualTimeLoop(relay_.seed, keep_order=True)

    async def main() -> None:
        it = _Run(relay_)
        try:
            await it.whole()
        finally:
            it.slots.close()

    try:
        loop.run_until_complete(main())
    finally:
        clear(loop)
        loop.close()
    return relay_


class _Run:
    def __init__(self, chosen: Relay) -> None:
        self.chosen = chosen
        self.dice = Random(f"{chosen.seed}/relay run")
        self.server = MemoryServer(
            seed=chosen.seed, shards=2, replicas=chosen.replicas, ack_wait=TUNING.ack_wait
        )
        self.slots = Slots(self.server, chosen.faults, self.dice, self._build, chosen.wrong)
        self.key = InstanceKey(relay.name, "i")

    async def whole(self) -> None:
        slots = [asyncio.create_task(self.slots.run(number)) for number in range(self.chosen.workers)]
        user = asyncio.create_task(self._user())
        await asyncio.wait([user], timeout=self.chosen.trouble)
        self.chosen.faults.heal()
        await asyncio.wait([user], timeout=self.chosen.patience)
        if not user.done():
            self.chosen.wrong.append("the user still waits")
            user.cancel()
        elif (error := user.exception()) is not None:
            self.chosen.wrong.append(f"the user met {error!r}")
        await self._drained()
        self.slots.over = True
        for slot in slots:
            slot.cancel()
        await asyncio.gather(*slots, return_exceptions=True)
        self._check_server()

    # --- the user

    async def _user(self) -> None:
        spared = replace(self.chosen.faults, crash=0.0, pause=0.0, outage=0.0, clock_jump=0.0)
        spared.fired = self.chosen.faults.fired
        client = Client(self.server.world("client", faults=spared))
        chosen = self.chosen
        handle = await client.start(relay.options(id="i"), [], chosen.words, chosen.each, chosen.nap)
        result = asyncio.create_task(self._result(handle))
        cancelled = asyncio.create_task(self._cancel(handle))
        words = [f"word {number}" for number in range(chosen.words)]
        for word in words:
            await asyncio.sleep(self.dice.choice([0.0, 0.0, 0.01, 0.3, 0.5, 2.0]))
            await self._say(handle, word)
        told = await result
        await cancelled
        if told is not None and sorted(told) != sorted(words):
            chosen.wrong.append(f"it was told {words} and says {told}")
        if told is None and chosen.cancel_after is None:
            chosen.wrong.append("cancelled without a cancel")

    async def _say(self, handle: WorkflowHandle[Any], word: str) -> None:
        while True:
            try:
                await handle.send("words", word, message_id=word)
                return
            except RomancyError:
                if (await self._status(handle)).ended:
                    return
                await asyncio.sleep(1)

    async def _status(self, handle: WorkflowHandle[Any]) -> Any:
        while True:
            try:
                return await handle.status()
            except RomancyError:
                await asyncio.sleep(1)

    async def _cancel(self, handle: WorkflowHandle[Any]) -> None:
        after = self.chosen.cancel_after
        while after is not None:
            await asyncio.sleep(after)
            try:
                await handle.cancel()
                return
            except RomancyError:
                after = 1.0

    async def _result(self, handle: WorkflowHandle[list[str]]) -> list[str] | None:
        while True:
            try:
                return await handle.result()
            except WorkflowCancelledError:
                return None
            except RomancyError:
                await asyncio.sleep(1)

    def _build(self, world: MemoryWorld, name: str) -> Engine:
        return Engine(world, [relay], replace(TUNING, label=name, archive_after=1.0))

    # --- the rules

    async def _drained(self) -> None:
        for _ in range(60):
            streams = (self.server.start_stream, self.server.messages_stream, self.server.timers_stream)
            if not any(stream.messages for stream in streams) and self._record().sealed:
                return
            await asyncio.sleep(10)

    def _record(self) -> InstanceRecord:
        shard = self.server.shards[self.key.shard(2)]
        versions = shard.records.get(self.key.token)
        return InstanceRecord.decode(versions[-1].data) if versions else InstanceRecord()

    def _check_server(self) -> None:
        wrong, record = self.chosen.wrong, self._record()
        self.chosen.generations = record.generation + 1
        for stream in (self.server.start_stream, self.server.messages_stream, self.server.timers_stream):
            if stream.messages:
                wrong.append(f"{stream.name} still holds {list(stream.messages.values())[:2]}")
        if left := [place for shard in self.server.shards for place in shard.commits]:
            wrong.append(f"the ledger still holds {left}; the record says {record}")
        waits = [
            one for waits in self.server.events.waits.values() for one, w in waits.items() if not w.removed
        ]
        # A late write, or a frozen worker's, may land after it was removed: the first event that it hears removes it.
        fired = self.chosen.faults.fired
        if waits and not (fired["late_write_landed"] or fired["pause"]):
            wrong.append(f"registrations are left: {waits}")
