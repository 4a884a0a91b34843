# ruff: noqa: BLE001, SIM105
"""Eviction: code ends at once and in silence, newest first, whatever it does about it, and not by the collector."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import pytest

from romancy_nats.core.loop import DeterministicLoop, Evicted, StepViolation
from tests.unit.virtual import START, Drive


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """What needs the collector to end would be seen as not ended."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def evict(main: Callable[[], Coroutine[Any, Any, Any]]) -> DeterministicLoop:
    drive = Drive(main)
    assert not drive.root.done()
    drive.loop.close_all()
    return drive.loop


def test_finally_blocks_run_newest_task_first_each_as_the_current_task_in_its_context() -> None:
    ended: list[object] = []
    name: ContextVar[str] = ContextVar("name")

    async def child(number: int) -> None:
        name.set(f"child {number}")
        try:
            await asyncio.sleep(10)
        finally:
            task = asyncio.current_task()
            ended.append((name.get(), task is not None and task.get_name()))

    async def main() -> None:
        name.set("root")
        tasks = [asyncio.create_task(child(number), name=str(number)) for number in range(3)]
        try:
            await asyncio.wait(tasks)
        finally:
            ended.append(name.get())

    evict(main)
    assert ended == [("child 2", "2"), ("child 1", "1"), ("child 0", "0"), "root"]


def test_an_evicted_task_is_no_error_to_code_that_catches_exceptions() -> None:
    seen: list[str] = []

    async def main() -> None:
        try:
            await asyncio.sleep(10)
        except Exception:
            seen.append("caught")
        except asyncio.CancelledError:
            seen.append("cancelled")
        seen.append("went on")

    evict(main)
    assert seen == []


@pytest.mark.parametrize(
    "command",
    [
        lambda: asyncio.sleep(1),
        lambda: asyncio.get_running_loop().create_future(),
        lambda: asyncio.get_running_loop().call_soon(print),
        lambda: asyncio.get_running_loop().call_later(1, print),
        lambda: asyncio.create_task(asyncio.sleep(1)),
        lambda: anyio.sleep(1),
    ],
)
def test_everything_is_refused_while_code_is_being_evicted(command: Callable[[], Any]) -> None:
    refused: list[BaseException] = []

    async def main() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            try:
                await command()
            except BaseException as error:
                refused.append(error)
                raise

    loop = evict(main)
    assert [type(error) for error in refused] == [Evicted]
    assert loop.new_timers == loop.cancelled_timers == loop.errors == []


def test_the_loop_is_dead_afterwards() -> None:
    async def main() -> None:
        await asyncio.sleep(10)

    loop = evict(main)
    coroutine = asyncio.sleep(1)
    for call in (loop.create_future, lambda: loop.call_soon(print), lambda: loop.create_task(coroutine)):
        with pytest.raises(Evicted):
            call()
    with pytest.raises(StepViolation):
        loop.call_soon_threadsafe(print)
    with pytest.raises(RuntimeError, match="evicted"):
        loop.step(START + 1)
    assert loop.is_closed()
    assert loop.stalled is None
    loop.close_all()


def test_what_an_evicted_instance_waited_for_is_over() -> None:
    futures: list[asyncio.Future[int]] = []

    async def wait(future: asyncio.Future[int]) -> None:
        await future

    async def main() -> None:
        futures.append(asyncio.get_running_loop().create_future())
        await asyncio.create_task(wait(futures[0]))

    drive = Drive(main)
    tasks = drive.loop.live_tasks()
    drive.loop.close_all()
    assert [future.cancelled() for future in [*futures, *tasks]] == [True, True, True]


async def _swallows_once() -> None:
    try:
        await asyncio.sleep(10)
    except BaseException:
        pass
    await asyncio.Event().wait()


async def _swallows_for_ever_and_sleeps() -> None:
    while True:
        try:
            await asyncio.sleep(10)
        except BaseException:
            pass


async def _swallows_for_ever_and_polls() -> None:
    await asyncio.sleep(10)
    while True:
        try:
            await asyncio.sleep(0)
        except BaseException:
            pass


async def _swallows_for_ever_and_waits_for_one_future() -> None:
    future = asyncio.get_running_loop().create_future()
    while True:
        try:
            await asyncio.shield(future) if future.done() else await future
        except BaseException:
            pass


async def _swallows_for_ever_and_makes_tasks() -> None:
    while True:
        try:
            await asyncio.create_task(asyncio.sleep(1))
        except BaseException:
            pass


