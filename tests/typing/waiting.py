"""What the checkers must infer from workflow code that waits. Read by mypy and pyright, never run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from romancy_nats import Client, ReceivedEvent, ReceivedMessage, WorkflowContext, WorkflowHandle, workflow


@dataclass
class Paid:
    amount: int


@workflow
async def waits(ctx: WorkflowContext) -> int:
    plain = await ctx.wait_event("payment.completed", timeout=timedelta(minutes=5))
    assert_type(plain, ReceivedEvent[Any])
    typed = await ctx.wait_event("payment.completed", key="order-17", model=Paid)
    assert_type(typed, ReceivedEvent[Paid])
    assert_type(typed.data.amount, int)
    message = await ctx.receive("approvals", 5)
    assert_type(message, ReceivedMessage[Any])
    modelled = await ctx.receive("approvals", model=Paid)
    assert_type(modelled, ReceivedMessage[Paid])
    also = await ctx.receive("approvals", 5, Paid)
    assert_type(also, ReceivedMessage[Paid])
    async with ctx.events("payment.completed", model=Paid) as payments:
        async for payment in payments:
            assert_type(payment, ReceivedEvent[Paid])
            return payment.data.amount
    return 0


async def delayed(client: Client) -> None:
    options = waits.options(
        id="order-17",
        start_delay=timedelta(days=1),
        attributes={"customer": "Ann"},
        memo={"why": "test"},
        retention=timedelta(days=30),
    )
    assert_type(await client.execute(options), int)
    assert_type(await client.start(waits.options(start_at=datetime.now(UTC))), WorkflowHandle[int])
    waits.options(start_delay="soon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@workflow
async def decides(ctx: WorkflowContext) -> int:
    skipped = await ctx.wait_event("payment.completed", model=Paid, invalid="skip")
    assert_type(skipped, ReceivedEvent[Paid])
    raised = await ctx.receive("approvals", model=Paid, invalid="raise")
    assert_type(raised, ReceivedMessage[Paid])
    async with ctx.events("payment.completed", model=Paid, invalid="raise") as payments:
        async for payment in payments:
            assert_type(payment, ReceivedEvent[Paid])
    await ctx.wait_event("t", invalid="ignore")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    return skipped.data.amount
