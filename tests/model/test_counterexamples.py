"""Trails of the model, played to the engine; each is named after the mutant that is like it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from romancy_nats import Client, WorkflowContext, workflow
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.record import InstanceRecord
from romancy_nats.ports import WriteReply
from romancy_nats.runtime.engine import Engine
from romancy_nats.runtime.tuning import Tuning
from romancy_nats.testing.memory import MemoryServer
from romancy_nats.testing.virtual_time import run

TUNING = Tuning(lease_ttl=2.0, ack_wait=3.0, forward_timeout=0.5)


@workflow
async def answers(ctx: WorkflowContext) -> int:
    return 42


class Scene:
    """What the two workers and the stage hands tell each other."""

    def __init__(self) -> None:
        self.resting = asyncio.Event()
        self.claiming = asyncio.Event()
        self.doubtful = asyncio.Event()
        self.engine: Engine | None = None


class Around:
    """A port with one of its methods changed."""

    def __init__(self, inner: Any, scene: Scene) -> None:
        self._inner = inner
        self._scene = scene

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class NeverRests(Around):
    """The ledger of a worker that dies between its last commit and the rest."""

    async def write(self, key: InstanceKey, record: InstanceRecord, expected: int) -> WriteReply:
        if record.status.ended:
            self._scene.resting.set()
            await asyncio.Event().wait()
        reply: WriteReply = await self._inner.write(key, record, expected)
        return reply


class SlowClaim(Around):
    """The answer to the claim comes when the claimer's lease has become doubtful."""

    async def write(self, key: InstanceKey, record: InstanceRecord, expected: int) -> WriteReply:
        reply: WriteReply = await self._inner.write(key, record, expected)
        if expected and not record.status.ended:
            self._scene.claiming.set()
            await self._scene.doubtful.wait()
        return reply


class SlowRenewal(Around):
    """A renewal that is stored at once, and answered a moment after the lease has become doubtful."""

    async def renew(self, *args: Any) -> WriteReply:
        reply: WriteReply = await self._inner.renew(*args)
        if self._scene.claiming.is_set() and not self._scene.doubtful.is_set():
            assert self._scene.engine is not None
            while self._scene.engine.lease.valid():
                await asyncio.sleep(0.01)
            self._scene.doubtful.set()
            await asyncio.sleep(0.1)
        return reply


async def _dies_before_the_rest(server: MemoryServer, scene: Scene) -> None:
    world = server.world("first")
    await world.ensure_consumers({answers.name: None})
    engine = Engine(replace(world, ledger=NeverRests(world.ledger, scene)), [answers], TUNING)
    running = asyncio.create_task(engine.run())
    await engine.ready.wait()
    await Client(server.world("client")).start(answers.options(id="a"))
    await scene.resting.wait()
    running.cancel()
    await asyncio.wait([running])


async def _ended(server: MemoryServer) -> bool:
    world, key = server.world("reader"), InstanceKey(answers.name, "a")
    for _ in range(600):
        held = await world.ledger.read(key)
        if held is not None and held.record.status.ended:
            return True
        await asyncio.sleep(0.1)
    return False


def test_what_was_loaded_while_the_lease_was_doubtful_comes_to_rest() -> None:
    """POKE_ONLY_FOR_MESSAGES: it only has to rest, and nothing arrives any more: the renewal alone must see to it."""

    async def main() -> None:
        server, scene = MemoryServer(seed=1), Scene()
        await _dies_before_the_rest(server, scene)
        world = server.world("second")
        ledger, leases = SlowClaim(world.ledger, scene), SlowRenewal(world.leases, scene)
        scene.engine = engine = Engine(replace(world, ledger=ledger, leases=leases), [answers], TUNING)
        incarnations = set[str]()
        running = asyncio.create_task(engine.run())
        await scene.doubtful.wait()
        incarnations.add(engine.lease.incarnation)
        ended = await _ended(server)
        incarnations.add(engine.lease.incarnation)
        await engine.drain()
        await running
        assert len(incarnations) == 1, "the lease was lost instead: another story"
        assert ended

    run(main)
