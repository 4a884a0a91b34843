"""The client of the measurements of waiting: sets instances waiting, wakes them, and says how long that took."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable

from romancy_nats import Client, InstanceStatus
from tests.benchmarks.samples import spread
from tests.benchmarks.waiting_workload import EVENT, brief, sleeper, waiter

Numbers = dict[str, float]
AT_A_TIME = 256
_LEAD = 45.0
_SPREAD = 60.0
_LOOK = 0.2


async def set_waiting(client: Client, count: int) -> Numbers:
    """`count` instances that wait for an event of their own, all at rest."""
    return await _set_waiting(client, count, lambda n: f"key-{n}")


async def set_listening(client: Client, count: int) -> Numbers:
    """`count` instances that wait for the same event, all at rest."""
    return await _set_waiting(client, count, lambda _: None)


async def _set_waiting(client: Client, count: int, key: Callable[[int], str | None]) -> Numbers:
    began = time.perf_counter()
    have = await client.count(workflow=waiter, status=InstanceStatus.WAITING_FOR_EVENT)
    room = asyncio.Semaphore(AT_A_TIME)

    async def start(n: int) -> None:
        async with room:
            await client.start(waiter.options(id=f"waiter-{n}"), key(n))

    await asyncio.gather(*(start(n) for n in range(have, have + count)))
    await _all_waiting(client, have + count)
    return {"rate": count / (time.perf_counter() - began)}


async def wake_each(client: Client, count: int) -> Numbers:
    """From sending an event to the result of the one instance that waits for it, one after another.

    Says `waiting` when all are at rest, and begins at the next line on its standard input.
    """
    starts = (client.start(waiter.options(id=f"waiter-{n}"), f"key-{n}") for n in range(count))
    handles = await asyncio.gather(*starts)
    await _all_waiting(client, count)
    print("waiting", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    took: list[float] = []
    for n, handle in enumerate(handles):
        waiting = asyncio.ensure_future(handle.result(60))
        await handle.status()  # it waits, on a machine that is awake
        began = time.perf_counter()
        await client.send_event(EVENT, n, key=f"key-{n}")
        await waiting
        took.append(time.perf_counter() - began)
    return spread(took)


async def _all_waiting(client: Client, count: int) -> None:
    while await client.count(workflow=waiter, status=InstanceStatus.WAITING_FOR_EVENT) < count:
        await asyncio.sleep(_LOOK)


async def wake_all(client: Client, count: int) -> Numbers:
    """One event for all of them; how many completed, and how fast."""
    began = time.perf_counter()
    await client.send_event(EVENT, "all")
    done = 0
    while done < count and time.perf_counter() - began < 60 + count / 100:
        await asyncio.sleep(1.0)
        done = await client.count(workflow=waiter, status=InstanceStatus.COMPLETED)
    return {"completed": done, "rate": done / (time.perf_counter() - began)}


async def sleep_all(client: Client, count: int) -> Numbers:
    """`count` instances whose timers are due within one minute; how late they were."""
    room = asyncio.Semaphore(AT_A_TIME)
    first = time.time() + _LEAD

    async def one(n: int) -> float:
        async with room:
            handle = await client.start(sleeper, first + _SPREAD * n / count)
        return await handle.result(600)

    late = await asyncio.gather(*(one(n) for n in range(count)))
    return {**spread(late), "earliest": min(late)}


async def finish(client: Client, count: int) -> Numbers:
    """`count` instances that end at once."""
    room = asyncio.Semaphore(AT_A_TIME)
    began = time.perf_counter()

    async def one() -> None:
        async with room:
            await client.execute(brief)

    for first in range(0, count, 1000):
        await asyncio.gather(*(one() for _ in range(min(1000, count - first))))
    return {"rate": count / (time.perf_counter() - began)}
