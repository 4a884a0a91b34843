# pyright: reportPrivateUsage=false
"""Guards around turns, attempts and threads: what each is for holds, and without it a test sees that it does not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from romancy_nats import Client, RetryPolicy, WorkflowContext, activity, workflow
from romancy_nats.runtime import host as host_module
from romancy_nats.runtime.attempt import Attempt
from romancy_nats.runtime.engine import Engine
from romancy_nats.runtime.host import Host
from romancy_nats.runtime.instance import Instance
from romancy_nats.runtime.threads import ThreadCall, Threads
from romancy_nats.runtime.tuning import Tuning
from romancy_nats.testing.memory import MemoryServer
from romancy_nats.testing.virtual_time import run

TUNING = Tuning(lease_ttl=3.0, ack_wait=4.0, grace=1.0)


class OddError(BaseException):
    """Not even an Exception."""


@activity
async def quick() -> str:
    return "done"


@workflow
async def steps(ctx: WorkflowContext, count: int) -> int:
    for _ in range(count):
        await ctx.run(quick)
        await ctx.sleep(1)
    return count


attempts: list[int] = []


@activity(timeout=1.0, retry=RetryPolicy(max_attempts=2, initial_interval=0.5))
async def deaf() -> str:
    attempts.append(len(attempts))
    number = len(attempts)
    try:
        await asyncio.sleep(10 if number == 1 else 0)
    except asyncio.CancelledError:
        return "late"
    return "in time"


@workflow
async def waits(ctx: WorkflowContext) -> str:
    return await ctx.run(deaf)


async def _worked(work: Callable[[Client], Any]) -> None:
    server = MemoryServer(seed=1, ack_wait=TUNING.ack_wait)
    world = server.world("worker")
    await world.ensure_consumers({steps.name: None, waits.name: None})
    engine = Engine(world, [steps, waits], TUNING)
    running = asyncio.create_task(engine.run())
    await engine.ready.wait()
    try:
        await work(Client(server.world("client")))
        assert not running.done(), "the worker has ended"
        await engine.drain()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


# --- what holds


def one_bad_turn_is_no_matter_of_others() -> None:
    async def work(client: Client) -> None:
        good = await client.start(steps.options(id="good"), 3)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Instance, "_step", _breaks_for("bad", Instance._step))
            await client.start(steps.options(id="bad"), 3)
            async with asyncio.timeout(100):
                assert await good.result() == 3

    run(lambda: _worked(work))


def _breaks_for(id: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def step(self: Instance, *args: Any) -> Any:
        if self.key.id == id:
            raise OddError
        return real(self, *args)

    return step


def a_late_result_does_not_count() -> None:
    async def work(client: Client) -> None:
        attempts.clear()
        handle = await client.start(waits.options(id="x"))
        async with asyncio.timeout(100):
            assert await handle.result() == "in time"
        assert len(attempts) == 2

    run(lambda: _worked(work))


def a_thread_that_was_given_up_keeps_its_place() -> None:
    async def main() -> None:
        threads = Threads(MemoryServer(seed=1).world("worker").clock, 1)
        free, begun = threading.Event(), asyncio.Event()
        first = ThreadCall("first", lambda: free.wait(10), lambda: None, lambda *_: None)
        second = ThreadCall("second", lambda: None, begun.set, lambda *_: None)
        try:
            threads.begin(first, "one", 1)
            threads.begin(second, "one", 1)
            threads.give_up(first)
            await asyncio.sleep(0.05)
            assert not begun.is_set(), "two run at once where one may"
            free.set()
            async with asyncio.timeout(10):
                await begun.wait()
        finally:
            free.set()
            threads.close()

    asyncio.run(main())


# --- and without its guard does not


def _no_boundary(patch: pytest.MonkeyPatch) -> None:
    async def unbounded(work: Any, broke: Any) -> None:
        await work

    def at_once(self: Instance, work: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        work(*args, **kwargs)

    def unguarded(self: Host, handling: Any, delivery: Any) -> Any:
        return handling

    patch.setattr(Instance, "bounded", at_once)
    patch.setattr(Host, "_guarded", unguarded)
    patch.setattr(host_module, "_bounded", unbounded)


def _late_counts(patch: pytest.MonkeyPatch) -> None:
    def end(self: Any, value: object, error: BaseException | None) -> None:
        self._error = None
        self._ended(value, error)

    patch.setattr(Attempt, "_end", end)


def _place_given_back_early(patch: pytest.MonkeyPatch) -> None:
    give_up = Threads.give_up

    def early(self: Threads, call: ThreadCall) -> None:
        give_up(self, call)
        if call.places is not None:
            call.places.running.pop(call, None)
            self._fill(call.places)

    patch.setattr(Threads, "give_up", early)


MUTANTS = {
    "L10: an error in a turn ends the worker": (_no_boundary, one_bad_turn_is_no_matter_of_others),
    "activities: a late result counts": (_late_counts, a_late_result_does_not_count),
    "activities: a place is given back early": (
        _place_given_back_early,
        a_thread_that_was_given_up_keeps_its_place,
    ),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("mutant", "holds"), MUTANTS.values(), ids=MUTANTS)
def test_a_missing_guard_is_found(
    mutant: Callable[[pytest.MonkeyPatch], None], holds: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    holds()
    mutant(monkeypatch)
    with pytest.raises((AssertionError, TimeoutError, BaseExceptionGroup)):
        holds()
