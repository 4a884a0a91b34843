"""The limits of attempts: places for threads, late ends, contexts of their own, and what is recorded of failed ones."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest

from romancy_nats import (
    ActivityContext,
    ActivityTimeoutError,
    RetryExhaustedError,
    RetryPolicy,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    activity_context,
    current_workflow,
    workflow,
)
from romancy_nats.core.events import ActivityAttemptFailed
from romancy_nats.core.failure import Failure
from romancy_nats.core.plain import decode_plain
from romancy_nats.runtime import workshop
from tests.integration.place import Place, until, until_status

pytestmark = pytest.mark.anyio

ONCE = RetryPolicy(max_attempts=1)
OFTEN = RetryPolicy(max_attempts=6, initial_interval=0.01, backoff_coefficient=1, jitter=0)


class Counter:
    """How many calls run at once, and the most that ever did."""

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.now = self.most = self.calls = 0

    def __enter__(self) -> None:
        with self.guard:
            self.calls += 1
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self.guard:
            self.now -= 1


async def test_a_call_that_timed_out_keeps_its_place_until_it_ends(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    counter, release = Counter(), threading.Event()

    @activity(max_threads=1, timeout=0.1, retry=OFTEN)
    def prints() -> int:
        with counter:
            if activity_context().attempt == 1:
                release.wait(10)
            return activity_context().attempt

    @activity
    def other() -> str:
        return "not disturbed"

    @workflow
    async def printing(ctx: WorkflowContext) -> int:
        return await ctx.run(prints)

    @workflow
    async def neighbour(ctx: WorkflowContext) -> str:
        return await ctx.run(other)

    async with place.run(printing, neighbour) as client:
        handle = await client.start(printing)
        await until(lambda: "holds one of the 1 places of prints" in caplog.text)
        assert counter.calls == 1
        assert await client.execute(neighbour) == "not disturbed"
        release.set()
        # The wait for the place is not its run: the second attempt is not timed out by it.
        assert await handle.result(10) == 2
    assert counter.most == 1
    assert caplog.text.count("holds one of the 1 places") == 1


@pytest.mark.parametrize("limits", [{"timeout": 0.2}, {"heartbeat": 0.2}], ids=["timeout", "heartbeat"])
async def test_limits_count_from_when_it_runs_not_while_it_waits_for_a_place(
    place: Place, limits: dict[str, Any]
) -> None:
    @activity(max_threads=1, retry=ONCE, **limits)
    def takes(n: int) -> int:
        time.sleep(0.1)
        return n

    @workflow
    async def many(ctx: WorkflowContext) -> int:
        return sum(await asyncio.gather(*(ctx.run(takes, n) for n in range(5))))

    async with place.run(many) as client:
        assert await client.execute(many) == 10


async def test_one_that_waits_for_a_place_can_be_cancelled(place: Place) -> None:
    release, began = threading.Event(), list[int]()

    @activity(max_threads=1, retry=ONCE)
    def holds(n: int) -> None:
        began.append(n)
        release.wait(10)

    @workflow
    async def holding(ctx: WorkflowContext, n: int) -> None:
        await ctx.run(holds, n)

    async with place.run(holding) as client:
        first = await client.start(holding, 1)
        await until(lambda: began == [1])
        second, third = await client.start(holding, 2), await client.start(holding, 3)
        assert await second.cancel()
        await until_status(second, "cancelled")
        release.set()
        await asyncio.gather(first.result(10), third.result(10))
    assert began == [1, 3]


async def test_a_system_without_threads_fails_the_attempt_only(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, refusals = threading.Thread.start, [1, 2]

    def refuse(self: threading.Thread) -> None:
        if self.name == "romancy-activity" and refusals:
            refusals.pop()
            raise RuntimeError("can't start new thread")
        start(self)

    @activity(retry=OFTEN)
    def works() -> int:
        return activity_context().attempt

    @workflow
    async def flow(ctx: WorkflowContext) -> int:
        return await ctx.run(works)

    async with place.run(flow) as client:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert await client.execute(flow) == 3


PROGRAM = """
import asyncio, threading, time
from romancy_nats import App, RetryPolicy, WorkflowContext, activity, workflow
began = threading.Event()

@activity(retry=RetryPolicy(max_attempts=1), timeout=0.1)
def stuck() -> None:
    began.set()
    time.sleep(3600)

@activity(retry=RetryPolicy(max_attempts=1), timeout=0.1)
async def stubborn() -> None:
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

