"""The worker loop: pulls messages, hands them to what handles them, and drains. One task group holds every task."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgpack

from romancy_nats.core.definition import Workflow
from romancy_nats.core.error_text import shown
from romancy_nats.core.failure import Failure
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.logs import rename_worker
from romancy_nats.errors import ConnectionLostError, RomancyError, ServerUnavailableError
from romancy_nats.ports import Delivery, QueueKind, World
from romancy_nats.runtime.alarms import idle
from romancy_nats.runtime.cancellation import is_cancelled, is_own_cancel
from romancy_nats.runtime.claims import Claims
from romancy_nats.runtime.dispatcher import Dispatcher
from romancy_nats.runtime.due import Due
from romancy_nats.runtime.forwards import Forwards
from romancy_nats.runtime.host import Host
from romancy_nats.runtime.instance import Instance
from romancy_nats.runtime.intake import Intake
from romancy_nats.runtime.keepalive import Keepalive
from romancy_nats.runtime.lease import Lease
from romancy_nats.runtime.messages import Messages
from romancy_nats.runtime.orphans import Orphans
from romancy_nats.runtime.queries import Queries
from romancy_nats.runtime.sweeper import OwnWake, Sweeper
from romancy_nats.runtime.tuning import Tuning
from romancy_nats.runtime.workshop import Workshop

_log = logging.getLogger("romancy.worker")
_MOST_MESSAGES = 256
_FORWARD_FIELDS = 4
_SETTLING_SECONDS = 3.0
"""How long a drain waits for an answer of the server before it takes it for gone."""
_LOOK_SECONDS = 0.05
_RECONNECTING_SECONDS = 0.2


class Engine:
    """One worker. `run` until it is cancelled or `drain` has finished."""

    def __init__(
        self,
        world: World,
        workflows: Sequence[Workflow[..., Any]],
        tuning: Tuning,
        *,
        overrides: Mapping[str, Callable[..., object]] | None = None,
    ) -> None:
        self._world = world
        self._tuning = tuning
        self.lease = Lease(world, tuning, self._lease_lost, self._lease_regained)
        self.host = Host(world, workflows, tuning, self.lease, overrides=overrides, wake=self._wake)
        self.ready = asyncio.Event()
        claims = Claims(self.host)
        self._intake = Intake(self.host, claims)
        self._messages = Messages(self.host, claims)
        self._due = Due(self.host, claims)
        self._forwards = Forwards(self.host, self.handle)
        self._queries = Queries(self.host)
        self._dispatcher = Dispatcher(world, tuning.ack_wait)
        self._sweeper = Sweeper(self.host, self._wake)
        self._orphans = Orphans(world, tuning, self.host.workflows)
        self._keepalive = Keepalive(tuning, self.lease, self.host.instances)
        self._pulls: list[asyncio.Task[None]] = []
        self._services: list[asyncio.Task[None]] = []
        self._starting = 0
        self._draining: asyncio.Task[None] | None = None
        self._drained = asyncio.Event()
        self._served = ""
        self._unserve: Callable[[], Awaitable[None]] | None = None
        self._unserve_queries: list[Callable[[], Awaitable[None]]] = []

    @property
    def label(self) -> str:
        """What people call this worker: its label, else its incarnation."""
        return self.host.label

    @property
    def workshop(self) -> Workshop:
        """What the attempts of this worker share."""
        return self.host.workshop

    async def run(self) -> None:
        """Take a lease and work until cancelled or drained; on the way out let go of everything cleanly."""
        host = self.host
        host.workshop.open()
        await self.lease.take()
        await self._serve()
        try:
            for name in host.workflows:
                self._unserve_queries.append(
                    await self._world.wire.serve(name, self._queries.answer, shared=True)
                )
            async with asyncio.TaskGroup() as group:
                host.open(group)
                services: tuple[Callable[[], Awaitable[None]], ...] = (
                    self.lease.keep,
                    self._keepalive.run,
                    self._sweeper.run,
                    self._sweeper.watch_deaths,
                    host.janitor.run,
                    self._orphans.run,
                )
                self._services = [group.create_task(self._again_and_again(run)) for run in services]
                for name in host.workflows:
                    for pull in (self._pull_starts, self._pull_messages, self._pull_due):
                        self._pulls.append(group.create_task(self._again_and_again(partial(pull, name))))
                self._pulls.append(group.create_task(self._again_and_again(self._dispatcher.run)))
                self.ready.set()
                try:
                    await self._drained.wait()
                finally:
                    # Also of a worker that is cancelled: its attempts end before whatever they need.
                    host.drop_all()
                # All of them: a drain that came early did not see the pulls, and what waits for a server that is
                # gone would wait for ever.
                for task in (*self._services, *self._pulls, *host.spawned):
                    task.cancel()
        finally:
            host.close()
            await host.workshop.close()
            for unserve in filter(None, (*self._unserve_queries, self._unserve)):
                await unserve()

    async def _again_and_again(self, run: Callable[[], Awaitable[None]]) -> None:
        """A loop boundary: what belongs to no single instance goes on after whatever went wrong, ever more slowly.

        A loop that returns has nothing left to do.
        """
        clock = asyncio.get_running_loop().time
        longest = self._tuning.lease_ttl / 5
        pause = longest / 32
        while True:
            began = clock()
            try:
                await run()
                return
            except BaseException as error:
                if is_own_cancel(error):
                    raise
                name = getattr(getattr(run, "func", run), "__qualname__", "a loop")
                _log.error("%s of this worker broke; it goes on\n%s", name, Failure.of(error).traceback)
                if is_cancelled():
                    # It broke over its cancellation: a drain waits for its end.
                    raise asyncio.CancelledError from error
            pause = longest / 32 if clock() - began > longest else min(pause * 2, longest)
            await asyncio.sleep(pause)

    # --- what is pulled

    async def _pull_starts(self, workflow: str) -> None:
        while True:
            room = self._tuning.concurrency - len(self.host.instances) - self._starting
            room = min(room, self.host.pace.room(self._starting))
            if room <= 0 or not self.lease.valid():
                await self._wait_for_room()
                continue
            for delivery in await self._pull(QueueKind.START, workflow, room):
                self._starting += 1
                self.host.handle_soon(self._start(delivery), delivery)

    async def _pull_messages(self, workflow: str) -> None:
        while True:
            for delivery in await self._pull(QueueKind.MESSAGE, workflow, _MOST_MESSAGES):
                self.host.handle_soon(self.handle(delivery), delivery)

    async def _pull_due(self, workflow: str) -> None:
        while True:
            for delivery in await self._pull(QueueKind.DUE, workflow, _MOST_MESSAGES):
                self.host.handle_soon(self._due.handle(delivery), delivery)

    async def _pull(self, kind: QueueKind, workflow: str, most: int) -> Sequence[Delivery]:
        try:
            return await self._world.queues.pull(kind, workflow, most)
        except (ConnectionLostError, ServerUnavailableError):
            await asyncio.sleep(_RECONNECTING_SECONDS)
            return []

    async def _wait_for_room(self) -> None:
        self.host.room.clear()
        try:
            async with asyncio.timeout(self._tuning.lease_ttl / 10):
                await self.host.room.wait()
        except TimeoutError:
            return

    async def _start(self, delivery: Delivery) -> None:
        try:
            await self.handle(delivery)
        finally:
            self._starting -= 1
            self.host.room.set()

    async def handle(self, delivery: Delivery) -> None:
        """Handle one message, pulled or forwarded."""
        if not self.lease.valid():
            delivery.nak(0.0 if self.host.draining else 1.0)
        elif delivery.id:
            await self._messages.handle(delivery)
        elif self.host.draining:
            delivery.nak()
        else:
            await self._intake.handle(delivery)

    def _wake(self, key: InstanceKey) -> None:
        """Look at the record of this instance again, as a resume message would make this worker do."""
        wake = OwnWake(key, self._world.clock.now())
        self.host.handle_soon(self.handle(wake), wake)

    # --- the lease

    async def _lease_lost(self, incarnation: str) -> None:
        self.host.discard_those_of(incarnation)
        if self._unserve is not None:
            await self._unserve()

    async def _lease_regained(self) -> None:
        self.host.discard_those_of_others()
        if self.lease.incarnation != self._served:
            await self._serve()
        self.host.begin_what_was_held_back()

    async def _serve(self) -> None:
        """Answer forwards under the present incarnation."""
        while True:
            try:
                self._served = self.lease.incarnation
                rename_worker(self.label)
                self._unserve = await self._world.wire.serve(self._served, self._asked)
                return
            except ConnectionLostError:
                await asyncio.sleep(_RECONNECTING_SECONDS)

    async def _asked(self, question: bytes) -> bytes:
        """Another worker forwards a message, or a query, which has a field more."""
        forwards_message = len(msgpack.unpackb(question)) == _FORWARD_FIELDS
        return await (self._forwards if forwards_message else self._queries).answer(question)

    # --- the end of a worker

    async def drain(self) -> None:
        """Take nothing new; let running turns finish for the grace period, then let go of what is left (L6).

        Whoever calls waits for the end; a caller that is cancelled stops waiting, not the drain.
        """
        if self._draining is None:
            self.host.draining = True
            self._draining = asyncio.get_running_loop().create_task(self._drain())
        await asyncio.shield(self._draining)

    async def _drain(self) -> None:
        try:
            for task in self._pulls:
                task.cancel()
            if self._pulls:
                await asyncio.wait(self._pulls)
            await self._stop_pulling()
            await self._finish_turns()
            await self._ended_rests()
            for task in self._services:
                # A renewal after the release would be refused, and answered with a new incarnation.
                task.cancel()
            await self._release()
        finally:
            self._drained.set()

    async def _release(self) -> None:
        try:
            await self.lease.release()
        except RomancyError as error:
            _log.warning("the lease key could not be deleted (%s); it expires by itself", error)

    async def _stop_pulling(self) -> None:
        # Before anything is given back: with a pull open the server would hand it to us again.
        try:
            async with asyncio.timeout(_SETTLING_SECONDS):
                await self._world.queues.stop_pulling()
                await self._world.events.stop_pulling()
        except TimeoutError:
            _log.warning(
                "messages on their way could not be given back; they come again after their ack wait"
            )

    async def _finish_turns(self) -> None:
        """Let go of what only waits at once, of what is at work when the grace period is over."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._tuning.grace
        while self.host.instances or self.host.handling:
            left = end - loop.time()
            held = list(self.host.instances.values())
            await asyncio.gather(*(self._let_go(one) for one in held if left <= 0 or not one.at_work))
            if left <= 0:
                return
            work = [one.rested for one in self.host.instances.values()] + list(self.host.handling)
            if work:
                await asyncio.wait(
                    work, timeout=min(left, _LOOK_SECONDS), return_when=asyncio.FIRST_COMPLETED
                )

    async def _let_go(self, instance: Instance) -> None:
        quiet = await instance.come_to_a_stop(_SETTLING_SECONDS)
        if not (quiet and instance.shown) and not instance.rested.done():
            # Its commit is unanswered: nothing else of it may be written (L3); whoever takes over reads what landed.
            self.host.discard(instance)
        elif not instance.dropped and instance.execution.state.ending is None and instance.stalled is None:
            # One that only waits rests as it would anyway; one at work is for others to take up at once.
            try:
                async with asyncio.timeout(_SETTLING_SECONDS):
                    at_rest = instance.waits and not instance.woken and idle(instance.execution.state)
                    await self.host.rest(instance, let_go=not at_rest)
            except BaseException as error:
                # The boundary: the others, and the lease, are let go all the same.
                if is_own_cancel(error):
                    raise
                text = "%r could not be let go (%s); whoever takes it over reads its history"
                _log.warning(text, instance.key, shown(error))
                self.host.discard(instance)

    async def _ended_rests(self) -> None:
        left = [instance.rested for instance in self.host.instances.values()]
        if left:
            await asyncio.wait(left, timeout=_SETTLING_SECONDS)
