"""Workflow code on a real server: its context, its loop, its errors, live and in replay."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from romancy_nats import (
    RetryExhaustedError,
    RetryPolicy,
    WorkflowContext,
    WorkflowFailedError,
    WorkflowIOError,
    activity,
    activity_context,
    current_workflow,
    workflow,
)
from romancy_nats.core.events import TimerFired, TimerStarted
from tests.integration.place import Place, until

pytestmark = pytest.mark.anyio

ONCE = RetryPolicy(max_attempts=1)
calls: list[Any] = []
gate = threading.Event()


@pytest.fixture(autouse=True)
def fresh() -> None:
    calls.clear()
    gate.clear()


@activity(retry=ONCE)
async def does(what: str) -> str:
    calls.append(what)
    return what


@activity(retry=ONCE)
async def waits(what: str) -> str:
    """Until the gate opens."""
    calls.append(what)
    while not gate.is_set():
        await asyncio.sleep(0.005)
    return what


@activity(retry=ONCE)
async def fails(what: str) -> str:
    raise ValueError(what)


@workflow(name="about-itself")
async def about_itself(ctx: WorkflowContext) -> dict[str, Any]:
    mine = current_workflow()
    return {
        "id": ctx.instance_id,
        "name": ctx.workflow_name,
        "generation": ctx.generation,
        "worker": ctx.worker_id,
        "current": mine is ctx,
        "now": ctx.now(),
    }


async def test_what_the_context_knows(place: Place) -> None:
    before = datetime.now(UTC)
    async with place.run(about_itself, settings=place.settings(worker_id="left")) as client:
        found = await client.execute(about_itself.options(id="me"))
    assert before - timedelta(seconds=1) < found.pop("now") <= datetime.now(UTC)
    assert found == {"id": "me", "name": "about-itself", "generation": 0, "worker": "left", "current": True}
    assert current_workflow() is None


@workflow
async def looks(ctx: WorkflowContext) -> list[Any]:
    """Says what it sees before and after `waits`; replayed, the first part must be the same."""
    await ctx.run(does, "first")
    found: list[Any] = [ctx.now(), ctx.uuid4(), ctx.random.random(), ctx.uuid4()]
    replaying = [ctx.is_replaying]
    ctx.logger.warning("before %s", ctx.instance_id)
    calls.append(found)
    await ctx.run(waits, "middle")
    replaying.append(ctx.is_replaying)
    ctx.logger.warning("after")
    return [*found, replaying]


async def test_time_chance_and_log_are_the_same_in_replay(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    start = lambda client: client.start(looks)  # noqa: E731
    async with place.handed_over(looks, ready=lambda: "middle" in calls, start=start) as (_, handle):
        gate.set()
        *_, replaying = await handle.result(10)
    live, replayed = (one for one in calls if isinstance(one, list))
    assert live == replayed
    assert replaying == [True, False]
    assert isinstance(live[1], uuid.UUID)
    assert live[1] != live[3]
    assert live[1].version == 4
    said = [record for record in caplog.records if record.name.startswith("romancy.workflow")]
    assert [record.getMessage() for record in said] == [f"before {handle.id}", "after"]
    assert said[0].levelno == logging.WARNING
    assert calls.count("first") == 1


async def test_two_instances_draw_different_numbers(place: Place) -> None:
    @workflow
    async def draws(ctx: WorkflowContext) -> list[Any]:
        return [ctx.uuid4(), ctx.random.random()]

    async with place.run(draws) as client:
        assert await client.execute(draws) != await client.execute(draws)


@workflow
async def structured(ctx: WorkflowContext) -> list[str]:
    """Every way to wait for several things at once."""
    told: list[str] = []
    told += await asyncio.gather(ctx.run(does, "a"), ctx.run(does, "b"))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ctx.run(does, name)) for name in "cd"]
    told += [task.result() for task in tasks]
    try:
        await asyncio.wait_for(ctx.run(waits, "e"), 0.05)
    except TimeoutError:
        told.append("wait_for")
    try:
        async with asyncio.timeout(0.05):
            await ctx.run(waits, "f")
    except TimeoutError:
        told.append("timeout")

    async def branch(name: str) -> None:
        told.append(await ctx.run(does, name))

    async with anyio.create_task_group() as anyio_group:
        anyio_group.start_soon(branch, "g")
    with anyio.move_on_after(0.05):
        await ctx.sleep(60)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.run(fails, "h"))
            group.create_task(ctx.run(waits, "i"))
    except* RetryExhaustedError as several:
        told += [type(error).__name__ for error in several.exceptions]
    done, pending = await asyncio.wait(
        [asyncio.ensure_future(ctx.run(does, "j")), asyncio.ensure_future(ctx.run(waits, "k"))],
        return_when=asyncio.FIRST_COMPLETED,
    )
    told += [task.result() for task in done]
    for task in pending:
        task.cancel()
    for coroutine in asyncio.as_completed([ctx.run(does, "l")]):
        told.append(await coroutine)
    queue: asyncio.Queue[str] = asyncio.Queue()
    await queue.put("m")
    told.append(await queue.get())
    await ctx.run(waits, "last")
    return told


EXPECTED = ["a", "b", "c", "d", "wait_for", "timeout", "g", "RetryExhaustedError", "j", "l", "m"]


async def test_asyncio_and_anyio_work_as_they_are_and_replay(place: Place) -> None:
    start = lambda client: client.start(structured)  # noqa: E731
    async with place.handed_over(structured, ready=lambda: "last" in calls, start=start) as (_, handle):
        gate.set()
        assert await handle.result(10) == EXPECTED
    assert sum(calls.count(name) for name in "abcdgjl") == 7


async def test_an_abandoned_activity_is_interrupted(place: Place) -> None:
    @activity(retry=ONCE)
    async def endless() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            calls.append("interrupted" if activity_context().cancelled else "cancelled only")
            raise

    @workflow
    async def gives_up(ctx: WorkflowContext) -> str:
        try:
            await asyncio.wait_for(ctx.run(endless), 0.1)
        except TimeoutError:
            return "gave up"
        return ""

    async with place.run(gives_up) as client:
        assert await client.execute(gives_up) == "gave up"
        await until(lambda: calls == ["interrupted"])


async def test_a_durable_sleep_is_not_early_and_not_slept_again(place: Place) -> None:
    @workflow
    async def sleeps(ctx: WorkflowContext) -> list[datetime]:
        began = ctx.now()
        await asyncio.sleep(0.1)
        await ctx.sleep(timedelta(milliseconds=100))
        await ctx.sleep_until(began + timedelta(seconds=0.3))
        await ctx.sleep_until(began)
        await ctx.sleep(0)
        await ctx.run(waits, "slept")
        return [began, ctx.now()]

    start = lambda client: client.start(sleeps)  # noqa: E731
    async with place.handed_over(sleeps, ready=lambda: "slept" in calls, start=start) as (_, handle):
        gate.set()
        began, ended = await handle.result(10)
        commits = await handle.history()
    assert ended - began >= timedelta(seconds=0.3)
    slept_on = {
        one.incarnation
        for one in commits
        for event in one.events
        if isinstance(event, TimerStarted | TimerFired)
    }
    assert slept_on == {commits[0].incarnation}, "the second worker slept again"


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (LookupError("gone"), "LookupError"),
        (SystemExit(2), "SystemExit"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (asyncio.CancelledError(), "CancelledError"),
        (ExceptionGroup("two", [ValueError("a"), TypeError("b")]), "ExceptionGroup"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
async def test_whatever_it_raises_fails_the_instance_and_not_the_worker(
    place: Place, error: BaseException, shown: str
) -> None:
    @workflow
    async def raises(ctx: WorkflowContext) -> None:
        await ctx.run(does, "first")
        raise error

    @workflow
    async def other(ctx: WorkflowContext) -> int:
        return 5

    async with place.run(raises, other) as client:
        handle = await client.start(raises)
        with pytest.raises(WorkflowFailedError) as failed:
            await handle.result(5)
        assert failed.value.error_type == shown
        assert failed.value.instance_id == handle.id
        assert failed.value.message == str(error)
        if isinstance(error, Exception):
            assert type(failed.value.__cause__) is type(error)
        info = await handle.describe()
        assert (info.status, info.error_type) == ("failed", shown)
        assert await client.execute(other) == 5


async def test_io_is_refused_with_a_word_on_what_to_do(place: Place) -> None:
    @workflow
    async def opens(ctx: WorkflowContext) -> None:
        await asyncio.open_connection("127.0.0.1", 1)

    @workflow
    async def threads(ctx: WorkflowContext) -> None:
        await asyncio.to_thread(time.sleep, 0)

    async with place.run(opens, threads) as client:
        for one in (opens, threads):
            with pytest.raises(WorkflowFailedError, match="in an activity") as failed:
                await client.execute(one)
            assert isinstance(failed.value.__cause__, WorkflowIOError)


async def test_an_unserialisable_result_fails_the_workflow(place: Place) -> None:
    @workflow
    async def opaque(ctx: WorkflowContext) -> Any:
        return random.Random()

    async with place.run(opaque) as client:
        with pytest.raises(WorkflowFailedError) as failed:
            await client.execute(opaque)
    assert failed.value.error_type == "PayloadError"


async def test_a_direct_call_is_a_plain_call() -> None:
    class Fake:
        async def run(self, one: Any, *args: Any) -> Any:
            return await one(*args)

    @workflow
    async def small(ctx: WorkflowContext, name: str) -> str:
        return await ctx.run(does, name)

    assert await small(Fake(), "x") == "x"  # type: ignore[arg-type]


async def test_tasks_left_behind_are_cancelled(place: Place) -> None:
    @activity(retry=ONCE)
    async def endless() -> None:
        await asyncio.sleep(60)

    @workflow
    async def leaves(ctx: WorkflowContext) -> str:
        async def behind() -> None:
            try:
                await ctx.run(endless)
            finally:
                calls.append("cancelled")

        task = asyncio.ensure_future(behind())
        await ctx.run(does, "front")
        assert not task.done()
        return "left"

    async with place.run(leaves) as client:
        assert await client.execute(leaves) == "left"
    assert calls == ["front", "cancelled"]
