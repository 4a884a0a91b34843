"""A worker that loses its lease while a claim is under way: the dead incarnation owns nothing and commits nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from romancy_nats import Client, WorkflowContext, activity, workflow
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.pending import PendingActivity
from romancy_nats.core.record import InstanceRecord
from romancy_nats.ports import Refusal, Refused, WriteReply
from romancy_nats.runtime.attempts import Attempts
from romancy_nats.runtime.engine import Engine
from romancy_nats.runtime.tuning import Tuning
from romancy_nats.runtime.workshop import Workshop
from romancy_nats.testing.memory import MemoryServer
from romancy_nats.testing.virtual_time import run

TUNING = Tuning(lease_ttl=2.0, ack_wait=3.0, forward_timeout=0.5)


@workflow
async def answers(ctx: WorkflowContext) -> int:
    return 42


class Leases:
    """The first renewal is refused, and the lease after it takes a while to get."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._refused = False
        self.taken = 0
        self.lost = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def take(self, *args: Any) -> WriteReply:
        self.taken += 1
        if self.taken > 1:
            self.lost.set()
            await asyncio.sleep(0.5)
        reply: WriteReply = await self._inner.take(*args)
        return reply

    async def renew(self, *args: Any) -> WriteReply:
        if not self._refused:
            self._refused = True
            return Refused(Refusal.STALE)
        reply: WriteReply = await self._inner.renew(*args)
        return reply


class Ledger:
    """The answer to the first claim comes `late` after the lease was lost."""

    def __init__(self, inner: Any, lost: asyncio.Event, late: float) -> None:
        self._inner = inner
        self._lost = lost
        self._late = late
        self.appended: list[bytes] = []
        self.writes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def write(self, key: InstanceKey, record: InstanceRecord, expected: int) -> WriteReply:
        self.writes += 1
        first = self.writes == 1
        reply: WriteReply = await self._inner.write(key, record, expected)
        if first:
            await self._lost.wait()
            await asyncio.sleep(self._late)
        return reply

    def append(self, *args: Any) -> None:
        self.appended.append(args[3])
        self._inner.append(*args)


def play(late: float, check: Callable[[Engine, Leases, Ledger], None]) -> None:
    async def main() -> None:
        server = MemoryServer(seed=1)
        inner, plain = server.world("worker"), server.world("client")
        await inner.ensure_consumers({answers.name: None})
        leases = Leases(inner.leases)
        ledger = Ledger(inner.ledger, leases.lost, late)
        engine = Engine(replace(inner, leases=leases, ledger=ledger), [answers], TUNING)
        async with asyncio.TaskGroup() as group:
            group.create_task(engine.run())
            await engine.ready.wait()
            handle = await Client(plain).start(answers.options(id="a"))
            assert await handle.result(60) == 42
            check(engine, leases, ledger)
            await engine.drain()

    run(main)


@pytest.mark.parametrize("late", [0.0, 1.0], ids=["before the next lease", "after it"])
def test_a_claim_that_the_lease_did_not_outlive_is_given_back(late: float) -> None:
    def check(engine: Engine, leases: Leases, ledger: Ledger) -> None:
        assert leases.taken == 2
        assert ledger.writes >= 2, "the instance was not claimed again"
        assert all(engine.lease.incarnation.encode() in data for data in ledger.appended)

    play(late, check)


def test_no_first_attempt_begins_once_the_lease_is_gone() -> None:
    """The process stands still between the commit that asks for an activity and the activity's first moment."""
    began: list[str] = []

    @activity
    async def act() -> None:
        began.append("it")

    class Told:
        def ended(self, event: object) -> None: ...
        def attempt_failed(self, event: object, *, commit: bool) -> None: ...
        def announce(self, type: str, data: bytes) -> None: ...

    async def main() -> None:
        world = MemoryServer(seed=1).world("worker")
        workshop = Workshop(TUNING, world.clock, world.chance)
        valid = True
        workshop.may_begin = lambda: valid
        nobody: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        pending = PendingActivity("act:1", act, act.parameters.encode((), {}), nobody, 0, "")
        attempts = Attempts(workshop, InstanceKey("w", "i"), 0, pending, Told())
        valid = False
        attempts.begin()
        await asyncio.sleep(60)
        assert began == []
        valid = True
        await asyncio.sleep(60)
        assert began == ["it"]

    run(main, seed=1)
