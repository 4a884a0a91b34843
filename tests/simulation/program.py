"""Random programs: plain data that one workflow interprets, so that a seed is a whole run."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from romancy_nats import (
    RetryPolicy,
    TerminalError,
    WorkflowContext,
    activity,
    activity_context,
    compensation,
    workflow,
)
from tests.simulation.record import Record

Program = list[Any]
"""`["act", label, mode]`, `["par" | "group" | "seq", ops]`, `["try", op]`, `["sleep", seconds]`, `["timeout", s, op]`,
`["cleanup", op, op]`, `["fail"]`."""

RETRY = RetryPolicy(max_attempts=4, initial_interval=0.5, backoff_coefficient=3, jitter=0.2)


@compensation(retry=RETRY)
async def undo(label: str, mode: str, seconds: float) -> str:
    """Undo one piece of work; some fail for good, which must not stop the others."""
    return await _work(f"undo {label}", "fatal" if mode == "stubborn" else "ok", seconds / 2)


@activity(compensation=undo, retry=RETRY)
async def work(label: str, mode: str, seconds: float) -> str:
    """One piece of work with a compensation."""
    return await _work(label, mode, seconds)


@activity(retry=RETRY, name="plain")
async def plain(label: str, mode: str, seconds: float) -> str:
    """One piece of work without."""
    return await _work(label, mode, seconds)


@activity(retry=RETRY, timeout=2.0, name="limited")
async def limited(label: str, mode: str, seconds: float) -> str:
    """One piece of work that is given up after two seconds."""
    return await _work(label, mode, seconds)


KINDS = {"work": work, "plain": plain, "limited": limited}


async def _work(label: str, mode: str, seconds: float) -> str:
    me = activity_context()
    attempt = me.state(Record).begin(me, label)
    try:
        await asyncio.sleep(seconds)
        if mode == "fatal":
            raise TerminalError(f"{label} never works")
        if mode.startswith("flaky") and me.attempt <= int(mode[5:]):
            raise ValueError(f"{label} does not work yet")
    except BaseException as error:
        attempt.fail(error)
        raise
    return attempt.end()


@workflow
async def interpreter(ctx: WorkflowContext, program: list[Any]) -> str:
    """Carry out a program; the result is everything that its activities returned, in program order."""
    return "|".join(await _run(ctx, ["seq", program]))


@workflow(name="interpreter")
async def changed(ctx: WorkflowContext, program: list[Any]) -> str:
    """A version of it that asks for something else first: what the other began it cannot go on with (L7)."""
    return "|".join(await _run(ctx, ["seq", [["act", "plain", "changed", "ok", 0.0], *program]]))


async def _run(ctx: WorkflowContext, op: list[Any]) -> list[str]:  # noqa: C901 - one case per operation
    match op:
        case ["act", kind, label, mode, seconds]:
            return [await ctx.run(KINDS[kind], label, mode, seconds)]
        case ["seq", ops]:
            return [value for each in ops for value in await _run(ctx, each)]
        case ["par", ops]:
            return [
                value for some in await asyncio.gather(*(_run(ctx, each) for each in ops)) for value in some
            ]
        case ["group", ops]:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_run(ctx, each)) for each in ops]
            return [value for task in tasks for value in task.result()]
        case ["try", inner]:
            try:
                return await _run(ctx, inner)
            except Exception as error:  # noqa: BLE001 - that is what a `try` in a program means
                return [type(error).__name__]
        case ["sleep", seconds]:
            await ctx.sleep(seconds)
            return []
        case ["timeout", seconds, inner]:
            try:
                async with asyncio.timeout(seconds):
                    return await _run(ctx, inner)
            except TimeoutError:
                return ["late"]
        case ["cleanup", inner, last]:
            try:
                return await _run(ctx, inner)
            finally:
                await _run(ctx, last)
        case ["fail"]:
            raise ValueError("as the program says")
        case _:
            raise AssertionError(f"no such operation: {op!r}")


def make(dice: Random, size: int = 6) -> Program:
    """A random program of up to `size` operations on its top level."""
    return _Maker(dice).ops(1 + dice.randrange(size), depth=2)


class _Maker:
    def __init__(self, dice: Random) -> None:
        self._dice = dice
        self._labels = 0

    def ops(self, count: int, depth: int) -> Program:
        return [self._op(depth) for _ in range(count)]

    def _op(self, depth: int) -> list[Any]:
        roll = self._dice.random()
        if depth == 0 or roll < 0.6:
            return self._act()
        some = self.ops(1 + self._dice.randrange(3), depth - 1)
        if roll < 0.72:
            return ["par", some]
        if roll < 0.8:
            return ["group", some]
        if roll < 0.85:
            return ["try", ["seq", some]]
        if roll < 0.9:
            return ["sleep", round(self._dice.choice([0.0, 0.01, 1.0, 20.0]), 3)]
        if roll < 0.94:
            return ["timeout", self._dice.choice([0.5, 5.0]), ["seq", some]]
        if roll < 0.97:
            return ["cleanup", ["seq", some], self._act()]
        return ["fail"]

    def _act(self) -> list[Any]:
        self._labels += 1
        mode = self._dice.choices(
            ["ok", "flaky1", "flaky2", "flaky9", "fatal", "stubborn"], [20, 3, 2, 1, 1, 1]
        )[0]
        seconds = self._dice.choices([0.0, 0.05, 1.0, 8.0], [6, 6, 3, 1])[0]
        kind = self._dice.choices(["work", "plain", "limited"], [5, 3, 1])[0]
        return ["act", kind, f"{self._labels}", mode, seconds]
