"""A running worker as a block: resources, engine, signals, drain. Composition of `runtime/` on a given world."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

import anyio

from romancy_nats.core.definition import Workflow
from romancy_nats.ports import World
from romancy_nats.runtime.engine import Engine
from romancy_nats.runtime.signals import AskedToEnd
from romancy_nats.runtime.tuning import Tuning
from romancy_nats.runtime.watchdog import Watchdog

Lifespan = Callable[[], AbstractAsyncContextManager[object]]


class Worker:
    """A worker at work. `drain` ends it; `wait` returns when it has ended."""

    def __init__(self, engine: Engine, ended: asyncio.Event) -> None:
        self._engine = engine
        self._ended = ended

    @property
    def incarnation(self) -> str:
        """The name under which it owns instances just now."""
        return self._engine.lease.incarnation

    @property
    def instances(self) -> int:
        """How many instances it owns."""
        return len(self._engine.host.instances)

    async def drain(self) -> None:
        """Take nothing new, finish or let go of what is running within the grace period, and end."""
        await self._engine.drain()

    async def wait(self) -> None:
        """Return when the worker has ended, for example after SIGTERM."""
        await self._ended.wait()


@asynccontextmanager
async def running_worker(
    world: World,
    workflows: Sequence[Workflow[..., Any]],
    tuning: Tuning,
    *,
    lifespan: Lifespan | None = None,
    overrides: Mapping[str, Callable[..., object]] | None = None,
    signals: bool | None = False,
    watch: bool = True,
) -> AsyncGenerator[Worker]:
    """Run a worker until the block ends. SIGTERM and SIGINT drain it and then end the block, if `signals` says so.

    `signals=None` takes only those that nobody else uses; what was there before is put back at the end of the block.
    """
    engine = Engine(world, workflows, tuning, overrides=overrides)
    ended = asyncio.Event()
    worker = Worker(engine, ended)
    watchdog = Watchdog(tuning.block_warning) if watch else nullcontext()
    failure: Exception | None = None
    async with lifespan() if lifespan is not None else nullcontext() as state:
        engine.workshop.state = state
        with watchdog:
            async with anyio.create_task_group() as group:
                # Shielded, since it ends by its drain: a block that is cancelled lets go of its instances, too.
                running = anyio.CancelScope(shield=True)
                group.start_soon(_run, engine, ended, running)
                try:
                    await engine.ready.wait()
                except BaseException:
                    running.cancel()
                    raise
                asked, listening = asyncio.Event(), anyio.CancelScope()
                with anyio.CancelScope() as body, AskedToEnd(asked.set, signals):
                    group.start_soon(_end_when_asked, asked, listening, engine, body)
                    try:
                        yield worker
                    except Exception as error:  # noqa: BLE001 - raised again below, outside the group that would wrap it
                        failure = error
                    finally:
                        with anyio.CancelScope(shield=True):
                            await engine.drain()
                            listening.cancel()
                with anyio.CancelScope(shield=True):
                    await worker.wait()
        if failure is not None:
            raise failure


async def _run(engine: Engine, ended: asyncio.Event, running: anyio.CancelScope) -> None:
    try:
        with running:
            await engine.run()
    finally:
        ended.set()


async def _end_when_asked(
    asked: asyncio.Event, listening: anyio.CancelScope, engine: Engine, body: anyio.CancelScope
) -> None:
    # In a task: anyio knows no event loop in the callback of a signal, when sniffio is installed.
    with listening:
        await asked.wait()
        await engine.drain()
        body.cancel()
