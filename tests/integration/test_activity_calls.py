"""Calls of activities: their ids, methods and closures, results that cannot be kept, parallel ones."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from romancy_nats import (
    DuplicateIdError,
    PayloadError,
    RetryPolicy,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    activity_context,
    workflow,
)
from tests.integration.place import Place, until

pytestmark = pytest.mark.anyio

QUICK = RetryPolicy(max_attempts=3, initial_interval=0.01, jitter=0)
calls: list[Any] = []


@pytest.fixture(autouse=True)
def fresh() -> None:
    calls.clear()


@activity
async def counted(x: int) -> int:
    calls.append(x)
    return x


async def test_ids_are_given_in_program_order_or_by_hand(place: Place) -> None:
    @activity
    async def who() -> str:
        return activity_context().activity_id

    @workflow
    async def ids(ctx: WorkflowContext) -> list[str]:
        return [
            await ctx.run(who),
            await ctx.run(who.options(id="mine")),
            *await asyncio.gather(ctx.run(who), ctx.run(who)),
        ]

    async with place.run(ids) as client:
        assert await client.execute(ids) == ["who:1", "mine", "who:2", "who:3"]


async def test_the_same_id_twice_is_an_error(place: Place) -> None:
    @workflow
    async def twice(ctx: WorkflowContext) -> None:
        await ctx.run(counted.options(id="same"), 1)
        await ctx.run(counted.options(id="same"), 1)

    async with place.run(twice) as client:
        with pytest.raises(WorkflowFailedError) as failed:
            await client.execute(twice)
    assert isinstance(failed.value.__cause__, DuplicateIdError)
    assert len(calls) == 1


class Shop:
    def __init__(self, name: str) -> None:
        self.name = name

    @activity
    async def sell(self, item: str) -> str:
        return f"{self.name}:{item}"

    @activity
    def wrap(self, item: str) -> str:
        return f"[{self.name}:{item}]"


async def test_bound_methods_and_closures(place: Place) -> None:
    shop = Shop("corner")

    @workflow
    async def buys(ctx: WorkflowContext) -> list[str]:
        async def close(by: str) -> str:
            return f"{shop.name} closed {by}"

        sold = await ctx.run(shop.sell, "tea")
        wrapped = await ctx.run(shop.wrap, item="tea")
        return [sold, wrapped, await ctx.step("close", close, "early"), await ctx.step("plain", lambda: "x")]

    assert await shop.sell("tea") == "corner:tea"
    async with place.run(buys) as client:
        assert await client.execute(buys) == ["corner:tea", "[corner:tea]", "corner closed early", "x"]


async def test_a_result_that_cannot_be_kept_fails_that_activity_by_name(place: Place) -> None:
    @activity(retry=QUICK)
    async def opaque() -> Any:
        calls.append("opaque")
        return object()

    @activity(retry=QUICK)
    async def huge() -> bytes:
        calls.append("huge")
        return bytes(2_000_000)

    @workflow
    async def keeps(ctx: WorkflowContext) -> list[str]:
        told: list[str] = []
        for one in (opaque, huge):
            try:
                await ctx.run(one)
            except PayloadError as error:
                told.append(str(error))
        return told

    async with place.run(keeps) as client:
        first, second = await client.execute(keeps)
    assert "opaque" in first
    assert "huge" in second
    assert "2,000,0" in second
    assert calls == ["opaque", "huge"]


async def test_parallel_activities_run_in_parallel(place: Place) -> None:
    @activity
    async def meets(n: int) -> int:
        calls.append(n)
        await until(lambda: len(calls) == 20)
        return n

    @workflow
    async def fans_out(ctx: WorkflowContext) -> list[int]:
        return await asyncio.gather(*(ctx.run(meets, n) for n in range(20)))

    async with place.run(fans_out) as client:
        handle = await client.start(fans_out)
        assert await handle.result(10) == list(range(20))
        assert len(await handle.history()) < 12  # they share commits
