"""Cancel on a real server: delivered fast wherever the instance is, undoing what was done, once."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from romancy_nats import (
    RetryPolicy,
    WorkflowCancelledError,
    WorkflowContext,
    WorkflowTerminatedError,
    activity,
    activity_context,
    compensation,
    workflow,
)
from romancy_nats.core.events import ActivityCompleted, CancelRequested, WorkflowCancelled, WorkflowCompleted
from tests.integration.place import Place, until, until_status

pytestmark = pytest.mark.anyio

LAST = 59
calls: list[str] = []
held: set[str] = set()


@pytest.fixture(autouse=True)
def fresh() -> None:
    calls.clear()
    held.clear()


@compensation
async def undo(item: str) -> None:
    calls.append(f"undo {item}")
    while f"undo {item}" in held:
        await asyncio.sleep(0.005)


@activity(compensation=undo)
async def do(item: str) -> str:
    calls.append(f"do {item}")
    return item


@activity
async def endless() -> None:
    calls.append("endless")
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        calls.append("interrupted")
        raise


@workflow
async def busy(ctx: WorkflowContext) -> None:
    await ctx.run(do, "a")
    await ctx.run(do, "b")
    await ctx.run(endless)


@workflow(max_concurrency=1)
async def narrow(ctx: WorkflowContext) -> None:
    await ctx.run(do, "a")
    await ctx.run(endless)


async def test_interrupted_undone_in_reverse_and_the_reason_is_told(place: Place) -> None:
    async with place.run(busy) as client:
        handle = await client.start(busy)
        await until(lambda: "endless" in calls)
        assert await handle.cancel("changed my mind") is True
        with pytest.raises(WorkflowCancelledError) as cancelled:
            await handle.result(5)
        assert (cancelled.value.reason, cancelled.value.instance_id) == ("changed my mind", handle.id)
        assert calls == ["do a", "do b", "endless", "interrupted", "undo b", "undo a"]
        info = await handle.describe()
        assert (info.status, len(info.compensations)) == ("cancelled", 2)
        assert await handle.cancel() is False


async def test_the_owner_on_another_worker_hears_of_it_at_once(place: Place) -> None:
    patient = place.settings(lease_ttl=60.0)  # whatever waits for a lease or an ack is too late
    async with place.worker(busy, settings=patient) as owner, place.client() as client:
        handle = await client.start(busy)
        await until(lambda: "endless" in calls)
        async with place.worker(busy, settings=patient) as idle:
            for _ in range(3):  # whichever of the two pulls the message
                calls.remove("endless")
                await handle.cancel()
                await until(lambda: "interrupted" in calls)
                await until_status(handle, "cancelled")
                calls.clear()
                handle = await client.start(busy)
                await until(lambda: "endless" in calls)
            assert owner.instances + idle.instances == 1
            await handle.cancel()
            await until_status(handle, "cancelled")


async def test_a_cancel_is_not_held_up_by_a_concurrency_limit(place: Place) -> None:
    async with place.run(narrow) as client:
        running, waiting = await client.start(narrow), await client.start(narrow.options(id="waiting"))
        await until(lambda: "endless" in calls)
        assert await waiting.status() == "queued"
        assert await waiting.cancel("never mind")
        await until_status(waiting, "cancelled")
        assert await running.status() == "running"
        await running.cancel()
        await until_status(running, "cancelled")
        with pytest.raises(WorkflowCancelledError, match="never mind"):
            await waiting.result(5)
        # The limit is free again, and the body of the one that waited was never entered.
        third = await client.start(narrow)
        await until(lambda: calls.count("endless") == 2)
        assert calls.count("do a") == 2
        await third.cancel()
        await until_status(third, "cancelled")


async def test_before_any_worker_has_it_the_body_is_never_entered(place: Place) -> None:
    async with place.client() as client:
        handle = await client.start(busy.options(id="early"))
        assert await handle.cancel("too early")
        async with place.worker(busy):
            with pytest.raises(WorkflowCancelledError, match="too early"):
                await handle.result(5)
            await until_status(handle, "cancelled")
            with pytest.raises(WorkflowCancelledError):
                await client.execute(busy.options(id="early"))
    assert calls == []


async def test_during_back_off(place: Place) -> None:
    @activity(retry=RetryPolicy(initial_interval=60))
    async def fails() -> None:
        calls.append("failed")
        raise OSError

    @workflow
    async def backs_off(ctx: WorkflowContext) -> None:
        await ctx.run(fails)

    async with place.run(backs_off) as client:
        handle = await client.start(backs_off)
        await until(lambda: calls == ["failed"])
        await handle.cancel()
        with pytest.raises(WorkflowCancelledError):
            await handle.result(5)
    assert calls == ["failed"]


async def test_a_thread_sees_the_flag_and_nobody_waits_for_it(place: Place) -> None:
    @activity
    def works() -> None:
        calls.append("works")
        while not activity_context().cancelled or "thread" in held:
            time.sleep(0.005)
        calls.append("saw it")

    @workflow
    async def threaded(ctx: WorkflowContext) -> None:
        await ctx.run(works)

    held.add("thread")
    async with place.run(threaded) as client:
        handle = await client.start(threaded)
        await until(lambda: "works" in calls)
        await handle.cancel()
        await until_status(handle, "cancelled")
        assert calls == ["works"]
        held.clear()
        await until(lambda: calls == ["works", "saw it"])


async def test_during_a_sleep(place: Place) -> None:
    @workflow
    async def sleeps(ctx: WorkflowContext) -> None:
        calls.append("asleep")
        await asyncio.sleep(3600)

    async with place.run(sleeps) as client:
        handle = await client.start(sleeps)
        await until(lambda: calls == ["asleep"])
        await handle.cancel()
        await until_status(handle, "cancelled", within=2)


async def test_ignored_while_it_compensates(place: Place) -> None:
    @workflow
    async def fails(ctx: WorkflowContext) -> None:
        await ctx.run(do, "a")
        await ctx.run(do, "b")
        raise ValueError("the reason")

    held.add("undo b")
    async with place.run(fails) as client:
        handle = await client.start(fails)
        await until_status(handle, "compensating")
        await handle.cancel("too late")
        await until(lambda: "undo b" in calls)
        held.clear()
        await until_status(handle, "failed")
    assert calls == ["do a", "do b", "undo b", "undo a"]


async def test_twice_is_once(place: Place) -> None:
    held.add("undo b")
    async with place.run(busy) as client:
        handle = await client.start(busy)
        await until(lambda: "endless" in calls)
        await asyncio.gather(*(handle.cancel(f"number {n}") for n in range(5)))
        await until(lambda: "undo b" in calls)
        await handle.cancel("late")
        held.clear()
        await until_status(handle, "cancelled")
    assert calls == ["do a", "do b", "endless", "interrupted", "undo b", "undo a"]


async def test_the_workflow_may_clean_up_and_ends_cancelled_whatever_it_returns(place: Place) -> None:
    @workflow
    async def tidy(ctx: WorkflowContext, swallow: bool) -> str:
        await ctx.run(do, "a")
        try:
            await ctx.run(endless)
        except asyncio.CancelledError:
            await ctx.run(do, "in except")
            if not swallow:
                raise
        finally:
            await ctx.run(do, "in finally")
        return "all is well"

    async with place.run(tidy) as client:
        for swallow in (True, False):
            calls.clear()
            handle = await client.start(tidy, swallow)
            await until(lambda: "endless" in calls)
            await handle.cancel()
            with pytest.raises(WorkflowCancelledError):
                await handle.result(5)
            assert calls[3:] == [
                "do in except",
                "do in finally",
                "undo in finally",
                "undo in except",
                "undo a",
            ]


async def test_a_cancel_and_a_completion_at_once_give_one_end(place: Place) -> None:
    @workflow
    async def short(ctx: WorkflowContext, n: int) -> int:
        await ctx.run(do, str(n))
        await ctx.sleep(0.06)
        return n

    async def one(client: Any, n: int) -> str:
        handle = await client.start(short, n)
        if n == LAST:
            await handle.result(5)
        await asyncio.sleep(n / 500)
        await handle.cancel()
        try:
            assert await handle.result(5) == n
            told = "completed"
        except WorkflowCancelledError:
            told = "cancelled"
        assert await handle.status() == told
        events = [event for commit in await handle.history() for event in commit.events]
        ends = [type(event) for event in events if isinstance(event, WorkflowCancelled | WorkflowCompleted)]
        if not events:
            # Cancelled before a worker had it: nothing but the record.
            assert told == "cancelled"
            return told
        assert ends == [WorkflowCancelled if told == "cancelled" else WorkflowCompleted]
        assert sum(isinstance(event, CancelRequested) for event in events) <= 1
        # Done is what is recorded: a completion that came after the cancel does not count.
        done = any(isinstance(event, ActivityCompleted) and event.id == "do:1" for event in events)
        assert (f"undo {n}" in calls) == (told == "cancelled" and done)
        return told

    async with place.run(short) as client:
        told = await asyncio.gather(*(one(client, n) for n in range(LAST + 1)))
    assert set(told) == {"completed", "cancelled"}


async def test_terminate_ends_at_once_without_undoing(place: Place) -> None:
    async with place.run(busy) as client:
        handle = await client.start(busy)
        await until(lambda: "endless" in calls)
        assert await handle.terminate("pulled the plug")
        with pytest.raises(WorkflowTerminatedError, match="pulled the plug"):
            await handle.result(5)
        assert await handle.terminate() is False
        await until(lambda: "interrupted" in calls)
    assert "undo a" not in calls