@workflow
async def flow(ctx: WorkflowContext) -> None:
    await asyncio.gather(ctx.run(stuck), ctx.run(stubborn))

async def main() -> None:
    async with App("stuck", workflows=[flow]).run() as client:
        await client.start(flow)
        await asyncio.to_thread(began.wait, 10)
        await asyncio.sleep(0.2)

asyncio.run(main())
print("over", flush=True)
"""


async def test_neither_a_thread_nor_a_task_that_never_ends_keeps_the_process(place: Place) -> None:
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout.strip()) == (0, "over"), ended.stderr


# --- late ends


def _swallows(value: object) -> Callable[[], Any]:
    async def scan() -> object:
        context = activity_context()
        if context.attempt > 1:
            return ["whole", context.attempt, context.last_heartbeat]
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            assert context.cancelled
            context.heartbeat("too late")
            await asyncio.sleep(0.05)
            if isinstance(value, BaseException):
                raise value from None
        return value

    return scan


@pytest.mark.parametrize("limits", [{"timeout": 0.1}, {"heartbeat": 0.1}], ids=["timeout", "heartbeat"])
@pytest.mark.parametrize(
    "late", ["half", ValueError("late"), SystemExit(3)], ids=["a result", "an error", "an exit"]
)
async def test_what_an_async_function_gives_after_its_limit_does_not_count(
    place: Place, late: object, limits: dict[str, float]
) -> None:
    once = activity(name="once", retry=ONCE, **limits)(_swallows(late))
    twice = activity(name="twice", retry=OFTEN, **limits)(_swallows(late))

    @workflow
    async def looks(ctx: WorkflowContext) -> Any:
        with pytest.raises(RetryExhaustedError) as failed:
            await ctx.run(once)
        assert isinstance(failed.value.last_error, ActivityTimeoutError)
        return await ctx.run(twice)

    async with place.run(looks) as client:
        assert await client.execute(looks) == ["whole", 2, None]


async def test_cancelled_is_true_from_the_time_out_on_in_a_thread_and_after_every_other_end(
    place: Place,
) -> None:
    contexts: dict[str, ActivityContext] = {}
    release = threading.Event()

    @activity(timeout=0.1, retry=ONCE)
    def by_time() -> None:
        contexts["time"] = activity_context()
        release.wait(10)

    @activity(retry=ONCE)
    async def by_cancel() -> None:
        contexts["cancel"] = activity_context()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    @activity(retry=ONCE)
    async def fails() -> None:
        await asyncio.sleep(0.05)
        raise ValueError("sibling")

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        with contextlib.suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(ctx.run(by_cancel))
                group.create_task(ctx.run(fails))
        await ctx.run(by_time)

    async with place.run(flow) as client:
        with pytest.raises(WorkflowFailedError, match="by_time"):
            await client.execute(flow)
        await until(lambda: all(context.cancelled for context in contexts.values()))
        release.set()
    assert contexts.keys() == {"time", "cancel"}


async def test_one_that_ignores_its_interruption_does_not_hold_up_the_next(
    place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workshop, "LONGEST_TIDYING", 0.2)
    done = asyncio.Event()

    @activity(timeout=0.1, retry=OFTEN)
    async def stubborn() -> int:
        while activity_context().attempt == 1 and not done.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await done.wait()
        return activity_context().attempt

    @workflow
    async def flow(ctx: WorkflowContext) -> int:
        return await ctx.run(stubborn)

    async with place.run(flow) as client:
        assert await client.execute(flow) == 2
        assert caplog.text.count("was interrupted, but still runs") == 1
        done.set()


# --- contexts

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
shared: ContextVar[str] = ContextVar("shared", default="nothing")


async def test_each_attempt_has_a_task_and_context_variables_of_its_own(place: Place) -> None:
    found: list[tuple[Any, ...]] = []
    tasks: list[object] = []

    @asynccontextmanager
    async def resources() -> AsyncIterator[None]:
        shared.set("by the lifespan")
        yield

    def look(kind: str) -> int:
        attempt = activity_context().attempt
        found.append((kind, attempt, tenant.get(), shared.get(), current_workflow()))
        tenant.set(f"{kind} {attempt}")
        if attempt < 3:
            raise ConnectionError("again")
        return attempt

    @activity(retry=OFTEN)
    async def in_loop() -> int:
        task = asyncio.current_task()
        assert task is not None
        assert task not in tasks
        assert task.cancelling() == 0
        tasks.append(task)
        if activity_context().attempt == 2:
            task.cancel()
        return look("loop")

    @activity(retry=OFTEN)
    def in_thread() -> int:
        return look("thread")

    @activity(retry=OFTEN)
    def set_in_thread() -> Any:
        tenant.set("of the wrapper")

        async def inner() -> str:
            return tenant.get()

        return inner()

    @workflow
    async def flow(ctx: WorkflowContext) -> list[str]:
        tenant.set("workflow")
        await ctx.run(in_loop)
        await ctx.run(in_thread)
        return [tenant.get(), await ctx.run(set_in_thread)]

    async with place.run(flow, lifespan=resources) as client:
        assert await client.execute(flow) == ["workflow", "of the wrapper"]
    assert found == [
        (kind, attempt, "nobody", "by the lifespan", None)
        for kind in ("loop", "thread")
        for attempt in (1, 2, 3)
    ]


async def test_a_task_that_cancels_itself_fails_its_activity_and_no_more(place: Place) -> None:
    @activity(retry=ONCE)
    async def cancels_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(60)

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await ctx.run(cancels_itself)

    async with place.run(flow) as client:
        with pytest.raises(WorkflowFailedError, match="CancelledError"):
            await (await client.start(flow)).result(10)


# --- what is recorded of a failed attempt


async def test_failed_attempts_are_recorded_from_200_ms_on_with_all_that_a_reader_needs(place: Place) -> None:
    policy = RetryPolicy(max_attempts=9, initial_interval=0.3, backoff_coefficient=1, jitter=0)
    attempts: list[tuple[int, Any]] = []

    @activity(retry=policy)
    async def fails() -> int:
        context = activity_context()
        attempts.append((context.attempt, context.last_heartbeat))
        details = {"row": context.attempt}
        context.heartbeat(details)
        details["row"] = -1
        context.heartbeat()
        if context.attempt < 4:
            raise OSError("the disk")
        return context.attempt

    @workflow
    async def flow(ctx: WorkflowContext) -> int:
        return await ctx.run(fails)

    began = time.time()
    async with place.client() as client:
        async with place.worker(flow):
            handle = await client.start(flow)
            await until(lambda: len(attempts) == 2)
        async with place.worker(flow):
            assert await handle.result(10) == 4
        events = [event for commit in await handle.history() for event in commit.events]
    assert [number for number, _ in attempts] in ([1, 2, 3, 4], [1, 2, 2, 3, 4])
    assert attempts[-1] == (4, {"row": 3})
    failed = [event for event in events if isinstance(event, ActivityAttemptFailed)]
    assert {event.attempt for event in failed} == {1, 2, 3}
    for event in failed:
        failure = Failure.decode(event.failure)
        assert (failure.error_type, failure.message) == ("OSError", "the disk")
        assert decode_plain(event.heartbeat) == {"row": event.attempt}
        assert event.retry_at / 1e6 >= began + 0.3


@activity(retry=OFTEN, heartbeat=5)
def beats_from_many_threads() -> int:
    context = activity_context()
    rows: dict[str, int] = {}

    def beat(n: int) -> None:
        for row in range(50):
            rows[f"{n}/{row}"] = row
            context.heartbeat(rows)

    threads = [threading.Thread(target=beat, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if context.attempt == 1:
        raise OSError("again")
    return len(context.last_heartbeat) if isinstance(context.last_heartbeat, dict) else 0


async def test_heartbeats_that_cannot_be_kept_are_left_out_with_one_warning(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd:
        __iter__ = __reduce__ = __str__ = __repr__ = property(lambda self: 1 / 0)

    @activity(retry=OFTEN, heartbeat=5)
    async def beats() -> Any:
        context = activity_context()
        if context.attempt > 1:
            return context.last_heartbeat
        context.heartbeat("kept")
        cycle: list[Any] = []
        cycle.append(cycle)
        for details in (Odd(), {"a": {Odd()}}, "x" * 1_000_000, cycle, lambda: 3, threading.Lock()):
            context.heartbeat(details)
        raise OSError("again")

    @workflow
    async def flow(ctx: WorkflowContext) -> list[Any]:
        return [await ctx.run(beats), await ctx.run(beats_from_many_threads)]

    caplog.set_level(logging.WARNING, "romancy.activity")
    async with place.run(flow) as client:
        kept, rows = await client.execute(flow)
    assert kept == "kept"
    assert rows > 0
    assert sum("beats:1" in record.getMessage() for record in caplog.records) == 1
