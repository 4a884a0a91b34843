"""Workflow code that misbehaves: places where it can × ways to. Its instance answers for it, the worker goes on.

One worker runs all of them at once, beside a neighbour that must not notice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from typing import Any, NoReturn

import pytest

from romancy_nats import (
    Client,
    QueryError,
    UpdateFailedError,
    UpdateRejectedError,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    workflow,
)
from tests.integration.place import Place, until_status

pytestmark = pytest.mark.anyio

# --- ways to misbehave


class OwnBaseError(BaseException):
    """None of Exception's."""


class MuteError(Exception):
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


class LyingError(Exception):
    """Raises whatever it is asked about itself."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError("no class")

    args = property(lambda self: 1 / 0)  # type: ignore[assignment]
    __cause__ = property(lambda self: 1 / 0)  # type: ignore[assignment]
    __notes__ = property(lambda self: 1 / 0)

    def __reduce__(self) -> Any:
        raise KeyboardInterrupt


class WrongTextError(Exception):
    """Its text is no text."""

    def __str__(self) -> Any:
        return 5

    __module__ = 5  # type: ignore[assignment]


class _Nameless(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in ("__qualname__", "__name__", "__module__"):
            raise RuntimeError("no name")
        return super().__getattribute__(name)


class NamelessError(Exception, metaclass=_Nameless):
    """Its class has no name."""


def _raises(error: Callable[[], BaseException]) -> Callable[[], NoReturn]:
    def misbehave() -> NoReturn:
        raise error()

    return misbehave


def _recurse() -> NoReturn:
    _recurse()


def _with_cause() -> NoReturn:
    try:
        raise LyingError
    except LyingError as error:
        raise ValueError("because") from error


WAYS: dict[str, Callable[[], NoReturn]] = {
    "SystemExit": _raises(lambda: SystemExit("bye")),
    "KeyboardInterrupt": _raises(KeyboardInterrupt),
    "GeneratorExit": _raises(GeneratorExit),
    "CancelledError": _raises(lambda: asyncio.CancelledError("by itself")),
    "own BaseException": _raises(lambda: OwnBaseError("mine")),
    "StopIteration": _raises(StopIteration),
    "StopAsyncIteration": _raises(StopAsyncIteration),
    "MemoryError": _raises(MemoryError),
    "recursion": _recurse,
    "mute": _raises(MuteError),
    "lying": _raises(LyingError),
    "caused by a lie": _with_cause,
    "wrong text": _raises(WrongTextError),
    "nameless": _raises(NamelessError),
    "group": _raises(lambda: BaseExceptionGroup("several", [SystemExit(1), MuteError(), ValueError()])),
    "surrogate": _raises(lambda: ValueError("\ud800 \x00")),
}

# --- places

released: dict[str, asyncio.Event] = {}


@activity
async def quick() -> str:
    return "done"


async def _in_the_body(ctx: WorkflowContext, misbehave: Callable[[], NoReturn]) -> None:
    misbehave()


async def _after_an_activity(ctx: WorkflowContext, misbehave: Callable[[], NoReturn]) -> None:
    await ctx.run(quick)
    misbehave()


async def _after_a_timer(ctx: WorkflowContext, misbehave: Callable[[], NoReturn]) -> None:
    await asyncio.sleep(0.01)
    misbehave()


async def _in_a_task_that_is_awaited(ctx: WorkflowContext, misbehave: Callable[[], NoReturn]) -> None:
    async def child() -> None:
        await ctx.run(quick)
        misbehave()

    await asyncio.gather(child(), ctx.run(quick))


async def _in_a_task_group(ctx: WorkflowContext, misbehave: Callable[[], NoReturn]) -> None:
    async def child() -> None:
        await ctx.run(quick)
        misbehave()

    async with asyncio.TaskGroup() as group:
        group.create_task(child())
        group.create_task(asyncio.sleep(5))
    raise ValueError("the group swallowed it")  # of a cancellation by itself


async def _in_a_generator(ctx: WorkflowContext, misbehave: Callable[[], NoReturn]) -> None:
    async def several() -> AsyncGenerator[str]:
        yield await ctx.run(quick)
        misbehave()

    async for _ in several():
        pass


async def _in_an_awaitable(ctx: WorkflowContext, misbehave: Callable[[], NoReturn]) -> None:
    class Odd:
        def __await__(self) -> Generator[Any]:
            yield
            misbehave()

    await Odd()


async def _in_a_task_nobody_awaits(ctx: WorkflowContext, misbehave: Callable[[], NoReturn]) -> None:
    async def child() -> None:
        await ctx.run(quick)
        misbehave()

    task = asyncio.create_task(child())
    await ctx.run(quick)
    await asyncio.wait([task])


async def _in_a_callback(ctx: WorkflowContext, misbehave: Callable[[], NoReturn]) -> None:
    asyncio.get_running_loop().call_soon(misbehave)
    await ctx.run(quick)


async def _in_a_callback_of_a_timer(ctx: WorkflowContext, misbehave: Callable[[], NoReturn]) -> None:
    asyncio.get_running_loop().call_later(0.01, misbehave)
    await asyncio.sleep(0.02)


async def _in_a_done_callback(ctx: WorkflowContext, misbehave: Callable[[], NoReturn]) -> None:
    task = asyncio.create_task(ctx.run(quick))
    task.add_done_callback(lambda _: misbehave())
    await task


Body = Callable[[WorkflowContext, Callable[[], NoReturn]], Coroutine[Any, Any, None]]
FAILS: dict[str, Body] = {
    "body": _in_the_body,
    "after an activity": _after_an_activity,
    "after a timer": _after_a_timer,
    "awaited task": _in_a_task_that_is_awaited,
    "task group": _in_a_task_group,
    "generator": _in_a_generator,
    "awaitable": _in_an_awaitable,
}
COMPLETES: dict[str, Body] = {
    "task": _in_a_task_nobody_awaits,
    "callback": _in_a_callback,
    "timer callback": _in_a_callback_of_a_timer,
    "done callback": _in_a_done_callback,
}
PLACES = FAILS | COMPLETES


@workflow
async def misused(ctx: WorkflowContext, place: str, way: str) -> str:
    await PLACES[place](ctx, WAYS[way])
    return "gone on"


@workflow
async def handles(ctx: WorkflowContext) -> str:
    async def later(way: str) -> None:
        await asyncio.sleep(0)
        WAYS[way]()

    ctx.on_query("ask", lambda way: WAYS[way]())
    ctx.on_query("ask async", later)
    ctx.on_update("change", lambda way: WAYS[way]())
    ctx.on_update("change async", later)
    ctx.on_update("refuse", lambda way: None, validate=lambda way: WAYS[way]())
    message = await ctx.receive("end")
    return str(message.data)


@workflow
async def neighbour(ctx: WorkflowContext, steps: int) -> int:
    for _ in range(steps):
        await ctx.run(quick)
    return steps


async def _undisturbed(client: Client) -> None:
    assert await client.execute(neighbour, 3) == 3


async def test_whatever_workflow_code_raises_its_instance_answers_for_it(place: Place) -> None:
    async with place.run(misused, neighbour) as client:
        beside = await client.start(neighbour, 200)
        began = {
            (place_, way): await client.start(misused.options(id=f"{place_} {way}"), place_, way)
            for place_ in PLACES
            for way in WAYS
        }
        wrong: list[str] = []
        for (place_, way), handle in began.items():
            try:
                end = await handle.result(20)
            except WorkflowFailedError:
                end = "failed"
            except Exception as error:  # noqa: BLE001 - all that went wrong at once
                end = f"{type(error).__name__}: {error}"
            if end != ("failed" if place_ in FAILS else "gone on"):
                wrong.append(f"{place_}, {way}: {end}")
        assert not wrong, "\n".join(wrong)
        assert await beside.result(20) == 200
        await _undisturbed(client)


async def test_whatever_a_handler_raises_its_caller_gets_it(place: Place) -> None:
    async with place.run(handles, neighbour) as client:
        handle = await client.start(handles)
        await until_status(handle, "waiting_for_message")
        wrong: list[str] = []

        async def expect(error: type[Exception], call: Awaitable[object], what: str) -> None:
            try:
                async with asyncio.timeout(10):
                    await call
                wrong.append(f"{what}: no error")
            except error:
                return
            except Exception as other:  # noqa: BLE001 - all that went wrong at once
                wrong.append(f"{what}: {other!r}")

        for way in WAYS:
            await expect(QueryError, handle.query("ask", way), f"query, {way}")
            await expect(QueryError, handle.query("ask async", way), f"async query, {way}")
            await expect(UpdateFailedError, handle.update("change", way), f"update, {way}")
            await expect(UpdateFailedError, handle.update("change async", way), f"async update, {way}")
            await expect(UpdateRejectedError, handle.update("refuse", way), f"validator, {way}")
        assert not wrong, "\n".join(wrong)
        await handle.send("end", "fine")
        assert await handle.result(10) == "fine"
        await _undisturbed(client)
