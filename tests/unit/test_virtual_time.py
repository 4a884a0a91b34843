"""The virtual-time loop: jumps, order by seed, deadlocks, threads and frozen processes."""

from __future__ import annotations

import asyncio
import contextvars
import time

import anyio
import pytest

from romancy_nats.testing import virtual_time
from romancy_nats.testing.virtual_time import PROCESS, DeadlockError, VirtualTimeLoop, run


def test_sleeping_a_day_takes_no_time() -> None:
    async def main() -> float:
        before = asyncio.get_running_loop().time()
        await asyncio.sleep(86_400)
        return asyncio.get_running_loop().time() - before

    assert run(main, start=5.0) == 86_400


def test_timers_fire_in_order_and_timeouts_work() -> None:
    seen: list[str] = []

    async def nap(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append(name)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(nap("late", 3))
            group.create_task(nap("early", 1))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await asyncio.Event().wait()
        with anyio.move_on_after(2):
            await anyio.sleep_forever()
        seen.append(f"{asyncio.get_running_loop().time():g}")

    run(main)
    assert seen == ["early", "late", "7"]


def order(seed: int | None, *, keep_order: bool = False) -> list[int]:
    seen: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for number in range(20):
            context = contextvars.copy_context()
            context.run(PROCESS.set, number % 2)
            loop.call_soon(seen.append, number, context=context)
        await asyncio.sleep(1)

    run(main, seed, keep_order=keep_order)
    return seen


def test_without_a_seed_the_order_is_fifo() -> None:
    assert order(None) == list(range(20))


def test_a_seed_decides_the_order() -> None:
    assert order(1) == order(1)
    assert len({tuple(order(seed)) for seed in range(10)}) > 5
    assert sorted(order(3)) == list(range(20))


def test_keep_order_shuffles_only_between_processes() -> None:
    seen = [order(seed, keep_order=True) for seed in range(5)]
    for numbers in seen:
        assert [n for n in numbers if n % 2] == list(range(1, 20, 2))
        assert [n for n in numbers if not n % 2] == list(range(0, 20, 2))
    assert len({tuple(numbers) for numbers in seen}) > 1


def test_a_deadlock_is_an_error_that_names_the_task() -> None:
    async def stuck() -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError, match="stuck"):
        run(stuck)


def test_spinning_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual_time, "MOST_ROUNDS", 1000)

    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(virtual_time.SpinningError, match="spin"):
        run(spin)


def test_time_waits_for_threads() -> None:
    async def main() -> tuple[str, float]:
        loop = asyncio.get_running_loop()
        nap = asyncio.create_task(asyncio.sleep(3600))
        result = await asyncio.to_thread(lambda: (time.sleep(0.05), "done")[1])
        at = loop.time()
        await nap
        return result, at

    assert run(main) == ("done", 0.0)


def test_time_waits_for_a_foreign_thread_that_is_announced() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        nap = asyncio.create_task(asyncio.sleep(3600))
        with loop.thread_at_work():
            await anyio.to_thread.run_sync(time.sleep, 0.05)
        at = loop.time()
        await nap
        return at

    assert run(main) == 0.0


def test_a_frozen_process_stands_still_and_goes_on() -> None:
    seen: list[float] = []

    async def tick() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(3):
            await asyncio.sleep(1)
            seen.append(loop.time())

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        context = contextvars.copy_context()
        context.run(PROCESS.set, "p")
        task = loop.create_task(tick(), context=context)
        await asyncio.sleep(1.5)
        loop.freeze("p")
        await asyncio.sleep(100)
        loop.thaw("p")
        await task

    run(main)
    assert seen == [1, 101.5, 102.5]


def test_leftover_tasks_are_cancelled_and_stubborn_ones_forgotten() -> None:
    ended: list[str] = []

    async def polite() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append("polite")

    async def main() -> None:
        asyncio.create_task(polite())  # noqa: RUF006
        await asyncio.sleep(1)

    run(main)
    assert ended == ["polite"]
