"""Sagas on a real server: what is undone, in which order, and what describe() says about it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from romancy_nats import (
    RetryExhaustedError,
    RetryPolicy,
    TerminalError,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    activity_context,
    compensation,
    workflow,
)
from tests.integration.place import Place, until, until_status

pytestmark = pytest.mark.anyio

QUICK = RetryPolicy(max_attempts=3, initial_interval=0.01, jitter=0)
calls: list[Any] = []
held: set[str] = set()


@pytest.fixture(autouse=True)
def fresh() -> None:
    calls.clear()
    held.clear()


@compensation
async def cancel(item: str) -> None:
    calls.append(f"cancel {item}")
    while item in held:
        await asyncio.sleep(0.005)


@activity(compensation=cancel)
async def reserve(item: str, delay: float = 0.0) -> str:
    await asyncio.sleep(delay)
    calls.append(f"reserve {item}")
    return f"R-{item}"


@activity(retry=RetryPolicy(max_attempts=1), compensation=cancel)
async def breaks(item: str) -> None:
    raise ValueError(item)


async def test_completed_activities_are_undone_in_reverse_order_of_completion(place: Place) -> None:
    @workflow
    async def order(ctx: WorkflowContext) -> None:
        await ctx.run(reserve, "a")
        await asyncio.gather(ctx.run(reserve, "slow", 0.15), ctx.run(reserve, "fast"))
        await ctx.run(breaks, "never")

    async with place.run(order) as client:
        handle = await client.start(order)
        with pytest.raises(WorkflowFailedError):
            await handle.result(5)
        done = (await handle.describe()).compensations
    assert calls == ["reserve a", "reserve fast", "reserve slow", "cancel slow", "cancel fast", "cancel a"]
    assert [(info.activity_id, info.name, info.status) for info in done] == [
        ("reserve:2", "cancel", "completed"),
        ("reserve:3", "cancel", "completed"),
        ("reserve:1", "cancel", "completed"),
    ]


async def test_an_activity_without_a_recorded_completion_is_not_undone(place: Place) -> None:
    @workflow
    async def order(ctx: WorkflowContext) -> None:
        await ctx.run(reserve, "a")
        async with asyncio.timeout(0.05):
            await ctx.run(reserve, "endless", 60.0)

    async with place.run(order) as client:
        with pytest.raises(WorkflowFailedError) as failed:
            await client.execute(order)
    assert failed.value.error_type == "TimeoutError"
    assert calls == ["reserve a", "cancel a"]


async def test_an_error_that_the_workflow_catches_undoes_nothing(place: Place) -> None:
    @workflow
    async def order(ctx: WorkflowContext) -> str:
        await ctx.run(reserve, "a")
        try:
            await ctx.run(breaks, "b")
        except RetryExhaustedError:
            return "went on"
        return ""

    async with place.run(order) as client:
        assert await client.execute(order) == "went on"
    assert calls == ["reserve a"]


async def test_a_compensation_that_fails_does_not_stop_the_others_and_is_listed(place: Place) -> None:
    @compensation(retry=QUICK)
    async def stuck(item: str) -> None:
        calls.append(f"stuck {activity_context().attempt}")
        raise OSError("no way")

    @compensation(retry=QUICK)
    async def final(item: str) -> None:
        calls.append("final")
        raise TerminalError("not at all")

    @activity(compensation=stuck)
    async def second(item: str) -> None: ...

    @activity(compensation=final)
    async def third(item: str) -> None: ...

    @workflow
    async def order(ctx: WorkflowContext) -> None:
        await ctx.run(reserve, "a")
        await ctx.run(second, "b")
        await ctx.run(third, "c")
        raise LookupError("the reason")

    async with place.run(order) as client:
        handle = await client.start(order)
        with pytest.raises(WorkflowFailedError, match="the reason"):
            await handle.result(5)
        info = await handle.describe()
    assert calls == ["reserve a", "final", "stuck 1", "stuck 2", "stuck 3", "cancel a"]
    assert [(one.name, one.status) for one in info.compensations] == [
        ("final", "failed"),
        ("stuck", "failed"),
        ("cancel", "completed"),
    ]
    assert "not at all" in info.compensations[0].error
    assert "no way" in info.compensations[1].error


async def test_a_compensation_takes_what_it_names(place: Place) -> None:
    @compensation
    def plain(result: str, amount: int) -> None:
        calls.append((result, amount, activity_context().activity_id))

    def undecorated(account: str, *, amount: int = 0) -> None:
        calls.append((account, amount))

    def nothing() -> None:
        calls.append("nothing")

    @activity(compensation=plain)
    async def charge(account: str, amount: int = 5) -> str:
        return f"{account}-{amount}"

    @activity(compensation=undecorated)
    def book(account: str, amount: int = 6) -> None: ...

    @activity(compensation=nothing)
    async def log(account: str) -> None: ...

    @workflow
    async def order(ctx: WorkflowContext) -> None:
        await ctx.run(charge, account="x")
        await ctx.run(book, "y")
        await ctx.run(log, "z")
        raise ValueError

    async with place.run(order) as client:
        with pytest.raises(WorkflowFailedError):
            await client.execute(order)
    assert calls == ["nothing", ("y", 6), ("x-5", 5, "compensate:charge:1")]


async def test_a_registered_compensation_stands_at_its_place(place: Place) -> None:
    async def by_hand(*what: str, loud: bool) -> None:
        calls.append(("by hand", *what, loud))

    @workflow
    async def order(ctx: WorkflowContext) -> None:
        await ctx.run(reserve, "a")
        ctx.register_compensation(by_hand, "x", "y", loud=True)
        await ctx.run(reserve, "b")
        ctx.register_compensation(cancel, "extra")
        raise ValueError

    async with place.run(order) as client:
        with pytest.raises(WorkflowFailedError):
            await client.execute(order)
    assert calls[2:] == ["cancel extra", "cancel b", ("by hand", "x", "y", True), "cancel a"]


@workflow
async def undone_slowly(ctx: WorkflowContext) -> None:
    for item in ("a", "b", "c"):
        await ctx.run(reserve, item)
    raise ValueError("undo it")


async def test_compensating_is_visible_and_goes_on_where_it_was_on_another_worker(place: Place) -> None:
    held.add("b")
    start = lambda client: client.start(undone_slowly)  # noqa: E731

    def ready() -> bool:
        return "cancel b" in calls

    async with place.client() as client:
        async with place.worker(undone_slowly):
            handle = await start(client)
            await until(ready)
            await until_status(handle, "compensating")
            statuses = [info.status for info in (await handle.describe()).compensations]
            assert statuses == ["completed", "scheduled"]
        held.clear()
        async with place.worker(undone_slowly):
            with pytest.raises(WorkflowFailedError, match="undo it"):
                await handle.result(5)
    assert calls[3:] == ["cancel c", "cancel b", "cancel b", "cancel a"]
    assert calls[:3] == ["reserve a", "reserve b", "reserve c"]


async def test_a_compensation_keeps_its_retry_and_timeout(place: Place) -> None:
    @compensation(timeout=0.05, retry=QUICK)
    async def slow_first(item: str) -> None:
        calls.append(activity_context().attempt)
        if activity_context().attempt == 1:
            await asyncio.sleep(60)

    @activity(compensation=slow_first)
    async def take(item: str) -> None: ...

    @workflow
    async def order(ctx: WorkflowContext) -> None:
        await ctx.run(take, "a")
        raise ValueError

    async with place.run(order) as client:
        with pytest.raises(WorkflowFailedError):
            await client.execute(order)
    assert calls == [1, 2]


async def test_a_step_and_a_bound_method_with_compensations(place: Place) -> None:
    class Shop:
        async def give_back(self, item: str) -> None:
            calls.append(f"give back {item}")

    shop = Shop()

    @workflow
    async def order(ctx: WorkflowContext) -> None:
        await ctx.step("take", lambda: calls.append("took"))
        ctx.register_compensation(shop.give_back, "tea")
        raise ValueError

    async with place.run(order) as client:
        with pytest.raises(WorkflowFailedError):
            await client.execute(order)
    assert calls == ["took", "give back tea"]


async def test_a_compensation_that_asks_for_more_than_there_is(place: Place) -> None:
    async def unrelated(nobody_gave: int) -> None: ...

    @activity(compensation=unrelated)
    async def take(**more: str) -> None:  # what it is given is known when it is called
        calls.append(more["item"])

    @workflow
    async def order(ctx: WorkflowContext) -> None:
        await ctx.run(take, item="a")
        raise ValueError("no more")

    async with place.run(order) as client:
        handle = await client.start(order)
        with pytest.raises(WorkflowFailedError, match="no more"):
            await handle.result(3)
        [undone] = (await handle.describe()).compensations
        assert undone.status == "failed"
        assert "nobody_gave" in undone.error
