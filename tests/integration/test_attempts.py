"""One attempt of an activity: time limits, silence, threads, and what it may ask about itself."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from romancy_nats import (
    ActivityTimeoutError,
    App,
    ConfigurationError,
    RetryExhaustedError,
    RetryPolicy,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    activity_context,
    current_workflow,
    workflow,
)
from tests.integration.place import Place, until

pytestmark = pytest.mark.anyio

ONCE = RetryPolicy(max_attempts=1)
TWICE = RetryPolicy(max_attempts=2, initial_interval=0.01, jitter=0)


async def test_each_attempt_has_its_own_timeout(place: Place) -> None:
    attempts: list[int] = []

    @activity(timeout=timedelta(milliseconds=100), retry=TWICE)
    async def slow() -> str:
        attempts.append(activity_context().attempt)
        if len(attempts) == 1:
            await asyncio.sleep(60)
        await asyncio.sleep(0.06)
        return "second"

    @workflow
    async def patient(ctx: WorkflowContext) -> str:
        return await ctx.run(slow)

    async with place.run(patient) as client:
        assert await client.execute(patient) == "second"
    assert attempts == [1, 2]


async def test_a_timeout_is_an_error_that_says_so_and_options_change_it(place: Place) -> None:
    @activity(timeout=60, retry=ONCE)
    async def slow() -> None:
        await asyncio.sleep(60)

    @workflow
    async def impatient(ctx: WorkflowContext) -> str:
        try:
            await ctx.run(slow.options(timeout=0.05))
        except RetryExhaustedError as error:
            kinds = isinstance(error.last_error, ActivityTimeoutError) and isinstance(
                error.last_error, TimeoutError
            )
            return f"{kinds} {error.last_error}"
        return ""

    async with place.run(impatient) as client:
        told = await client.execute(impatient)
    assert told.startswith("True")
    assert "slow" in told
    assert "0.05" in told


async def test_a_timeout_error_of_the_activity_itself_stays_what_it_is(place: Place) -> None:
    @activity(timeout=5, retry=ONCE)
    async def asks() -> None:
        raise TimeoutError("the bank did not answer")

    @workflow
    async def banks(ctx: WorkflowContext) -> str:
        try:
            await ctx.run(asks)
        except RetryExhaustedError as error:
            return f"{type(error.last_error).__name__}: {error.last_error}"
        return ""

    async with place.run(banks) as client:
        assert await client.execute(banks) == "TimeoutError: the bank did not answer"


async def test_silence_ends_an_attempt_and_the_next_one_finds_the_last_details(place: Place) -> None:
    found: list[Any] = []

    @activity(heartbeat=0.2, retry=TWICE)
    async def copies() -> str:
        context = activity_context()
        found.append(context.last_heartbeat)
        if context.attempt == 1:
            for row in range(4):
                context.heartbeat({"row": row})
                await asyncio.sleep(0.1)
            await asyncio.sleep(60)
        return "done"

    @workflow
    async def copying(ctx: WorkflowContext) -> str:
        return await ctx.run(copies)

    async with place.run(copying) as client:
        async with asyncio.timeout(30):  # its first attempt would have gone on for a minute
            assert await client.execute(copying) == "done"
    assert found == [None, {"row": 3}]


async def test_the_last_heartbeat_survives_a_takeover(place: Place) -> None:
    found: list[tuple[int, Any]] = []

    @activity(heartbeat=5, retry=RetryPolicy(max_attempts=5, initial_interval=1.2, jitter=0))
    async def copies() -> int:
        context = activity_context()
        found.append((context.attempt, context.last_heartbeat))
        context.heartbeat(["row", context.attempt])
        if context.attempt == 1:
            raise OSError("the disk")
        return context.attempt

    @workflow
    async def copying(ctx: WorkflowContext) -> int:
        return await ctx.run(copies)

    async with place.handed_over(copying, ready=lambda: bool(found), start=lambda c: c.start(copying)) as (
        _,
        h,
    ):
        assert await h.result(10) == 2
    assert found == [(1, None), (2, ["row", 1])]


async def test_a_thread_may_send_heartbeats_and_is_told_when_it_no_longer_counts(place: Place) -> None:
    saw: list[str] = []

    @activity(heartbeat=0.2, retry=ONCE)
    def works() -> None:
        context = activity_context()
        for _ in range(5):
            time.sleep(0.08)
            context.heartbeat()
        saw.append("beating" if not context.cancelled else "too early")
        while not context.cancelled:
            time.sleep(0.01)
        saw.append("told")

    @workflow
    async def threaded(ctx: WorkflowContext) -> None:
        await ctx.run(works)

    async with place.run(threaded) as client:
        with pytest.raises(WorkflowFailedError, match="no heartbeat"):
            await client.execute(threaded)
        await until(lambda: len(saw) == 2)
    assert saw == ["beating", "told"]


async def test_a_late_result_of_a_thread_does_not_count(place: Place) -> None:
    ended: list[int] = []

    @activity(timeout=0.1, retry=TWICE)
    def late() -> int:
        attempt = activity_context().attempt
        if attempt == 1:
            time.sleep(0.3)
        ended.append(attempt)
        return attempt

    @workflow
    async def threaded(ctx: WorkflowContext) -> int:
        result = await ctx.run(late)
        await asyncio.sleep(0.5)
        return result

    async with place.run(threaded) as client:
        assert await client.execute(threaded) == 2
    assert ended == [2, 1]


async def test_plain_functions_run_in_threads_and_max_threads_bounds_them(place: Place) -> None:
    main = threading.get_ident()
    at_once = most = 0
    guard = threading.Lock()

    @activity(max_threads=3)
    def bounded(n: int) -> bool:
        nonlocal at_once, most
        with guard:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.03)
        with guard:
            at_once -= 1
        return threading.get_ident() != main

    @workflow
    async def many(ctx: WorkflowContext) -> bool:
        return all(await asyncio.gather(*(ctx.run(bounded, n) for n in range(12))))

    async with place.run(many) as client:
        assert await client.execute(many)
    assert most == 3


async def test_what_an_attempt_knows_about_itself(place: Place) -> None:
    keys: list[str] = []

    @activity(retry=TWICE)
    async def asks() -> dict[str, Any]:
        context = activity_context()
        keys.append(context.idempotency_key)
        if context.attempt == 1:
            raise ValueError
        return {
            "instance": context.instance_id,
            "workflow": context.workflow_name,
            "activity": context.activity_id,
            "attempt": context.attempt,
            "cancelled": context.cancelled,
            "last": context.last_heartbeat,
            "in workflow": current_workflow() is not None,
        }

    @workflow(name="the.flow")
    async def flow(ctx: WorkflowContext) -> list[dict[str, Any]]:
        return [await ctx.run(asks), await ctx.run(asks)]

    async with place.run(flow) as client:
        first, _ = await client.execute(flow.options(id="i/1"))
    assert first == {
        "instance": "i/1",
        "workflow": "the.flow",
        "activity": "asks:1",
        "attempt": 2,
        "cancelled": False,
        "last": None,
        "in workflow": False,
    }
    assert keys[0] == keys[1]
    assert keys[0] != keys[2]


def test_outside_of_an_activity_there_is_no_context() -> None:
    with pytest.raises(ConfigurationError):
        activity_context()


@dataclass
class Resources:
    name: str


async def test_the_lifespan_is_there_for_async_and_plain_activities(place: Place) -> None:
    events: list[str] = []

    @asynccontextmanager
    async def resources() -> AsyncIterator[Resources]:
        events.append("open")
        yield Resources("db")
        events.append("closed")

    @activity
    async def uses() -> str:
        return activity_context().state(Resources).name

    @activity
    def uses_too() -> str:
        return activity_context().state(Resources).name

    @activity(retry=ONCE)
    async def wrong() -> str:
        return activity_context().state(str)

    @workflow
    async def flow(ctx: WorkflowContext) -> list[str]:
        with pytest.raises(RetryExhaustedError) as refused:
            await ctx.run(wrong)
        assert isinstance(refused.value.last_error, ConfigurationError)
        return [await ctx.run(uses), await ctx.run(uses_too)]

    async with place.run(flow, lifespan=resources) as client:
        assert events == ["open"]
        assert await client.execute(flow) == ["db", "db"]
    assert events == ["open", "closed"]


async def test_overrides_replace_an_activity_in_tests(place: Place) -> None:
    @activity
    async def charge(amount: int) -> str:
        raise AssertionError("the real one")

    def fake(amount: int) -> str:
        return f"fake {amount}"

    @workflow
    async def pays(ctx: WorkflowContext) -> str:
        return await ctx.run(charge, 3)

    app = App("fakes", workflows=[pays], settings=place.settings())
    async with app.run(place.url, overrides={charge: fake}) as client:
        assert await client.execute(pays) == "fake 3"


async def test_a_cancel_error_raised_by_an_activity_does_not_kill_its_worker(place: Place) -> None:
    @activity(retry=ONCE)
    async def gives_up() -> None:
        raise asyncio.CancelledError("by itself")

    @activity(retry=ONCE)
    async def exits() -> None:
        raise SystemExit(3)

    @workflow
    async def flow(ctx: WorkflowContext, exit: bool) -> None:
        await ctx.run(exits if exit else gives_up)

    @workflow
    async def other(ctx: WorkflowContext) -> int:
        return 1

    async with place.run(flow, other) as client:
        for way in (True, False):
            with pytest.raises(WorkflowFailedError):
                await (await client.start(flow, way)).result(5)
        assert await client.execute(other) == 1


async def test_an_error_of_the_block_leaves_the_run_as_itself(place: Place) -> None:
    @workflow
    async def fails(ctx: WorkflowContext) -> None:
        raise LookupError("here")

    with pytest.raises(WorkflowFailedError, match="here"):
        async with place.run(fails) as client:
            await client.execute(fails)
