# ruff: noqa: BLE001
"""Workflow code that a worker drops from memory says nothing and does nothing, whatever it tries on the way out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from romancy_nats import Client, WorkflowContext, activity, workflow
from romancy_nats.core.commit import Commit
from romancy_nats.core.events import TerminateRequested, UpdateRequested
from romancy_nats.core.execution import Execution
from romancy_nats.core.plain import encode_plain
from romancy_nats.errors import DeterminismError
from romancy_nats.runtime.engine import Engine
from romancy_nats.runtime.tuning import Tuning
from romancy_nats.testing.memory import MemoryServer
from romancy_nats.testing.virtual_time import run as run_in_virtual_time
from tests.unit.test_waits import Run

said: list[str] = []
flags: list[bool] = []


class _Listener(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        said.append(record.getMessage())


@pytest.fixture(autouse=True)
def _listening() -> Iterator[None]:
    said.clear()
    flags.clear()
    logger, handler = logging.getLogger("romancy.workflow"), _Listener()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield
    logger.removeHandler(handler)
    logger.setLevel(level)


@activity
async def work() -> int:
    await asyncio.sleep(5)
    return 1


class Loud:
    """Speaks when it is freed."""

    def __init__(self, ctx: WorkflowContext) -> None:
        self._log = ctx.logger
        self._ctx = ctx

    def __del__(self) -> None:
        self._log.error("freed")
        flags.append(self._ctx.is_replaying)


def _leave(ctx: WorkflowContext, log: logging.LoggerAdapter[Any], what: str) -> None:
    flags.append(ctx.is_replaying)
    ctx.logger.error(what)
    log.error(what)
    ctx.emit(what)
    ctx.emit(what, durable=True)
    with suppress(LookupError):
        raise LookupError(what)
    try:
        raise LookupError(what)
    except LookupError:
        ctx.logger.exception(what)


@workflow
async def leaving(ctx: WorkflowContext, how: str) -> None:
    log = logging.LoggerAdapter(ctx.logger, {"shop": "x"})
    kept = Loud(ctx)
    log.info("began")

    async def numbers() -> AsyncGenerator[int]:
        try:
            yield 1
        finally:
            _leave(ctx, log, "generator")

    async def put() -> None:
        try:
            await ctx.receive("never")
        finally:
            _leave(ctx, log, "update")

    async def beside() -> None:
        try:
            await ctx.receive("never")
        except BaseException as error:
            _leave(ctx, log, "beside")
            # What a task ends with is reported, but not of evicted code.
            raise LookupError("beside") from error

    ctx.on_update("put", put)
    generator = numbers()
    await anext(generator)
    task = asyncio.create_task(beside())
    try:
        if how == "at work":
            await ctx.run(work)
        elif how == "asleep":
            await ctx.sleep(1000)
        else:
            await ctx.receive("go")
    except BaseException:
        _leave(ctx, log, "except")
        await ctx.run(work)
    finally:
        _leave(ctx, log, "finally")
        await ctx.send_event("left", {})
    del kept, task


def _put() -> UpdateRequested:
    return UpdateRequested("u", "put", encode_plain({}))


def test_evicted_code_is_silent() -> None:
    announced: list[bytes] = []
    broken: list[object] = []
    run = Run(leaving, "waiting")
    run.execution.state.announce = announced.append
    run.execution.on_violation = lambda: broken.append(1)
    run.give(_put())
    run.execution.evict()
    assert said == ["began"]
    assert flags, "it has a finally block"
    assert set(flags) == {True}
    assert announced == broken == []


def test_so_is_code_that_a_terminate_ends() -> None:
    run = Run(leaving, "waiting")
    run.give(_put())
    [*_, last] = run.give(TerminateRequested("enough"))
    assert type(last).__name__ == "WorkflowTerminated"
    run.execution.evict()
    assert said == ["began"]
    assert set(flags) == {True}


def test_and_code_whose_replay_does_not_fit() -> None:
    run = Run(leaving, "waiting")
    commits = [run.commits[0], replace(run.commits[0], events=run.commits[0].events[1:2])]
    again = Execution(leaving, run.key)
    again.replay(Commit.decode(commits[0].encode()))
    with pytest.raises(DeterminismError):
        again.replay(Commit.decode(commits[1].encode()))
    said.clear()
    again.evict()
    assert said == []
    assert set(flags) == {True}
    run.execution.evict()


def test_a_logger_that_outlives_its_instance_stays_silent() -> None:
    kept: list[Any] = []

    @workflow
    async def keeping(ctx: WorkflowContext) -> None:
        kept.append(ctx)
        await ctx.receive("go")

    run = Run(keeping)
    kept[0].logger.info("alive")
    run.execution.evict()
    kept[0].logger.info("dead")
    assert said == ["alive"]
    assert kept[0].is_replaying


async def _drain(engine: Engine) -> None:
    await engine.drain()


async def _lose_the_lease(engine: Engine) -> None:
    await engine._lease_lost(engine.lease.incarnation)  # pyright: ignore[reportPrivateUsage]


async def _forget_the_longest_asleep(engine: Engine) -> None:
    client = Client(engine.host.world)
    for n in range(3):
        await client.start(leaving.options(id=f"other-{n}"), "asleep")
    await asyncio.sleep(5)


WAYS: dict[str, tuple[str, Callable[[Engine], Coroutine[Any, Any, None]]]] = {
    "drained at rest": ("waiting", _drain),
    "drained at work": ("at work", _drain),
    "lease lost": ("at work", _lose_the_lease),
    "cache overflow": ("waiting", _forget_the_longest_asleep),
}


@pytest.mark.parametrize(("how", "drop"), WAYS.values(), ids=WAYS)
def test_however_a_worker_drops_it(how: str, drop: Callable[[Engine], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        server = MemoryServer(seed=1)
        world = server.world("worker")
        await world.ensure_consumers({leaving.name: None})
        engine = Engine(world, [leaving], Tuning(cached=1, grace=0.1))
        async with asyncio.TaskGroup() as group:
            group.create_task(engine.run())
            await engine.ready.wait()
            await Client(server.world("client")).start(leaving.options(id="one"), how)
            await asyncio.sleep(2)
            assert said == ["began"]
            await drop(engine)
            assert {line for line in said if line != "began"} == set()
            assert flags
            assert set(flags) == {True}
            await engine.drain()

    run_in_virtual_time(main)
