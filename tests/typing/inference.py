"""What the checkers must infer from user code, and what they must refuse. Read by mypy and pyright, never run.

A line that must be refused carries the word of each checker; one that is not refused is an error of its own.
Generic activities are a known limit of mypy and not in here.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any, ParamSpec, TypeVar, assert_type
from uuid import UUID

from romancy_nats import (
    ActivityContext,
    App,
    Client,
    InstanceInfo,
    InstanceStatus,
    RetryPolicy,
    Worker,
    WorkflowContext,
    WorkflowHandle,
    activity,
    activity_context,
    compensation,
    current_workflow,
    workflow,
)

P = ParamSpec("P")
R = TypeVar("R")


@dataclass
class Reservation:
    item: str


@dataclass
class OrderResult:
    total: int


@dataclass
class Resources:
    name: str


@compensation
async def cancel_reservation(item_id: str) -> None: ...


@compensation(retry=RetryPolicy(max_attempts=3), timeout=5)
def refund(account: str, result: int) -> None: ...


@activity(compensation=cancel_reservation, retry=RetryPolicy(max_attempts=3), timeout=timedelta(seconds=30))
async def reserve(item_id: str, count: int = 1, *, urgent: bool = False) -> Reservation:
    return Reservation(item_id)


@activity
def charge(account: str, amount: int) -> int:
    return amount


@activity(name="named", heartbeat=5, errors=[ValueError], max_threads=2, compensation=refund)
def named(account: str) -> list[str]:
    return [account]


@activity
async def plain() -> None: ...


class Shop:
    @activity
    async def sell(self, item: str) -> Reservation:
        return Reservation(item)

    @activity
    def wrap(self, item: str) -> int:
        return len(item)


class Fetcher:
    async def __call__(self, n: int) -> bytes:
        return b""


def traced(fn: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        return fn(*args, **kwargs)

    return wrapper


@activity
@traced
async def decorated(n: int) -> str:
    return ""


called = activity(name="called")(Fetcher())


def local(a: int, b: str = "") -> float:
    return a


async def local_async(a: int) -> bytes:
    return b""


@workflow
async def order(ctx: WorkflowContext, item: str, count: int = 1) -> OrderResult:
    assert_type(await ctx.run(reserve, item), Reservation)
    assert_type(await ctx.run(reserve, item, 2, urgent=True), Reservation)
    assert_type(await ctx.run(reserve, item_id=item, count=3), Reservation)
    assert_type(await ctx.run(charge, "a", 1), int)
    assert_type(await ctx.run(named, "a"), list[str])
    assert_type(await ctx.run(plain), None)
    assert_type(await ctx.run(reserve.options(id="x", timeout=3, retry=RetryPolicy()), item), Reservation)
    shop = Shop()
    assert_type(await ctx.run(shop.sell, "tea"), Reservation)
    assert_type(await ctx.run(shop.wrap, item="tea"), int)
    assert_type(await ctx.step("local", local, 1, b="x"), float)
    assert_type(await ctx.step("local", local_async, 1), bytes)
    assert_type(await ctx.run(decorated, 1), str)
    assert_type(await ctx.run(called, 1), bytes)
    assert_type(await ctx.step("wrapped", lambda: local_async(1)), bytes)
    assert_type(await ctx.step("object", Fetcher(), 1), bytes)
    assert_type(await ctx.step("partial", functools.partial(local_async, 1)), bytes)
    both = await asyncio.gather(ctx.run(charge, "a", 1), ctx.run(reserve, "b"))
    assert_type(both, tuple[int, Reservation])
    async with asyncio.TaskGroup() as group:
        task = group.create_task(ctx.run(charge, "a", 1))
    assert_type(task.result(), int)
    ctx.register_compensation(refund, "a", result=1)
    ctx.register_compensation(local, 1)

    await ctx.run(reserve)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await ctx.run(reserve, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await ctx.run(reserve, "a", 1, True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await ctx.run(reserve, "a", colour=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await ctx.run(charge, "a", "b")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await ctx.run(shop.sell, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await ctx.run(local, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await ctx.step("local", local, "x")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    ctx.register_compensation(refund, 1, 2)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    wrong: str = await ctx.run(charge, "a", 1)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    return OrderResult(len(wrong))


@workflow(name="second", max_concurrency=3)
async def second(ctx: WorkflowContext) -> int:
    assert_type(ctx.instance_id, str)
    assert_type(ctx.workflow_name, str)
    assert_type(ctx.worker_id, str)
    assert_type(ctx.generation, int)
    assert_type(ctx.is_replaying, bool)
    assert_type(ctx.now(), datetime)
    assert_type(ctx.uuid4(), UUID)
    assert_type(ctx.random, Random)
    ctx.logger.info("hello")
    await ctx.sleep(1)
    await ctx.sleep(timedelta(seconds=1))
    await ctx.sleep_until(ctx.now())
    assert_type(current_workflow(), WorkflowContext | None)
    return 1


@workflow  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
def not_async(ctx: WorkflowContext) -> int:
    return 1


async def inside_an_activity() -> None:
    context = activity_context()
    assert_type(context, ActivityContext)
    assert_type(context.state(Resources), Resources)
    assert_type(context.attempt, int)
    assert_type(context.cancelled, bool)
    assert_type(context.idempotency_key, str)
    context.heartbeat({"row": 1})


async def direct_calls(ctx: WorkflowContext) -> None:
    assert_type(await reserve("a"), Reservation)
    assert_type(charge("a", 1), int)
    assert_type(await Shop().sell("a"), Reservation)
    assert_type(Shop().wrap("a"), int)
    assert_type(await order(ctx, "a"), OrderResult)
    charge(1, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@asynccontextmanager
async def resources() -> AsyncGenerator[Resources]:
    yield Resources("db")


async def outside(client: Client) -> None:
    handle = await client.start(order, "a", count=2)
    assert_type(handle, WorkflowHandle[OrderResult])
    assert_type(await handle.result(timeout=10), OrderResult)
    assert_type(await handle.status(), InstanceStatus)
    assert_type(await handle.describe(), InstanceInfo)
    assert_type(await handle.cancel("why"), bool)
    assert_type(await client.execute(order, "a"), OrderResult)
    assert_type(await client.execute(second), int)
    optional = order.options(id="x", timeout=timedelta(hours=1), on_conflict="restart_ended")
    assert_type(await client.execute(optional, "a"), OrderResult)
    assert_type(await client.start("by name", 1, x=2), WorkflowHandle[Any])
    assert_type(client.get("x", order), WorkflowHandle[OrderResult])
    assert_type(client.get("x", result_type=int), WorkflowHandle[int])
    assert_type(client.get("x"), WorkflowHandle[Any])
    async for info in client.list(workflow=order, status="running"):
        assert_type(info, InstanceInfo)
    assert_type(await client.count(), int)

    await client.start(order)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await client.start(order, 1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await client.execute(optional, 1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await client.execute(second, 1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    order.options(on_conflict="explode")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    order.options(colour=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def applications() -> None:
    app = App("orders", workflows=[order, second], lifespan=resources, default_retry=RetryPolicy())
    async with app.run() as client:
        assert_type(client, Client)
    async with app.worker(url="nats://localhost") as worker:
        assert_type(worker, Worker)
    async with Client.connect("nats://localhost") as connected:
        assert_type(connected, Client)
    async with app.run(overrides={charge: local}) as tested:
        assert_type(tested, Client)
    App("orders", workflows=[local])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
