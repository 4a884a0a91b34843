"""A running worker as a block: resources, engine, signals, drain. Composition of `runtime/` on a given world."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

import anyio
import anyio.abc

from romancy_nats.core.definition import Workflow
from romancy_nats.ports import World
from romancy_nats.runtime.engine import Engine
from romancy_nats.runtime.tuning import Tuning
from romancy_nats.runtime.watchdog import Watchdog

Lifespan = Callable[[], AbstractAsyncContextManager[object]]


class Worker:
    """A worker at work. `drain` ends it; `wait` returns when it has ended."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ended = asyncio.Event()

    @property
    def incarnation(self) -> str:
        """The name under which it owns instances just now."""
        return self._engine.lease.incarnation

    @property
    def instances(self) -> int:
        """How many instances it owns."""
        return len(self._engine.instances)

    async def drain(self) -> None:
        """Take nothing new, finish or let go of what is running within the grace period, and end."""
        await self._engine.drain()

    async def wait(self) -> None:
        """Return when the worker has ended, for example after SIGTERM."""
        await self._ended.wait()

    def ended(self) -> None:
        """Say that it is over (called by the block that runs it)."""
        self._ended.set()


@asynccontextmanager
async def running_worker(
    world: World,
    workflows: Sequence[Workflow[..., Any]],
    tuning: Tuning,
    *,
    lifespan: Lifespan | None = None,
    overrides: Mapping[str, Callable[..., object]] | None = None,
    signals: bool = False,
    watch: bool = True,
) -> AsyncGenerator[Worker]:
    """Run a worker until the block ends; with `signals`, SIGTERM drains it and then ends the block."""
    engine = Engine(world, workflows, tuning, overrides=overrides)
    worker = Worker(engine)
    watchdog = Watchdog(tuning.block_warning) if watch else nullcontext()
    failure: Exception | None = None
    async with lifespan() if lifespan is not None else nullcontext() as state:
        engine.workshop.state = state
        with watchdog:
            async with anyio.create_task_group() as group:
                # Shielded, since it ends by its drain: a block that is cancelled lets go of its instances, too.
                running = anyio.CancelScope(shield=True)
                group.start_soon(_run, engine, worker, running)
                try:
                    await engine.ready.wait()
                except BaseException:
                    running.cancel()
                    raise
                with anyio.CancelScope() as body, _draining_on_sigterm(group, engine, body, signals):
                    try:
                        yield worker
                    except Exception as error:  # noqa: BLE001 - raised again below, outside the group that would wrap it
                        failure = error
                    finally:
                        with anyio.CancelScope(shield=True):
                            await engine.drain()
                with anyio.CancelScope(shield=True):
                    await worker.wait()
        if failure is not None:
            raise failure


async def _run(engine: Engine, worker: Worker, running: anyio.CancelScope) -> None:
    try:
        with running:
            await engine.run()
    finally:
        worker.ended()


class _draining_on_sigterm:  # noqa: N801 - used as a verb in a with statement
    """While inside: SIGTERM (and SIGINT) drain the worker, then end the block."""

    def __init__(self, group: anyio.abc.TaskGroup, engine: Engine, body: anyio.CancelScope, on: bool) -> None:
        self._group, self._engine, self._body, self._on = group, engine, body, on

    def __enter__(self) -> None:
        if self._on:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._drain)

    def _drain(self) -> None:
        self._group.start_soon(self._drain_then_end)

    async def _drain_then_end(self) -> None:
        await self._engine.drain()
        self._body.cancel()

    def __exit__(self, *_: object) -> None:
        if self._on:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
