"""Instances that cannot go on: parked as stalled with the reason, nothing lost, and healed again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from romancy_nats import Workflow, WorkflowContext, WorkflowStalledError, activity, workflow
from tests.integration.place import Place, until, until_status

pytestmark = pytest.mark.anyio

calls: list[str] = []
gate: dict[str, bool] = {}


@pytest.fixture(autouse=True)
def fresh() -> None:
    calls.clear()
    gate.clear()


@activity
async def first() -> str:
    calls.append("first")
    return "1"


@activity
async def waits() -> str:
    calls.append("waits")
    while not gate.get("open"):
        await asyncio.sleep(0.005)
    return "2"


@activity
async def other() -> str:
    calls.append("other")
    return "3"


def versions() -> tuple[Workflow[[], str], Workflow[[], str]]:
    """The same workflow in two versions; the second asks for something else at its first step."""

    @workflow(name="changing")
    async def old(ctx: WorkflowContext) -> str:
        return await ctx.run(first) + await ctx.run(waits)

    @workflow(name="changing")
    async def new(ctx: WorkflowContext) -> str:
        return await ctx.run(other) + await ctx.run(waits)

    return old, new


async def test_a_workflow_that_nothing_can_wake_is_stalled(place: Place) -> None:
    @workflow
    async def deadlock(ctx: WorkflowContext) -> None:
        await ctx.run(first)
        await asyncio.Event().wait()

    async with place.run(deadlock) as client:
        handle = await client.start(deadlock)
        with pytest.raises(WorkflowStalledError, match="nothing that could ever wake it") as stalled:
            await handle.result(5)
        assert stalled.value.instance_id == handle.id
        assert await handle.status() == "stalled"
        assert await handle.terminate("enough")
        await until_status(handle, "terminated")


async def test_a_step_without_end_is_stalled_and_the_worker_lives(place: Place) -> None:
    @workflow
    async def spins(ctx: WorkflowContext) -> None:
        await ctx.run(first)
        while True:
            await asyncio.sleep(0)

    @workflow
    async def fine(ctx: WorkflowContext) -> str:
        return await ctx.run(first)

    async with place.run(spins, fine) as client:
        handle = await client.start(spins)
        with pytest.raises(WorkflowStalledError):
            await handle.result(10)
        assert await client.execute(fine) == "1"
        assert await handle.cancel("spinning") in (True, False)


async def test_other_code_stalls_with_a_diff_and_commits_nothing_then_the_old_code_heals_it(
    place: Place,
) -> None:
    old, new = versions()
    async with place.client() as client:
        async with place.worker(old):
            handle = await client.start(old)
            await until(lambda: "waits" in calls)
        before = await handle.history()
        async with place.worker(new):
            with pytest.raises(WorkflowStalledError) as stalled:
                await handle.result(5)
        told = stalled.value.message
        assert "- expected: ActivityScheduled(id='first:1', name='first')" in told
        assert "+ produced: ActivityScheduled(id='other:1', name='other')" in told
        assert "test_stalled.py" in told
        assert "ctx.run(other)" in told
        assert await handle.history() == before
        assert "other" not in calls
        gate["open"] = True
        async with place.worker(old):
            await until_status(handle, "completed")
            assert await handle.result(5) == "12"
    assert calls.count("first") == 1


async def test_retry_by_hand(place: Place) -> None:
    @workflow
    async def moody(ctx: WorkflowContext) -> str:
        # Not deterministic, on purpose.
        found = await ctx.run(other if gate.get("mood") else first)
        return found + await ctx.run(waits)

    async with place.client() as client:
        async with place.worker(moody):
            handle = await client.start(moody)
            await until(lambda: "waits" in calls)
            assert await handle.retry() is False
        gate["mood"] = True
        async with place.worker(moody):
            with pytest.raises(WorkflowStalledError):
                await handle.result(5)
            assert await handle.retry()
            with pytest.raises(WorkflowStalledError):
                await handle.result(5)
            gate.update(mood=False, open=True)
            another = client.get(handle.id, moody)
            assert await another.retry()
            assert await another.result(5) == "12"


async def test_a_callback_from_another_thread_is_stalled_with_its_stack(place: Place) -> None:
    import threading

    @workflow
    async def leaks(ctx: WorkflowContext) -> None:
        loop = asyncio.get_running_loop()
        threading.Timer(0.02, reach_in, (loop,)).start()
        await ctx.run(waits)

    def reach_in(loop: Any) -> None:
        try:
            loop.call_soon_threadsafe(print)
        except RuntimeError as error:
            calls.append(f"refused: {error}")

    async with place.run(leaks) as client:
        handle = await client.start(leaks)
        await until(lambda: any(call.startswith("refused") for call in calls))
        gate["open"] = True
        with pytest.raises(WorkflowStalledError, match="reach_in"):
            await handle.result(5)


async def test_a_cancel_of_a_stalled_instance_waits_for_code_that_fits(place: Place) -> None:
    old, new = versions()
    async with place.client() as client:
        async with place.worker(old):
            handle = await client.start(old)
            await until(lambda: "waits" in calls)
        async with place.worker(new):
            await until_status(handle, "stalled")
            assert await handle.cancel("no longer needed")
        async with place.worker(old):
            await until_status(handle, "cancelled")


@workflow(name="listening")
async def listens(ctx: WorkflowContext) -> list[str]:
    await ctx.run(first)
    return [str((await ctx.receive("go")).data) for _ in range(3)]


@workflow(name="listening")
async def listens_otherwise(ctx: WorkflowContext) -> list[str]:
    await ctx.run(other)
    return []


async def test_what_arrived_while_stalled_is_heard_at_once_after_healing_and_the_stall_is_logged_once(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async with place.client() as client:
        async with place.worker(listens):
            handle = await client.start(listens)
            await until_status(handle, "waiting_for_message")
        async with place.worker(listens_otherwise):
            for text in ("a", "b", "c"):
                await handle.send("go", text)
            await until_status(handle, "stalled")
            await until(lambda: bool(stalls(caplog)))
            await asyncio.sleep(1.5)  # each of the three came again meanwhile
        async with place.worker(listens):
            # Not after a pause that grew with the stall; a bound far above what it takes, far below the 30 s of before.
            await until_status(handle, "completed", within=8)
            assert await handle.result(5) == ["a", "b", "c"]
    assert len(stalls(caplog)) == 1


def stalls(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if " stalls: " in record.getMessage()]


async def test_a_cancel_of_what_waits_for_nothing_takes_effect_at_once(place: Place) -> None:
    @workflow
    async def forlorn(ctx: WorkflowContext) -> None:
        await ctx.run(first)
        await asyncio.Event().wait()

    async with place.run(forlorn) as client:
        handle = await client.start(forlorn)
        await until_status(handle, "stalled")
        assert await handle.cancel("nobody comes")
        await until_status(handle, "cancelled", within=5)


async def test_a_stall_shows_what_the_code_raises_now(place: Place) -> None:
    @activity(name="ordered")
    async def ordered_before() -> OrderBefore:
        return OrderBefore(sku="a")

    @activity(name="ordered")
    async def ordered_now() -> OrderNow:
        return OrderNow(sku="a", amount=1)

    @workflow(name="buying")
    async def before(ctx: WorkflowContext) -> str:
        order = await ctx.run(ordered_before)
        return order.sku + await ctx.run(waits)

    @workflow(name="buying")
    async def now(ctx: WorkflowContext) -> str:
        order = await ctx.run(ordered_now)
        return order.sku + await ctx.run(waits)

    async with place.client() as client:
        async with place.worker(before):
            handle = await client.start(before)
            await until(lambda: "waits" in calls)
        async with place.worker(now):
            with pytest.raises(WorkflowStalledError) as stalled:
                await handle.result(10)
        told = stalled.value.message
        assert "- expected: ActivityScheduled(id='waits:1', name='waits')" in told
        assert "amount" in told
        assert "test_stalled.py" in told
        assert "Traceback" in told
        assert "Restore the old order of calls" not in told


class OrderBefore(BaseModel):
    sku: str


class OrderNow(BaseModel):
    """The same model in a later version."""

    sku: str
    amount: int


OrderNow.__qualname__ = OrderBefore.__qualname__
