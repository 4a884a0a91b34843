"""What an ended instance leaves in memory: nothing, without the garbage collector, which a worker runs rarely."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

import pytest

from romancy_nats import Client, MessageTimeoutError, WorkflowContext, activity, workflow
from romancy_nats.core.definition import Workflow
from romancy_nats.runtime.engine import Engine
from romancy_nats.runtime.tuning import Tuning
from romancy_nats.testing.memory import MemoryServer
from romancy_nats.testing.virtual_time import run


@activity
async def one() -> int:
    await asyncio.sleep(1)
    return 1


@workflow
async def completes(ctx: WorkflowContext) -> int:
    return await ctx.run(one)


@workflow
async def spawns(ctx: WorkflowContext) -> int:
    async with asyncio.TaskGroup() as group:
        both = [group.create_task(ctx.run(one)) for _ in range(2)]
    return sum(task.result() for task in both)


@workflow
async def sleeps(ctx: WorkflowContext) -> int:
    await asyncio.sleep(1)
    async with asyncio.timeout(100):
        return await ctx.run(one)


@workflow
async def serves(ctx: WorkflowContext) -> int:
    ctx.on_query("same", lambda: ctx.instance_id)
    ctx.on_update("same", lambda: ctx.now())
    ctx.register_compensation(one)
    ctx.logger.info("serves")
    try:
        await ctx.receive("never", timeout=timedelta(seconds=1))
    except MessageTimeoutError:
        return await ctx.run(one)
    return 0


def _instances(engine: Engine) -> list[weakref.ref[object]]:
    return [
        weakref.ref(one)
        for instance in engine.host.instances.values()
        for one in (instance, instance.execution)
    ]


async def _play(flow: Workflow[[], int]) -> None:
    server = MemoryServer(seed=1)
    world, plain = server.world("worker"), server.world("client")
    await world.ensure_consumers({flow.name: None})
    engine = Engine(world, [flow], Tuning())
    async with asyncio.TaskGroup() as group:
        group.create_task(engine.run())
        await engine.ready.wait()
        gc.collect()
        handles = [await Client(plain).start(flow.options(timeout=timedelta(hours=1))) for _ in range(5)]
        await asyncio.sleep(0.5)
        seen = _instances(engine)
        assert len(seen) == 10
        for handle in handles:
            await handle.result(60)
        await asyncio.sleep(1)
        assert [one() for one in seen if one() is not None] == []
        await engine.drain()


@pytest.mark.parametrize("flow", [completes, spawns, sleeps, serves], ids=lambda flow: flow.name)
def test_an_ended_instance_is_freed_at_once(flow: Workflow[[], int]) -> None:
    def main() -> Coroutine[Any, Any, None]:
        return _play(flow)

    gc.disable()
    try:
        run(main)
    finally:
        gc.enable()
