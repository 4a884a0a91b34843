"""Programs: plain data that one workflow interprets, and random ones, so that a seed is a whole run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Annotated, Any

from pydantic import AfterValidator

from romancy_nats import (
    EventTimeoutError,
    MessageTimeoutError,
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
`["cleanup", op, op]`, `["fail"]`, and those that wait for others: `["wait", type, key, timeout]`,
`["listen", type, key, count, timeout]`, `["receive", channel, timeout]`, `["say", type, key, value]`, `["serve"]`.
Odd ones are `["direct", label, mode, seconds]` (an activity called like a function), `["chain", count, label, seconds]`
(each input is made of the result before), `["raise", kind]` and `["stall"]`, which waits for nothing.

On the top level `["recur", seconds, op]` begins anew with what comes after it, from beside an `op` that it breaks off
after some seconds (`None`: from the root itself); `["known", values]` is what the generation before knew."""


class OddError(BaseException):
    """Not even an Exception."""


class MuteError(Exception):
    """One that cannot be printed."""

    def __str__(self) -> str:
        raise OddError


ODD_ERRORS: dict[str, Callable[[], BaseException]] = {
    "base": OddError,
    "mute": MuteError,
    "empty": ValueError,
    "huge": lambda: ValueError("x" * 2_000_000),
    "exit": lambda: SystemExit(3),
    "interrupt": KeyboardInterrupt,
    "cancelled": asyncio.CancelledError,
    "closed": GeneratorExit,
}
"""What workflow code raises, though nobody should."""

MISFIT = "no"
"""How a value ends that no program takes."""


def _fits(value: str) -> str:
    if value.endswith(MISFIT):
        raise ValueError(f"{value} does not fit")
    return value


Fitting = Annotated[str, AfterValidator(_fits)]

RETRY = RetryPolicy(max_attempts=4, initial_interval=0.5, backoff_coefficient=3, jitter=0.2)
PATIENT = RetryPolicy(max_attempts=4, initial_interval=8.0, backoff_coefficient=3, jitter=0.2)
"""Between its attempts an instance rests."""


HASTY = RetryPolicy(max_attempts=4, initial_interval=0.05, backoff_coefficient=1.5, jitter=0.2)
"""Its pauses are so short that failed attempts are recorded with whatever comes next."""


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


@activity(retry=PATIENT, name="patient")
async def patient(label: str, mode: str, seconds: float) -> str:
    """One piece of work with long pauses between its attempts."""
    return await _work(label, mode, seconds)


@activity(retry=HASTY, name="hasty")
async def hasty(label: str, mode: str, seconds: float) -> str:
    """One piece of work with short pauses between its attempts."""
    return await _work(label, mode, seconds)


KINDS = {"hasty": hasty, "work": work, "plain": plain, "limited": limited, "patient": patient}


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
    return "|".join(await _generation(ctx, program))


@workflow(name="interpreter")
async def changed(ctx: WorkflowContext, program: list[Any]) -> str:
    """A version of it that asks for something else first: what the other began it cannot go on with (L7)."""
    return "|".join(await _run(ctx, ["seq", [["act", "plain", "changed", "ok", 0.0], *program]]))


async def _generation(ctx: WorkflowContext, program: list[Any]) -> list[str]:
    """Up to the first `recur`: the next generation is told what this one knows, and does the rest."""
    known: list[str] = []
    for n, op in enumerate(program):
        if op[0] != "recur":
            known += await _run(ctx, op)
            continue
        following = [["known", known], *program[n + 1 :]]
        if op[2] is None:
            ctx.recur(following)
        await asyncio.gather(_run(ctx, op[2]), _recur_after(ctx, op[1], following))
    return known


async def _recur_after(ctx: WorkflowContext, seconds: float, program: list[Any]) -> None:
    await ctx.sleep(seconds)
    ctx.recur(program)


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
        case ["known", values]:
            return list(values)
        case ["direct" | "chain" | "raise" | "stall", *_]:
            return await _odd(ctx, op)
        case _:
            return await _wait(ctx, op)


async def _odd(ctx: WorkflowContext, op: list[Any]) -> list[str]:
    """The operations that are rare."""
    match op:
        case ["direct", label, mode, seconds]:
            return [await plain(label, mode, seconds)]
        case ["chain", count, label, seconds]:
            values = [label]
            for _ in range(count):
                values.append(await ctx.run(plain, f"{label} after {values[-1]}", "ok", seconds))
            return values[1:]
        case ["raise", kind]:
            raise ODD_ERRORS[kind]()
        case ["stall"]:
            await asyncio.get_running_loop().create_future()
            return []
        case _:
            raise AssertionError(f"no such operation: {op!r}")


async def _wait(ctx: WorkflowContext, op: list[Any]) -> list[str]:
    """The operations that have to do with others."""
    match op:
        case ["wait", type, key, timeout]:
            try:
                return [str((await ctx.wait_event(type, key=key, timeout=timeout, model=Fitting)).data)]
            except EventTimeoutError:
                return ["no event"]
        case ["listen", type, key, count, timeout]:
            return await _listen(ctx, type, key, count, timeout)
        case ["receive", channel, timeout]:
            try:
                return [str((await ctx.receive(channel, timeout)).data)]
            except MessageTimeoutError:
                return ["no message"]
        case ["say", type, key, value]:
            await ctx.send_event(type, value, key=key)
            return []
        case ["serve"]:
            ctx.on_update("put", _putter(ctx), validate=_accepts)
            return []
        case _:
            raise AssertionError(f"no such operation: {op!r}")


async def _listen(ctx: WorkflowContext, type: str, key: str | None, count: int, timeout: float) -> list[str]:
    heard: list[str] = []
    async with ctx.events(type, key, model=Fitting) as events:
        try:
            for _ in range(count):
                async with asyncio.timeout(timeout):
                    heard.append(str((await anext(events)).data))
        except TimeoutError:
            heard.append("no more")
    return heard


def _putter(ctx: WorkflowContext) -> Callable[[str, float], Coroutine[Any, Any, str]]:
    async def put(value: str, seconds: float) -> str:
        if seconds:
            await ctx.sleep(seconds)
        return f"put {value}"

    return put


def _accepts(value: str, seconds: float) -> None:
    if value.endswith("no"):
        raise ValueError(f"not {value}")


def make(dice: Random, size: int = 6) -> Program:
    """A random program of up to `size` operations on its top level."""
    return _Maker(dice).ops(1 + dice.randrange(size), depth=2)


def recurring(dice: Random, program: Program) -> Program:
    """The same program over two to four generations. Who serves updates does so in each."""
    made = list(program)
    for _ in range(1 + dice.randrange(3)):
        at = dice.randrange(len(made) + 1)
        beside = make(dice, 1)[0] if dice.random() < 0.3 else None
        mark = [["recur", dice.choice([0.0, 0.05, 1.0, 5.0]), beside]]
        if ["serve"] in made[:at] and dice.random() < 0.8:
            mark.append(["serve"])
        made[at:at] = mark
    return made


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
