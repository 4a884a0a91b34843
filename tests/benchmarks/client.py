"""The client process: starts workflows, waits for results, prints what it saw as JSON. Starts and stops no process."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable

from romancy_nats import Client
from tests.benchmarks import waiting_client as waiting
from tests.benchmarks.loops import run_on
from tests.benchmarks.samples import spread
from tests.benchmarks.workload import beats, chain, patient

Numbers = dict[str, float]
STEPS = 5


async def w1(client: Client, count: int) -> Numbers:
    """One workflow of `count` sequential no-op activities."""
    began = time.perf_counter()
    assert await client.execute(chain, count) == count
    return {"rate": count / (time.perf_counter() - began)}


async def w2(client: Client, count: int) -> Numbers:
    """`count` workflows of five no-op activities, all started at once."""
    began = time.perf_counter()
    results = await asyncio.gather(*(client.execute(chain, STEPS) for _ in range(count)))
    took = time.perf_counter() - began
    assert results == [STEPS] * count
    return {"rate": count / took}


async def w3(client: Client, count: int) -> Numbers:
    """Start to result of a one-step workflow, `count` times in a row."""
    took: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        await client.execute(chain, 1)
        took.append(time.perf_counter() - began)
    return spread(took)


async def go(client: Client, count: int) -> Numbers:
    """Start `count` instances that beat for long; does not wait for them."""
    await asyncio.gather(*(client.start(beats.options(id=f"beats-{n}"), 100_000) for n in range(count)))
    return {}


async def crowd(client: Client, count: int) -> Numbers:
    """`count` instances in an activity of 30 s each; waits for all results."""
    return await _crowd(client, count, 30.0)


async def small_crowd(client: Client, count: int) -> Numbers:
    """The same with 10 s."""
    return await _crowd(client, count, 10.0)


async def _crowd(client: Client, count: int, seconds: float) -> Numbers:
    room = asyncio.Semaphore(256)

    async def start(n: int) -> Awaitable[None]:
        async with room:
            handle = await client.start(patient.options(id=f"crowd-{n}"), seconds)
        return handle.result(600)

    began = time.perf_counter()
    results = await asyncio.gather(*(start(n) for n in range(count)))
    started = time.perf_counter() - began
    ended = await asyncio.gather(*results, return_exceptions=True)
    return {"started_in": started, "completed": sum(one is None for one in ended)}


MEASUREMENTS: dict[str, Callable[[Client, int], Awaitable[Numbers]]] = {
    "w1": w1,
    "w2": w2,
    "w3": w3,
    "go": go,
    "crowd": crowd,
    "small_crowd": small_crowd,
    "set_waiting": waiting.set_waiting,
    "set_listening": waiting.set_listening,
    "wake_each": waiting.wake_each,
    "wake_all": waiting.wake_all,
    "sleep_all": waiting.sleep_all,
    "finish": waiting.finish,
}


async def measure(what: str, count: int) -> Numbers:
    """Warm up, then measure."""
    async with Client.connect() as client:
        if what in ("w1", "w2", "w3"):
            await asyncio.gather(*(client.execute(chain, STEPS) for _ in range(20)))
        return await MEASUREMENTS[what](client, count)


if __name__ == "__main__":
    json.dump(run_on(sys.argv[1], measure(sys.argv[2], int(sys.argv[3]))), sys.stdout)
