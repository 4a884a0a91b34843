"""Watching an instance: its history from the first event on, what it emits, its attempts, until it ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from romancy_nats import (
    InstanceNotFoundError,
    RetryPolicy,
    WatchItem,
    WorkflowContext,
    activity,
    activity_context,
    workflow,
)
from tests.integration.place import Place, until_status

pytestmark = pytest.mark.anyio


@activity(retry=RetryPolicy(max_attempts=3, initial_interval=0.05))
async def flaky() -> str:
    if activity_context().attempt < 3:
        raise OSError("not yet")
    return "done"


@activity
def progress() -> str:
    activity_context().emit({"percent": 50})
    activity_context().heartbeat("halfway")
    return "done"


@activity
async def long() -> None:
    await asyncio.sleep(0.3)


@workflow
async def telling(ctx: WorkflowContext) -> str:
    await ctx.receive("go")
    ctx.emit({"step": 1})
    ctx.emit("kept", durable=True)
    await ctx.run(flaky)
    await ctx.run(progress)
    await ctx.run(long)
    ctx.emit({"step": 2})
    return "told"


async def seen(handle: Any) -> list[WatchItem]:
    return [item async for item in handle.watch()]


def types(items: list[WatchItem]) -> list[str]:
    return [item.type for item in items]


async def test_a_watcher_sees_it_all(place: Place) -> None:
    async with place.run(telling) as client:
        handle = await client.start(telling)
        watching = asyncio.ensure_future(seen(handle))
        await until_status(handle, "waiting_for_message")
        await handle.send("go", None)
        items = await asyncio.wait_for(watching, 10)
        assert await handle.status() == "completed"
        found = types(items)
        assert found[0] == "WorkflowStarted"
        assert "WorkflowCompleted" in found
        emitted = [item.data for item in items if item.type == "Emitted"]
        assert {"step": 1} in emitted
        assert {"step": 2} in emitted
        assert {"percent": 50} in emitted
        assert emitted.count("kept") == 1
        attempts = [i.data for i in items if i.type in ("AttemptStarted", "AttemptFailed")]
        flaky_ones = [one["attempt"] for one in attempts if one["activity_id"] == "flaky:1"]
        assert flaky_ones == [1, 1, 2, 2, 3]
        assert any(one["activity_id"] == "long:1" for one in attempts)
        assert [item.data for item in items if item.type == "Heartbeat"] == ["halfway"]
        history = [e for c in await handle.history() for e in c.events]
        recorded = [t for t in found if t not in ("AttemptStarted", "AttemptFailed", "Heartbeat")]
        assert len(recorded) == len(history) + 3
        assert all(item.time.tzinfo is not None for item in items)


async def test_a_late_watcher_sees_the_history(place: Place) -> None:
    async with place.run(telling) as client:
        handle = await client.start(telling)
        await handle.send("go", None)
        await handle.result(10)
        items = await asyncio.wait_for(seen(handle), 5)
        history = [type(e).__name__ for c in await handle.history() for e in c.events]
        assert types(items) == history
        assert [item.data for item in items if item.type == "Emitted"] == ["kept"]


async def test_watching_a_failure_and_a_cancel(place: Place) -> None:
    async with place.run(telling) as client:
        handle = await client.start(telling)
        watching = asyncio.ensure_future(seen(handle))
        await until_status(handle, "waiting_for_message")
        await handle.cancel("enough")
        items = await asyncio.wait_for(watching, 10)
        assert items[-1].type == "WorkflowCancelled"
        assert items[-1].data == {"reason": "enough"}


async def test_watching_before_there_is_a_worker(place: Place) -> None:
    async with place.client() as client:
        handle = await client.start(telling)
        watching = asyncio.ensure_future(seen(handle))
        await asyncio.sleep(0.2)
        await handle.cancel()
        async with place.worker(telling):
            items = await asyncio.wait_for(watching, 10)
            assert await handle.status() == "cancelled"
            # Whether the cancel came before the start is the queues' affair.
            assert items == [] or types(items)[-1] == "WorkflowCancelled"


async def test_watching_nobody(place: Place) -> None:
    async with place.run(telling) as client:
        with pytest.raises(InstanceNotFoundError):
            await seen(client.get("nobody", telling))
