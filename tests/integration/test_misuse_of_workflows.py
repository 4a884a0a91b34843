# pyright: reportArgumentType=false, reportCallIssue=false, reportPrivateUsage=false, reportAssignmentType=false
# pyright: reportIncompatibleMethodOverride=false, reportIncompatibleVariableOverride=false
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
"""Workflow code that misbehaves: places where it can × ways to. Its instance answers for it, the worker goes on.

One worker runs all of them at once, beside a neighbour that must not notice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import pytest
from pydantic import BaseModel, field_validator

from romancy_nats import (
    Client,
    ConfigurationError,
    InvalidNameError,
    QueryError,
    StartRejectedError,
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


class Validated(BaseModel):
    way: str

    @field_validator("way")
    @classmethod
    def misbehave(cls, way: str) -> str:
        WAYS[way]()


@workflow
async def takes(ctx: WorkflowContext, validated: Validated) -> str:
    return validated.way


async def test_whatever_a_validator_of_the_input_raises_the_start_is_rejected(place: Place) -> None:
    async with place.run(takes, neighbour) as client:
        # By name: a client that does not know the model leaves it to the worker.
        handles = {way: await client.start("takes", validated={"way": way}) for way in WAYS}
        for way, handle in handles.items():
            with pytest.raises(StartRejectedError):
                await handle.result(20)
            assert await handle.status() == "rejected", way
        await _undisturbed(client)


# --- durations and moments out of range

FAR: dict[str, Callable[[WorkflowContext], Awaitable[object]]] = {
    "ctx.sleep(timedelta.max)": lambda ctx: ctx.sleep(timedelta.max),
    "ctx.sleep(10**400)": lambda ctx: ctx.sleep(10**400),
    "ctx.sleep(1e300)": lambda ctx: ctx.sleep(1e300),
    "ctx.sleep(inf)": lambda ctx: _beside(ctx, ctx.sleep(float("inf"))),
    "asyncio.sleep(1e300)": lambda ctx: asyncio.sleep(1e300),
    "asyncio.sleep(1.7e308)": lambda ctx: asyncio.sleep(1.7e308),
    "asyncio.sleep(10**400)": lambda ctx: asyncio.sleep(10**400),
    "call_at(10**400)": lambda ctx: _called(ctx, 10**400),
    "call_at(1e300)": lambda ctx: _called(ctx, 1e300),
    "sleep_until(datetime.max)": lambda ctx: ctx.sleep_until(datetime.max.replace(tzinfo=UTC)),
    "timeout(1e300)": lambda ctx: _limited(ctx, 1e300),
    "wait_event(timeout=timedelta.max)": lambda ctx: ctx.wait_event("never", timeout=timedelta.max),
    "wait_event(timeout=inf)": lambda ctx: ctx.wait_event("never", timeout=float("inf")),
    "receive(timeout=timedelta.max)": lambda ctx: ctx.receive("never", timedelta.max),
    "receive(timeout=10**400)": lambda ctx: ctx.receive("never", 10**400),
}
AT_ONCE: dict[str, Callable[[WorkflowContext], Awaitable[object]]] = {
    "ctx.sleep(timedelta.min)": lambda ctx: ctx.sleep(timedelta.min),
    "ctx.sleep(-(10**400))": lambda ctx: ctx.sleep(-(10**400)),
    "ctx.sleep(-inf)": lambda ctx: ctx.sleep(float("-inf")),
    "asyncio.sleep(-1e300)": lambda ctx: asyncio.sleep(-1e300),
    "sleep_until(datetime.min)": lambda ctx: ctx.sleep_until(datetime.min.replace(tzinfo=UTC)),
}
REFUSED: dict[str, Callable[[WorkflowContext], Awaitable[object]]] = {
    "ctx.sleep(nan)": lambda ctx: ctx.sleep(float("nan")),
    "ctx.sleep(text)": lambda ctx: ctx.sleep("5"),  # type: ignore[arg-type]
    "ctx.sleep(None)": lambda ctx: ctx.sleep(None),  # type: ignore[arg-type]
    "sleep_until(naive)": lambda ctx: ctx.sleep_until(datetime.max),  # noqa: DTZ901
    "sleep_until(number)": lambda ctx: ctx.sleep_until(5),  # type: ignore[arg-type]
    "wait_event(timeout=nan)": lambda ctx: ctx.wait_event("e", timeout=float("nan")),
    "wait_event(timeout=text)": lambda ctx: ctx.wait_event("e", timeout="5"),  # type: ignore[call-overload]
    "receive(timeout=nan)": lambda ctx: ctx.receive("c", float("nan")),
    "receive(timeout=object)": lambda ctx: ctx.receive("c", object()),  # type: ignore[call-overload]
}


async def _beside(ctx: WorkflowContext, wait: Coroutine[Any, Any, None]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(wait)
        group.create_task(_received(ctx))


async def _received(ctx: WorkflowContext) -> None:
    await ctx.receive("never")


async def _called(ctx: WorkflowContext, when: float) -> None:
    asyncio.get_running_loop().call_at(when, print)
    await ctx.receive("never")


async def _limited(ctx: WorkflowContext, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        await ctx.receive("never")


@workflow
async def waits_long(ctx: WorkflowContext, how: str) -> None:
    await ctx.run(quick)
    await FAR[how](ctx)


@workflow
async def waits_not(ctx: WorkflowContext, how: str) -> str:
    await AT_ONCE[how](ctx)
    return "at once"


@workflow
async def is_refused(ctx: WorkflowContext, how: str) -> str:
    try:
        await (REFUSED | NAMES)[how](ctx)
    except ConfigurationError as error:
        return f"{type(error).__name__}: {error}"
    return "taken"


async def test_a_wait_may_be_longer_than_any_clock_can_tell(place: Place) -> None:
    async with place.client() as client:
        async with place.worker(waits_long, waits_not, is_refused, neighbour):
            far = {how: await client.start(waits_long, how) for how in FAR}
            for how, handle in far.items():
                await until_status(handle, "waiting_for_timer", "waiting_for_message", "waiting_for_event")
                info = await handle.describe()
                assert info.error is None, how
            for how in AT_ONCE:
                assert await client.execute(waits_not, how) == "at once", how
            for how in REFUSED:
                assert "ConfigurationError" in await client.execute(is_refused, how), how
            await _undisturbed(client)
        # Taken up by another worker they are replayed, and end as anything that waits does.
        async with place.worker(waits_long, neighbour):
            for how, handle in far.items():
                assert await handle.cancel("enough"), how
            for handle in far.values():
                await until_status(handle, "cancelled")
            await _undisturbed(client)


# --- names

BAD: dict[str, Any] = {
    "no text": 5,
    "bytes": b"name",
    "nothing": None,
    "empty": "",
    "10 MB": "x" * 10_000_000,
    "surrogate": "a\ud800",
}
SPELLED: dict[str, str] = {
    "NUL": "a\x00b",
    "spaces": " a b\r\n",
    "wildcards": "a*b>",
    "stars": "*",
    "emoji": "\U0001f600" * 8,
}
CALLS: dict[str, Callable[[WorkflowContext, Any], Awaitable[object]]] = {
    "wait_event": lambda ctx, name: ctx.wait_event(name, timeout=0.01),
    "wait_event key": lambda ctx, name: ctx.wait_event("e", key=name, timeout=0.01),
    "events": lambda ctx, name: _entered(ctx.events(name)),
    "events key": lambda ctx, name: _entered(ctx.events("e", name)),
    "receive": lambda ctx, name: ctx.receive(name, 0.01),
    "send_event": lambda ctx, name: ctx.send_event(name, 1),
    "send_event key": lambda ctx, name: ctx.send_event("e", 1, key=name),
    "send_to id": lambda ctx, name: ctx.send_to(name, "c", 1),
    "send_to channel": lambda ctx, name: ctx.send_to(ctx.instance_id, name, 1),
    "send_to workflow": lambda ctx, name: ctx.send_to("i", "c", 1, workflow=name),
    "on_query": lambda ctx, name: _done(ctx.on_query(name, len)),
    "on_update": lambda ctx, name: _done(ctx.on_update(name, len)),
    "step": lambda ctx, name: ctx.step(name, lambda: 1),
    "options id": lambda ctx, name: ctx.run(quick.options(id=name)),
}
MAY_BE_NONE = {"wait_event key", "events key", "send_event key", "send_to workflow", "options id"}


async def _done(_: None) -> None: ...


async def _entered(block: Any) -> None:
    async with block:
        pass


def _call(call: str, name: Any) -> Callable[[WorkflowContext], Awaitable[object]]:
    return lambda ctx: CALLS[call](ctx, name)


NAMES = {f"{call}, {kind}": _call(call, name) for call in CALLS for kind, name in (BAD | SPELLED).items()}


async def test_a_name_that_cannot_be_is_refused_where_it_is_given(place: Place) -> None:
    async with place.run(is_refused, neighbour) as client:
        wrong: list[str] = []
        began = {how: await client.start(is_refused, how) for how in NAMES}
        for how, handle in began.items():
            call, kind = how.split(", ")
            try:
                end = await handle.result(20)
            except WorkflowFailedError as error:
                end = f"failed: {error.error_type}"
            except Exception as error:  # noqa: BLE001 - all that went wrong at once
                end = f"{type(error).__name__}: {error}"
            refused = end.startswith(InvalidNameError.__name__)
            if kind == "nothing" and call in MAY_BE_NONE:
                continue
            if kind in BAD and not refused:
                wrong.append(f"{how}: {end:.200}")
            if kind in SPELLED and (refused or "talled" in end or "TimeoutError: " in end):
                wrong.append(f"{how}: {end:.200}")
        assert not wrong, "\n".join(wrong)
        await _undisturbed(client)
