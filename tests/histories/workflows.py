"""The workflows whose recorded histories are replayed for ever. Never change what one asks for: add another instead."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

from romancy_nats import (
    RetryPolicy,
    TerminalError,
    Workflow,
    WorkflowContext,
    activity,
    activity_context,
    compensation,
    workflow,
)

QUICK = RetryPolicy(max_attempts=3, initial_interval=0.01, jitter=0.0)


@dataclass
class Reservation:
    item: str
    price: Decimal


class CardDeclinedError(TerminalError):
    """Final: the card will not get better."""


@compensation
async def cancel_reservation(item: str, result: Reservation) -> None:
    assert result.item == item


@activity(compensation=cancel_reservation)
async def reserve(item: str, price: Decimal = Decimal("9.99")) -> Reservation:
    return Reservation(item, price)


@compensation
def refund(amount: Decimal) -> None:
    """A plain function: it runs in a thread."""


@activity(compensation=refund)
def charge(amount: Decimal) -> str:
    return f"receipt for {amount}"


@activity
async def decline(amount: Decimal) -> str:
    raise CardDeclinedError(f"no credit for {amount}")


@activity(retry=QUICK)
async def flaky(name: str) -> int:
    if activity_context().attempt < 3:
        raise ConnectionError(f"{name} is away")
    return activity_context().attempt


@activity(retry=QUICK)
async def hopeless() -> None:
    raise ConnectionError("away for good")


@activity
async def slow(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@activity
def add(left: int, right: int) -> int:
    return left + right


@workflow
async def sequential(ctx: WorkflowContext, item: str) -> str:
    reservation = await ctx.run(reserve, item)
    receipt = await ctx.run(charge, reservation.price)
    return f"{reservation.item}: {receipt}"


@workflow
async def gathered(ctx: WorkflowContext, count: int) -> list[int]:
    sums = await asyncio.gather(*(ctx.run(add, n, n) for n in range(count)))
    return [*sums, await ctx.run(add, sums[0], sums[-1])]


@workflow
async def saga_failed(ctx: WorkflowContext, first: str, second: str) -> str:
    one = await ctx.run(reserve, first)
    two = await ctx.run(reserve, second, price=Decimal("2.50"))
    await ctx.run(charge, one.price + two.price)
    return await ctx.run(decline, one.price + two.price)


@workflow
async def cancelled_in_flight(ctx: WorkflowContext, item: str) -> float:
    await ctx.run(reserve, item)
    try:
        return await ctx.run(slow, 3600.0)
    finally:
        await ctx.run(add, 1, 1)


@workflow
async def terminated(ctx: WorkflowContext, item: str) -> None:
    await ctx.run(reserve, item)
    await ctx.run(slow, 3600.0)


@workflow
async def retried(ctx: WorkflowContext, name: str) -> str:
    attempts = await ctx.run(flaky, name)
    try:
        await ctx.run(hopeless)
    except Exception as error:  # noqa: BLE001 - what comes back is part of the history
        return f"{attempts} attempts, then {type(error).__name__}"
    return "never"


@workflow
async def timed(ctx: WorkflowContext, naps: int) -> float:
    began = ctx.now()
    for _ in range(naps):
        await asyncio.sleep(0.01)
    await ctx.sleep(timedelta(milliseconds=10))
    await ctx.run(add, naps, 1)
    return (ctx.now() - began) / timedelta(seconds=1)


@workflow
async def grouped(ctx: WorkflowContext) -> list[int]:
    async def branch(n: int) -> int:
        await asyncio.sleep(0.005 * n)
        return await ctx.run(add, n, 10)

    async with asyncio.TaskGroup() as group:
        branches = [group.create_task(branch(n)) for n in range(4)]
    return [task.result() for task in branches]


@workflow
async def group_failed(ctx: WorkflowContext) -> str:
    seen = ""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.run(slow, 3600.0))
            group.create_task(ctx.run(decline, Decimal(1)))
    except* CardDeclinedError as errors:
        seen = f"{len(errors.exceptions)} declined"
    return seen


@workflow
async def waited_for(ctx: WorkflowContext) -> list[str]:
    seen: list[str] = []
    try:
        await asyncio.wait_for(ctx.run(slow, 3600.0), 0.02)
    except TimeoutError:
        seen.append("late")
    seen.append(str(await asyncio.wait_for(ctx.run(add, 2, 2), 60.0)))
    async with asyncio.timeout(60.0):
        seen.append(str(await ctx.run(add, 3, 3)))
    return seen


@workflow
async def mixed(ctx: WorkflowContext, names: list[str]) -> dict[str, object]:
    """Random numbers, ids, a queue between tasks, the first of several, a closure."""
    queue: asyncio.Queue[str] = asyncio.Queue()
    order = ctx.random.sample(names, len(names))

    async def consume() -> list[str]:
        return [await queue.get() + str(await ctx.run(add, n, 1)) for n in range(len(order))]

    consumer = asyncio.create_task(consume())
    for name in order:
        await asyncio.sleep(0.005)
        queue.put_nowait(name)
    done, pending = await asyncio.wait([consumer], timeout=60)
    nap = asyncio.create_task(asyncio.sleep(3600))
    first = await next(iter(asyncio.as_completed([asyncio.create_task(ctx.run(add, 5, 5)), nap])))
    pid = await ctx.step("pid", os.getpid)
    return {
        "consumed": [item for task in done for item in task.result()],
        "left": len(pending),
        "first": first,
        "id": ctx.uuid4(),
        "pid": pid > 0,
    }


@workflow
async def recurred(ctx: WorkflowContext, upto: int, total: int = 0) -> int:
    """Begins anew with what it has so far; a message to itself is handed on."""
    if not ctx.generation:
        await ctx.send_to(ctx.instance_id, "notes", 40)
        await ctx.sleep(0.2)
    total = await ctx.run(add, total, ctx.generation)
    if ctx.generation < upto:
        ctx.recur(upto, total)
    return total + (await ctx.receive("notes")).data


WORKFLOWS: dict[str, Workflow[..., Any]] = {
    one.name: one
    for one in (
        sequential,
        gathered,
        saga_failed,
        cancelled_in_flight,
        terminated,
        retried,
        timed,
        grouped,
        group_failed,
        waited_for,
        mixed,
        recurred,
    )
}
