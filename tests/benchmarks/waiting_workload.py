"""The workflows that wait, for the measurements of waiting."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from romancy_nats import App, WorkflowContext, activity, workflow

EVENT = "benchmark.go"


@activity
async def clock() -> float:
    """Seconds since the epoch, now."""
    return time.time()


@workflow
async def waiter(ctx: WorkflowContext, key: str | None) -> str:
    """One event, by key or by type alone."""
    event = await ctx.wait_event(EVENT, key=key)
    return event.id


@workflow
async def sleeper(ctx: WorkflowContext, due: float) -> float:
    """How late (seconds) it was woken for `due`."""
    await ctx.sleep_until(datetime.fromtimestamp(due, UTC))
    return await ctx.run(clock) - due


@workflow
async def brief(ctx: WorkflowContext) -> None:
    """Ends at once."""


app = App("waiting", workflows=[waiter, sleeper, brief])
