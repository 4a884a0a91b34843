"""asyncio and anyio run unmodified on the deterministic loop, in virtual time and in the same order each time (L7)."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import anyio
import pytest
from anyio.abc import TaskStatus

from romancy_nats.core.loop import DeterministicLoop
from romancy_nats.errors import WorkflowRuleError
from tests.unit.virtual import START, Drive, run


def _now() -> float:
    return asyncio.get_running_loop().time() - START


async def _gather() -> object:
    async def later(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    return await asyncio.gather(*(later(seconds) for seconds in (3, 1, 2))), _now()


async def _task_group() -> object:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(asyncio.sleep(number, number)) for number in (2, 1)]
    return [task.result() for task in tasks], _now()


async def _failing_task_group() -> object:
    ended: list[int] = []

    async def child(number: int) -> None:
        try:
            await asyncio.sleep(10)
        finally:
            ended.append(number)

    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            for number in range(40):
                group.create_task(child(number))
            await asyncio.sleep(1)
            raise ValueError
    return ended == list(range(40)), _now()


async def _timeout() -> object:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await asyncio.sleep(10)
    async with asyncio.timeout(5):
        await asyncio.sleep(1)
    return _now()


async def _wait_for() -> object:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), 4)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.sleep(1), 0)
    return await asyncio.wait_for(asyncio.sleep(1, "in time"), 2), _now()


async def _wait() -> object:
    tasks = [asyncio.create_task(asyncio.sleep(seconds, seconds)) for seconds in (3, 1, 2)]
    done, pending = await asyncio.wait(tasks, timeout=2.5)
    for task in pending:
        task.cancel()
    return sorted(task.result() for task in done), len(pending), _now()


async def _event_queue_condition_lock() -> object:
    event, queue, condition, lock = (
        asyncio.Event(),
        asyncio.Queue[int](1),
        asyncio.Condition(),
        asyncio.Lock(),
    )
    got: list[int] = []

    async def consume() -> None:
        await event.wait()
        while (item := await queue.get()) >= 0:
            async with lock:
                await asyncio.sleep(1)
                got.append(item)
        async with condition:
            condition.notify_all()

    consumer = asyncio.create_task(consume())
    event.set()
    for item in (1, 2, -1):
        await queue.put(item)
    async with condition:
        await condition.wait()
    await consumer
    return got, _now()


async def _as_completed() -> object:
    tasks = [asyncio.create_task(asyncio.sleep(seconds, seconds)) for seconds in (3, 1, 2)]
    return [await each for each in asyncio.as_completed(tasks, timeout=9)], _now()


async def _async_generators() -> object:
    async def numbers() -> AsyncGenerator[int, None]:
        for number in range(3):
            await asyncio.sleep(1)
            yield number

    return [number async for number in numbers()], _now()


async def _anyio_task_group() -> object:
    got: list[object] = []

    async def child(name: str, *, task_status: TaskStatus[str]) -> None:
        await anyio.sleep(1)
        task_status.started(name)
        await event.wait()
        got.append(name)

    event = anyio.Event()
    async with anyio.create_task_group() as group:
        got.append(await group.start(child, "a"))
        got.append(await group.start(child, "b"))
        await anyio.sleep(1)
        event.set()
    return got, _now()


async def _anyio_scopes() -> object:
    with anyio.move_on_after(3) as scope:
        await anyio.sleep_forever()
    with pytest.raises(TimeoutError), anyio.fail_after(2):
        await anyio.sleep(5)
    with anyio.move_on_after(0):
        await anyio.sleep(5)
    return scope.cancelled_caught, _now()


async def _anyio_shielded_cleanup() -> object:
    """A cancelled group waits for a shielded child without spinning."""

    async def child() -> None:
        try:
            await anyio.sleep(100)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(5)

    async with anyio.create_task_group() as group:
        group.start_soon(child)
        await anyio.sleep(1)
        group.cancel_scope.cancel()
    return _now()


async def _anyio_streams_and_locks() -> object:
    send, receive = anyio.create_memory_object_stream[int](0)
    lock, limiter, got = anyio.Lock(), anyio.CapacityLimiter(1), []

    async def consume() -> None:
        async with receive:
            async for item in receive:
                async with lock, limiter:
                    await anyio.sleep(1)
                    got.append(item)

    async with anyio.create_task_group() as group:
        group.start_soon(consume)
        async with send:
            for item in range(3):
                await send.send(item)
    return got, _now()


@pytest.mark.parametrize(
    ("main", "expected"),
    [
        (_gather, ([3, 1, 2], 3)),
        (_task_group, ([2, 1], 2)),
        (_failing_task_group, (True, 1)),
        (_timeout, 6),
        (_wait_for, ("in time", 5)),
        (_wait, ([1, 2], 1, 2.5)),
        (_event_queue_condition_lock, ([1, 2], 2)),
        (_as_completed, ([1, 2, 3], 3)),
        (_async_generators, ([0, 1, 2], 3)),
        (_anyio_task_group, (["a", "b", "a", "b"], 3)),
        (_anyio_scopes, (True, 5)),
        (_anyio_shielded_cleanup, 6),
        (_anyio_streams_and_locks, ([0, 1, 2], 3)),
    ],
)
def test_runs_unmodified(main: Callable[[], Coroutine[Any, Any, Any]], expected: object) -> None:
    assert run(main) == expected


# --- order where asyncio and anyio walk by memory address


def test_as_completed_starts_the_coroutines_of_a_list_in_its_order() -> None:
    async def main() -> list[int]:
        began: list[int] = []

        class Call:
            def __init__(self, number: int) -> None:
                self.number = number

            def __await__(self) -> Any:
                began.append(self.number)
                return asyncio.sleep(1, self.number).__await__()

        async def child(number: int) -> int:
            began.append(number)
            await asyncio.sleep(1)
            return number

        calls: list[Any] = [Call(number) if number % 3 else child(number) for number in range(100)]
        calls = [calls[(index * 37) % 100] for index in range(100)]
        ended = [await each for each in asyncio.as_completed([*calls, calls[0]])]
        assert began == ended == [(index * 37) % 100 for index in range(100)]
        return began

    assert len(run(main)) == 100


def test_as_completed_of_a_set_of_coroutines_has_no_order_and_says_so() -> None:
    async def child() -> None: ...

    async def main() -> None:
        for each in asyncio.as_completed({child()}):
            await each

    drive = Drive(main)
    with pytest.raises(WorkflowRuleError, match="pass it a list"):
        drive.to_end()
    drive.loop.close_all()


def test_gather_and_ensure_future_are_not_taken_for_as_completed() -> None:
    async def main() -> object:
        return await asyncio.gather(asyncio.sleep(1, "a"), asyncio.ensure_future(asyncio.sleep(2, "b")))

    assert run(main) == ["a", "b"]


def test_anyio_cancels_nested_scopes_in_order_of_their_tasks() -> None:
    ended: list[int] = []

    async def child(number: int) -> None:
        with anyio.move_on_after(100):
            try:
                await anyio.sleep(50)
            finally:
                ended.append(number)

    async def main() -> None:
        garbage: list[Any] = []
        async with anyio.create_task_group() as group:
            for number in range(60):
                group.start_soon(child, number)
                garbage.append([anyio.CancelScope() for _ in range(number * 31 % 60)])
                if number % 7 == 0:
                    await anyio.sleep(1)
                    del garbage[::2]
            await anyio.sleep(1)
            asyncio.get_running_loop().call_soon(ended.append, -1)
            group.cancel_scope.cancel()
            asyncio.get_running_loop().call_soon(ended.append, 60)

    run(main)
    assert ended == list(range(-1, 61))


def test_cancellation_by_a_workflow_keeps_the_order_it_chose() -> None:
    ended: list[int] = []

    async def child(number: int) -> None:
        try:
            await asyncio.sleep(50)
        finally:
            ended.append(number)

    async def main() -> None:
        tasks = [asyncio.create_task(child(number)) for number in range(3)]
        await asyncio.sleep(1)
        for task in reversed(tasks):
            task.cancel()
        await asyncio.wait(tasks)

    run(main)
    assert ended == [2, 1, 0]


def test_an_async_generator_left_by_break_is_closed_at_once() -> None:
    async def main() -> list[str]:
        seen: list[str] = []

        async def numbers() -> AsyncGenerator[int, None]:
            try:
                yield 1
                yield 2
            finally:
                await asyncio.sleep(1)
                seen.append("closed")

        async for _ in numbers():
            break
        await asyncio.sleep(0)
        seen.append("after")
        await asyncio.sleep(2)
        return seen

    assert run(main) == ["after", "closed"]


def test_an_async_generator_dropped_by_the_collector_starts_nothing() -> None:
    seen: list[str] = []

    async def numbers() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            seen.append("closed")

    async def main() -> None:
        holder: list[Any] = [numbers()]
        holder.append(holder)
        await anext(holder[0])
        del holder
        gc.collect()
        await asyncio.sleep(1)

    loop = DeterministicLoop()
    drive = Drive(main, loop)
    gc.collect()
    drive.to_end()
    assert seen == []
    loop.close_all()
    assert seen == ["closed"]