async def _awaits_a_future_in_finally() -> None:
    future = asyncio.get_running_loop().create_future()
    try:
        await asyncio.sleep(10)
    finally:
        await future


async def _raises_system_exit_in_finally() -> None:
    try:
        await asyncio.sleep(10)
    finally:
        sys.exit("not now")


async def _task_groups() -> None:
    async def child() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            event.set()

    event = asyncio.Event()
    async with asyncio.TaskGroup() as group, anyio.create_task_group() as other:
        group.create_task(child())
        other.start_soon(child)
        with anyio.CancelScope(shield=True):
            await event.wait()


async def _tasks_never_started() -> None:
    for _ in range(3):
        asyncio.create_task(asyncio.sleep(10))  # noqa: RUF006
    await asyncio.sleep(5)


async def _failed_and_unseen() -> None:
    async def fail() -> None:
        raise ValueError

    task = asyncio.create_task(fail())
    await asyncio.sleep(5)
    await task


async def _suspended_generators() -> None:
    async def numbers() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            await asyncio.sleep(1)

    kept = numbers()
    await anext(kept)
    async for _ in numbers():
        async for _ in numbers():
            await asyncio.sleep(10)


async def _generator_that_ignores_its_end() -> None:
    async def numbers() -> AsyncGenerator[int, None]:
        while True:
            try:
                yield 1
            except BaseException:
                pass

    async for _ in numbers():
        await asyncio.sleep(10)


STUBBORN = [
    _swallows_once,
    _swallows_for_ever_and_sleeps,
    _swallows_for_ever_and_polls,
    _swallows_for_ever_and_waits_for_one_future,
    _swallows_for_ever_and_makes_tasks,
    _awaits_a_future_in_finally,
    _raises_system_exit_in_finally,
    _task_groups,
    _tasks_never_started,
    _failed_and_unseen,
    _suspended_generators,
    _generator_that_ignores_its_end,
]


@pytest.mark.parametrize("main", STUBBORN)
def test_no_code_can_resist_or_be_heard(
    main: Callable[[], Coroutine[Any, Any, Any]],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noise: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", noise.append)
    loop = evict(main)
    assert loop.errors == []
    del loop
    gc.collect()
    assert noise == []
    assert capfd.readouterr() == ("", "")


def test_nothing_is_printed_when_the_process_ends() -> None:
    program = (
        "import asyncio\n"
        "from tests.unit.test_loop_eviction import STUBBORN, Drive\n"
        "for main in STUBBORN:\n"
        "    Drive(main).loop.close_all()\n"
        "print('end')\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_generators_are_closed_even_while_they_are_awaited() -> None:
    seen: list[str] = []

    async def waiting(name: str) -> AsyncGenerator[int, None]:
        try:
            yield 1
            await asyncio.sleep(10)
            yield 2
        finally:
            seen.append(name)

    @asynccontextmanager
    async def manager() -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            seen.append("manager")

    async def main() -> None:
        kept = waiting("kept")
        await anext(kept)
        async with manager():
            async for _ in waiting("awaited"):
                pass

    evict(main)
    assert seen == ["awaited", "manager", "kept"]


def test_close_all_after_a_step_that_was_broken_off() -> None:
    ended: list[str] = []

    async def spin() -> None:
        try:
            while True:
                await asyncio.sleep(0)
        finally:
            ended.append("spin")

    loop = DeterministicLoop(max_handles=50)
    with pytest.raises(Exception, match="50 callbacks"):
        Drive(spin, loop)
    loop.close_all()
    assert ended == ["spin"]


def test_an_evicted_instance_is_freed_without_the_collector() -> None:
    class Big:
        pass

    async def child(big: Big) -> None:
        await asyncio.sleep(10)

    async def main() -> None:
        nonlocal alive
        big = Big()
        alive = weakref.ref(big)
        async with asyncio.TaskGroup() as group:
            group.create_task(child(big))
            await asyncio.sleep(20)

    alive: weakref.ref[Big] | None = None
    drive = Drive(main)
    loop = weakref.ref(drive.loop)
    drive.loop.close_all()
    assert alive is not None
    assert alive() is None
    del drive
    assert loop() is None


async def _evict_inside_another_loop() -> None:
    outer, me = asyncio.get_running_loop(), asyncio.current_task()
    seen: list[object] = []

    async def main() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            seen.append(asyncio.get_running_loop())

    loop = evict(main)
    assert seen == [loop]
    assert asyncio.get_running_loop() is outer
    assert asyncio.current_task() is me


def test_code_is_ended_under_its_own_loop_never_the_outer_one() -> None:
    asyncio.run(_evict_inside_another_loop())
