"""The workflows that are run under faults, one of each shape. Every activity says in the record what it did."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from types import TracebackType
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
from tests.chaos.record import Kind, Line, Record, settled, wall_clock

_numbers = itertools.count(1)
LONG = 60.0
"""Longer than any run: only a cancel ends it."""


class HopelessError(TerminalError):
    """What the failing saga fails with."""


class Visit:
    """One attempt, from its begin line to the line that says how it went; `with` in a thread, else `async with`."""

    def __init__(self, activity: str, *seen: str) -> None:
        context = activity_context()
        self._record = record = context.state(Record)
        self.attempt = context.attempt
        self.value = f"{context.activity_id}#{self.attempt}@{os.getpid()}.{next(_numbers)}"
        self._about = (
            context.workflow_name,
            context.instance_id,
            activity,
            context.activity_id,
            context.attempt,
            record.incarnation,
            os.getpid(),
        )
        self._seen = seen

    def _line(self, kind: Kind) -> Line:
        return Line(kind, *self._about, wall_clock(), time.monotonic(), self.value, self._seen)

    def __enter__(self) -> Visit:
        self._record.line(self._line("begin")).result()
        return self

    def __exit__(
        self, error: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._record.line(self._line(_kind(error))).result()

    async def __aenter__(self) -> Visit:
        await settled(self._record.line(self._line("begin")))
        return self

    async def __aexit__(
        self, error: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await settled(self._record.line(self._line(_kind(error))))


def _kind(error: type[BaseException] | None) -> Kind:
    if error is None:
        return "end"
    return "interrupted" if issubclass(error, asyncio.CancelledError) else "failed"


@compensation
async def undo(result: str) -> str:
    async with Visit("undo", result) as visit:
        await asyncio.sleep(0.01)
        return visit.value


@activity(compensation=undo)
async def reserve(pause: float, before: list[str]) -> str:
    async with Visit("reserve", *before) as visit:
        await asyncio.sleep(pause)
        return visit.value


@activity
async def touch(pause: float, before: list[str]) -> str:
    async with Visit("touch", *before) as visit:
        await asyncio.sleep(pause)
        return visit.value


@activity
def grind(pause: float, before: list[str]) -> str:
    with Visit("grind", *before) as visit:
        time.sleep(pause)
        return visit.value


@activity(retry=RetryPolicy(max_attempts=20, initial_interval=0.05, max_interval=0.1))
async def shaky(before: list[str]) -> str:
    async with Visit("shaky", *before) as visit:
        if visit.attempt < 3:
            raise ConnectionError("try again")
        return visit.value


@activity
async def hopeless(before: list[str]) -> str:
    async with Visit("hopeless", *before):
        raise HopelessError("no")


@workflow
async def chain(ctx: WorkflowContext, steps: int, pause: float) -> str:
    value = ""
    for _ in range(steps):
        value = await ctx.run(touch, pause, [value] if value else [])
    return value


@workflow
async def fan(ctx: WorkflowContext, width: int, pause: float) -> str:
    values = await asyncio.gather(*(ctx.run(touch, pause, []) for _ in range(width)))
    return await ctx.run(touch, pause, values)


@workflow
async def tries(ctx: WorkflowContext, pause: float) -> str:
    first = await ctx.run(shaky, [])
    return await ctx.run(touch, pause, [first])


@workflow
async def threaded(ctx: WorkflowContext, pause: float) -> str:
    first = await ctx.run(grind, pause, [])
    await asyncio.sleep(pause)
    return await ctx.run(grind, pause, [first])


async def _reserve_all(ctx: WorkflowContext, steps: int, pause: float) -> list[str]:
    values = [await ctx.run(reserve, pause, [])]
    for _ in range(steps - 1):
        values.append(await ctx.run(reserve, pause, values[-1:]))
    return values


@workflow
async def failing(ctx: WorkflowContext, steps: int, pause: float) -> str:
    """A saga that fails at its end and is undone."""
    return await ctx.run(hopeless, await _reserve_all(ctx, steps, pause))


@workflow
async def patient(ctx: WorkflowContext, pause: float) -> str:
    """A saga that goes on until it is cancelled."""
    values = await _reserve_all(ctx, 2, pause)
    return await ctx.run(touch, LONG, values)


WORKFLOWS: tuple[Workflow[..., Any], ...] = (chain, fan, tries, threaded, failing, patient)
BY_NAME = {flow.name: flow for flow in WORKFLOWS}


def failing_named(name: str) -> Workflow[..., Any]:
    """The failing saga under a name of its own, so that a worker can be the only one that has it."""
    return workflow(name=name)(failing.fn)
