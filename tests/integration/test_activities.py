"""Activities: results, retries and errors, as the API page promises them, on a real server."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from romancy_nats import (
    ActivityError,
    RetryExhaustedError,
    RetryPolicy,
    RomancyError,
    TerminalError,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    activity_context,
    workflow,
)
from tests.integration.place import Place

pytestmark = pytest.mark.anyio

QUICK = RetryPolicy(max_attempts=3, initial_interval=0.01, jitter=0)


@dataclass
class Seen:
    """What the activities really did."""

    calls: list[Any] = field(default_factory=list[Any])
    times: list[float] = field(default_factory=list[float])
    fail: int = 0
    error: BaseException = field(default_factory=lambda: ValueError("again"))
    hold: bool = False


seen = Seen()


@pytest.fixture(autouse=True)
def fresh() -> None:
    seen.__init__()  # type: ignore[misc]


@activity(retry=QUICK)
async def shaky(x: int, y: int = 2, *, z: int = 3) -> list[int]:
    seen.calls.append((x, y, z))
    seen.times.append(time.monotonic())
    if len(seen.calls) <= seen.fail:
        raise seen.error
    return [x, y, z]


@workflow
async def calls_it(ctx: WorkflowContext, x: int) -> list[int]:
    return await ctx.run(shaky, x)


async def test_arguments_by_position_keyword_and_default(place: Place) -> None:
    @workflow
    async def spelt(ctx: WorkflowContext) -> list[list[int]]:
        return [await ctx.run(shaky, 1), await ctx.run(shaky, 1, z=5), await ctx.run(shaky, y=7, x=1)]

    async with place.run(spelt) as client:
        assert await client.execute(spelt) == [[1, 2, 3], [1, 2, 5], [1, 7, 3]]
    assert seen.calls == [(1, 2, 3), (1, 2, 5), (1, 7, 3)]


async def test_a_direct_call_is_a_plain_call() -> None:
    assert await shaky(4) == [4, 2, 3]


async def test_a_recorded_result_is_returned_and_the_activity_does_not_run_again(place: Place) -> None:
    @activity
    async def waits() -> None:
        while seen.hold:
            await asyncio.sleep(0.01)

    @workflow
    async def two(ctx: WorkflowContext, x: int) -> list[int]:
        first = await ctx.run(shaky, x)
        await ctx.run(waits)
        return first

    seen.hold = True
    async with place.handed_over(two, ready=lambda: bool(seen.calls), start=lambda c: c.start(two, 8)) as (
        _,
        h,
    ):
        seen.hold = False
        assert await h.result(10) == [8, 2, 3]
    assert seen.calls == [(8, 2, 3)]


async def test_retried_until_it_works(place: Place) -> None:
    seen.fail = 2
    async with place.run(calls_it) as client:
        assert await client.execute(calls_it, 1) == [1, 2, 3]
    assert len(seen.calls) == 3


async def test_exhausted_retries_name_activity_attempts_and_last_error(place: Place) -> None:
    caught: list[RetryExhaustedError] = []

    @workflow
    async def catches(ctx: WorkflowContext) -> None:
        try:
            await ctx.run(shaky, 1)
        except RetryExhaustedError as error:
            caught.append(error)
            raise

    seen.fail = 99
    async with place.run(catches) as client:
        with pytest.raises(WorkflowFailedError) as failed:
            await client.execute(catches)
    outside = failed.value.__cause__
    assert failed.value.error_type == "RetryExhaustedError"
    assert isinstance(outside, RetryExhaustedError)
    for error in (caught[0], outside):
        assert (error.activity, error.attempts) == ("shaky", 3)
        assert isinstance(error.last_error, ValueError)
        assert str(error.last_error) == "again"
        assert error.__cause__ is error.last_error


async def test_one_attempt_of_one_is_exhausted_too(place: Place) -> None:
    @workflow
    async def once(ctx: WorkflowContext) -> int:
        try:
            await ctx.run(shaky.options(retry=RetryPolicy(max_attempts=1)), 1)
        except RetryExhaustedError as error:
            return error.attempts
        return 0

    seen.fail = 9
    async with place.run(once) as client:
        assert await client.execute(once) == 1


class OutOfFundsError(TerminalError):
    def __init__(self, missing: int) -> None:
        super().__init__(f"{missing} missing")
        self.missing = missing


async def test_a_terminal_error_comes_at_once_as_itself(place: Place) -> None:
    @workflow
    async def pays(ctx: WorkflowContext) -> int:
        try:
            await ctx.run(shaky, 1)
        except OutOfFundsError as error:
            return error.missing
        return 0

    seen.fail, seen.error = 9, OutOfFundsError(17)
    async with place.run(pays, calls_it) as client:
        assert await client.execute(pays) == 17
        assert len(seen.calls) == 1
        with pytest.raises(WorkflowFailedError) as failed:
            await client.execute(calls_it, 1)
    assert failed.value.error_type == "OutOfFundsError"
    assert isinstance(failed.value.__cause__, OutOfFundsError)
    assert failed.value.__cause__.missing == 17


@pytest.mark.parametrize(
    ("policy", "error"),
    [
        (RetryPolicy(initial_interval=0.01, non_retryable=(LookupError,)), KeyError("k")),
        (RetryPolicy(initial_interval=0.01, retryable=(OSError,)), ValueError("v")),
    ],
    ids=["non_retryable", "not retryable"],
)
async def test_classes_that_are_not_retried_come_as_themselves(
    place: Place, policy: RetryPolicy, error: Exception
) -> None:
    @workflow
    async def tells(ctx: WorkflowContext) -> str:
        try:
            await ctx.run(shaky.options(retry=policy), 1)
        except RomancyError:
            return "ours"
        except (LookupError, ValueError) as caught:
            return repr(caught)
        return ""

    seen.fail, seen.error = 9, error
    async with place.run(tells) as client:
        assert await client.execute(tells) == repr(error)
    assert len(seen.calls) == 1


async def test_back_off_grows_up_to_its_longest(place: Place) -> None:
    policy = RetryPolicy(
        max_attempts=4,
        initial_interval=timedelta(milliseconds=50),
        backoff_coefficient=3,
        max_interval=timedelta(milliseconds=100),
        jitter=0,
    )

    @workflow
    async def backs_off(ctx: WorkflowContext) -> list[int]:
        return await ctx.run(shaky.options(retry=policy), 1)

    seen.fail = 3
    async with place.run(backs_off) as client:
        await client.execute(backs_off)
    pauses = [later - earlier for earlier, later in zip(seen.times, seen.times[1:], strict=False)]
    assert 0.05 <= pauses[0] < 0.1
    assert all(0.1 <= pause < 0.2 for pause in pauses[1:]), pauses


async def test_max_duration_ends_the_retries(place: Place) -> None:
    policy = RetryPolicy(
        max_attempts=0, initial_interval=0.05, backoff_coefficient=1, max_duration=0.2, jitter=0
    )

    @workflow
    async def bounded(ctx: WorkflowContext) -> int:
        try:
            await ctx.run(shaky.options(retry=policy), 1)
        except RetryExhaustedError as error:
            return error.attempts
        return 0

    seen.fail = 999
    async with place.run(bounded) as client:
        assert 2 <= await client.execute(bounded) <= 5
    assert seen.times[-1] - seen.times[0] <= 0.25


async def test_the_policy_of_the_call_goes_before_activity_app_and_default(place: Place) -> None:
    def once(attempts: int) -> RetryPolicy:
        return RetryPolicy(max_attempts=attempts, initial_interval=0.01)

    @activity(retry=once(2))
    async def own() -> None:
        raise ValueError

    @activity
    async def bare() -> None:
        raise ValueError

    @workflow
    async def order(ctx: WorkflowContext) -> list[int]:
        attempts: list[int] = []
        for one in (own.options(retry=once(1)), own, bare):
            try:
                await ctx.run(one)
            except RetryExhaustedError as error:
                attempts.append(error.attempts)
        return attempts

    async with place.run(order, default_retry=once(3)) as client:
        assert await client.execute(order) == [1, 2, 3]


class RefusedError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"refused {code}")
        self.code = code
        self.at: dict[str, int] = {"line": code}


class ForeignError(Exception):
    pass


@activity(retry=RetryPolicy(max_attempts=1), errors=[RefusedError])
async def refuses(listed: bool) -> None:
    raise RefusedError(7) if listed else ForeignError("who knows")


@activity(retry=RetryPolicy(max_attempts=1))
def pause() -> None:
    seen.calls.append("pause")
    while seen.hold and not activity_context().cancelled:
        time.sleep(0.005)


@workflow
async def compares(ctx: WorkflowContext) -> dict[str, Any]:
    """What the workflow sees of two errors; run once live and once in replay."""
    found: dict[str, Any] = {}
    for listed in (True, False):
        try:
            await ctx.run(refuses, listed)
        except RetryExhaustedError as error:
            last = error.last_error
            if isinstance(last, RefusedError):
                found["listed"] = [type(last).__name__, last.code, last.at, str(last)]
            elif isinstance(last, ActivityError):
                found["unlisted"] = [last.error_type, last.message, "ForeignError" in last.traceback]
    seen.calls.append(dict(found))
    await ctx.run(pause)
    return found


async def test_listed_errors_come_back_as_themselves_and_others_not_live_and_in_replay_alike(
    place: Place,
) -> None:
    seen.hold = True
    start = lambda client: client.start(compares)  # noqa: E731
    async with place.handed_over(compares, ready=lambda: "pause" in seen.calls, start=start) as (_, handle):
        seen.hold = False
        replayed = await handle.result(10)
    live = seen.calls[0]
    assert live["listed"] == ["RefusedError", 7, {"line": 7}, "refused 7"]
    assert live["unlisted"] == ["ForeignError", "who knows", True]
    assert live == replayed
