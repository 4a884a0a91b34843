"""A server, workers and a client under faults: loads them, harms them, and gathers the evidence. Judges nothing."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import anyio

from romancy_nats import (
    Client,
    RomancyError,
    Settings,
    Workflow,
    WorkflowCancelledError,
    WorkflowFailedError,
    WorkflowHandle,
)
from romancy_nats.client.client import session_of
from romancy_nats.core.commit import Commit
from romancy_nats.core.history import History
from romancy_nats.core.ids import InstanceKey
from romancy_nats.jetstream.api import ask
from romancy_nats.jetstream.server import LocalServer
from romancy_nats.jetstream.world import JetStreamWorld
from romancy_nats.testing.replay import replay
from tests.chaos.evidence import Evidence, Fault, Key, Op, Summary
from tests.chaos.fleet import LEASE, Fleet, WorkerProcess
from tests.chaos.flows import BY_NAME, chain, failing, fan, patient, threaded, tries
from tests.chaos.record import read, wall_clock

PATIENCE = 60.0
_AT_ONCE = 16


@dataclass
class Stage:
    """One run."""

    server: LocalServer
    fleet: Fleet
    client: Client
    chance: random.Random
    seed: int = 0
    ops: list[Op] = field(default_factory=list[Op])
    flows: dict[str, Workflow[..., Any]] = field(default_factory=lambda: dict(BY_NAME))
    must_cancel: set[Key] = field(default_factory=set[Key])
    answered: int = 0

    # --- what clients do

    async def start(self, flow: Workflow[..., Any], id: str, *args: Any) -> WorkflowHandle[Any] | None:
        """Start an instance and note what the client was told."""
        key, invoked = (flow.name, id), wall_clock()
        try:
            async with asyncio.timeout(PATIENCE):
                handle = await self.client.start(flow.options(id=id), *args)
        except (TimeoutError, RomancyError) as error:
            self.ops.append(Op("start", key, "unknown", repr(error), invoked, wall_clock()))
            return None
        self.ops.append(Op("start", key, "ok", "", invoked, wall_clock()))
        return handle

    async def result(self, handle: WorkflowHandle[Any], patience: float = PATIENCE) -> None:
        """Wait for the end and note what the client was told."""
        key, invoked = (str(handle.workflow), handle.id), wall_clock()
        outcome, told = "ok", ""
        try:
            told = await handle.result(patience)
        except WorkflowFailedError:
            outcome, told = "fail", "failed"
        except WorkflowCancelledError:
            outcome, told = "fail", "cancelled"
        except (TimeoutError, RomancyError) as error:
            outcome, told = "unknown", repr(error)
        self.answered += 1
        self.ops.append(Op("result", key, cast("Any", outcome), told, invoked, wall_clock()))

    async def cancel(self, handle: WorkflowHandle[Any]) -> None:
        """Cancel it and note what the client was told."""
        key, invoked = (str(handle.workflow), handle.id), wall_clock()
        try:
            async with asyncio.timeout(PATIENCE):
                took = await handle.cancel("enough")
        except (TimeoutError, RomancyError) as error:
            self.ops.append(Op("cancel", key, "unknown", repr(error), invoked, wall_clock()))
            return
        self.ops.append(Op("cancel", key, "ok" if took else "fail", "", invoked, wall_clock()))

    async def one(self, number: int, pause: float, patience: float = PATIENCE) -> None:
        """One instance of a random shape, from its start to its end."""
        id = f"i{number}"
        match self.chance.randrange(6):
            case 0:
                handle = await self.start(chain, id, self.chance.randint(3, 8), pause)
            case 1:
                handle = await self.start(fan, id, self.chance.randint(2, 6), pause)
            case 2:
                handle = await self.start(tries, id, pause)
            case 3:
                handle = await self.start(threaded, id, pause)
            case 4:
                handle = await self.start(failing, id, self.chance.randint(2, 5), pause)
            case _:
                await self._cancelled(id, pause, patience)
                return
        if handle is not None:
            async with asyncio.TaskGroup() as group:
                if self.chance.random() < 0.15:
                    group.create_task(self._cancel_some_time(handle))
                await self.result(handle, patience)

    async def _cancel_some_time(self, handle: WorkflowHandle[Any]) -> None:
        """At a moment at which it may as well end by itself."""
        await asyncio.sleep(self.chance.random())
        await self.cancel(handle)

    async def _cancelled(self, id: str, pause: float, patience: float) -> None:
        self.must_cancel.add((patient.name, id))
        delay, twice = self.chance.random() * 2, self.chance.random() < 0.3
        handle = await self.start(patient, id, pause)
        if handle is None:
            return
        await asyncio.sleep(delay)
        await self.cancel(handle)
        if twice:
            await self.cancel(handle)
        await self.result(handle, patience)

    async def load(self, count: int, seconds: float, pause: float, patience: float = PATIENCE) -> None:
        """Start `count` instances spread over `seconds`; returns when all have ended, or patience did."""
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(self.one(number, pause, patience))
                await asyncio.sleep(seconds / count)

    async def at_work(self, activity: str, count: int, within: float = PATIENCE) -> None:
        """Wait until so many attempts of an activity have begun."""
        async with asyncio.timeout(within):
            while (
                sum(x.kind == "begin" and x.activity == activity for x in read(self.fleet.record)[0]) < count
            ):
                await asyncio.sleep(0.05)

    # --- what is done to them

    def any_worker(self) -> WorkerProcess:
        """One that runs."""
        return self.chance.choice([worker for worker in self.fleet.workers if not worker.paused])

    async def kill_one(self) -> None:
        """SIGKILL one worker and put another in its place."""
        self.fleet.kill(self.any_worker())
        await anyio.to_thread.run_sync(self.fleet.spawn().await_ready)

    async def pause_one(self, seconds: float = LEASE + 1.5) -> None:
        """SIGSTOP one worker past its lease, then let it go on, and wait until it knows."""
        worker = self.any_worker()
        self.fleet.pause(worker)
        await asyncio.sleep(seconds)
        self.fleet.go_on(worker)

    async def restart_server(self, down: float = 0.3) -> None:
        """kill -9 of the server; it comes back on the same store."""
        at = wall_clock()
        pid = self.server.pid
        self.server.kill()
        await asyncio.sleep(down)
        await anyio.to_thread.run_sync(self.server.restart)
        self.fleet.faults.append(Fault("server", pid, at, wall_clock()))

    # --- what is left behind

    async def evidence(self) -> Evidence:
        """Read everything back. Call it when no instance is at work and workers still run."""
        left = await self._emptied()
        world = cast("JetStreamWorld", session_of(self.client).world)
        histories: dict[Key, list[Commit]] = {}
        summaries: dict[Key, Summary] = {}
        gate = asyncio.Semaphore(_AT_ONCE)

        async def look(key: InstanceKey, owner: str, status: str) -> None:
            async with gate:
                commits = await self.client.get(key.id, key.workflow).history()
                alive = bool(owner) and await world.leases.alive(owner)
            if commits:
                histories[key.workflow, key.id] = commits
            summaries[key.workflow, key.id] = Summary(status, owner, alive)

        async with asyncio.TaskGroup() as group:
            async for info in self.client.list():
                key = InstanceKey(info.workflow, info.id)
                group.create_task(look(key, info.owner or "", str(info.status)))
        lines, lives = read(self.fleet.record)
        return Evidence(
            ops=self.ops,
            histories=histories,
            summaries=summaries,
            lines=lines,
            lives=lives,
            faults=self.fleet.faults,
            left=left,
            replay_errors=self._replayed(histories),
            must_cancel=frozenset(self.must_cancel),
            lease_ttl=LEASE,
        )

    async def _emptied(self, within: float = 3 * LEASE + 2) -> dict[str, int]:
        """What is in the queues, once they are empty, or still are not: answers given before a kill come again."""
        end = asyncio.get_running_loop().time() + within
        while any((left := await self._queued()).values()) and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.3)
        return left

    async def _queued(self) -> dict[str, int]:
        world = cast("JetStreamWorld", session_of(self.client).world)
        subjects = world.topology.subjects
        left: dict[str, int] = {}
        for stream in (subjects.start_stream, subjects.messages_stream):
            answer = await ask(world.connection, f"STREAM.INFO.{stream}")
            left[stream] = cast("int", answer.part("state").get("messages", -1))
        for name in self.flows:
            for stream, kind in ((subjects.start_stream, "start"), (subjects.messages_stream, "message")):
                consumer = subjects.consumer(kind, name)
                answer = await ask(world.connection, f"CONSUMER.INFO.{stream}.{consumer}")
                left[consumer] = cast("int", answer.body.get("num_ack_pending", 0))
        return left

    def _replayed(self, histories: dict[Key, list[Commit]]) -> dict[Key, str]:
        errors: dict[Key, str] = {}
        for (name, id), commits in histories.items():
            flow = self.flows[name]
            try:
                replay(flow, History(InstanceKey(name, id), 0, tuple(commits)))
            except RomancyError as error:
                errors[name, id] = str(error)
        return errors


@asynccontextmanager
async def staged(
    directory: Path, *, seed: int = 0, workers: int = 0, namespace: str = "", **settings: str
) -> AsyncGenerator[Stage]:
    """A server of its own (it may be killed), `workers` worker processes and a client."""
    namespace = namespace or f"chaos-{secrets.token_hex(3)}"
    directory.mkdir(parents=True, exist_ok=True)
    with LocalServer(directory / "store", sync_always=False) as server:
        fleet = Fleet(server.url, namespace, directory, **settings)
        client_settings = Settings(namespace=namespace, shards=2, lease_ttl=LEASE)
        try:
            async with Client.connect(server.url, settings=client_settings) as client:
                await anyio.to_thread.run_sync(fleet.start, workers)
                yield Stage(server, fleet, client, random.Random(seed), seed)
        finally:
            await anyio.to_thread.run_sync(fleet.end)
