"""The worker loop: pull, own, carry out, rest, let go. One task group holds every task of the worker."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

import msgpack

from romancy_nats.core.definition import Workflow
from romancy_nats.core.determinism import InputRule
from romancy_nats.core.error_text import shown
from romancy_nats.core.events import UpdateAnswered, WorkflowRecurred
from romancy_nats.core.execution import Execution
from romancy_nats.core.failure import Failure
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.logs import rename_worker
from romancy_nats.core.loop import DeterministicLoop
from romancy_nats.core.messages.update import update_notice
from romancy_nats.core.record import InstanceStatus
from romancy_nats.errors import ConnectionLostError, RomancyError, ServerUnavailableError
from romancy_nats.ports import Delivery, QueueKind, World
from romancy_nats.runtime.alarms import idle
from romancy_nats.runtime.dispatcher import Dispatcher
from romancy_nats.runtime.due import Due
from romancy_nats.runtime.endings import log_end
from romancy_nats.runtime.generations import begin_next
from romancy_nats.runtime.instance import Instance
from romancy_nats.runtime.intake import Intake
from romancy_nats.runtime.janitor import Janitor
from romancy_nats.runtime.keepalive import Keepalive
from romancy_nats.runtime.lease import Lease
from romancy_nats.runtime.messages import Messages
from romancy_nats.runtime.notices import outcome
from romancy_nats.runtime.orphans import Orphans
from romancy_nats.runtime.owner import is_cancelled, is_own_cancel
from romancy_nats.runtime.ownership import Ownership
from romancy_nats.runtime.pace import Pace
from romancy_nats.runtime.queries import Queries
from romancy_nats.runtime.rest import acknowledge, rest, settle_effects
from romancy_nats.runtime.sending import lent
from romancy_nats.runtime.stalls import Stalls
from romancy_nats.runtime.sweeper import OwnWake, Sweeper
from romancy_nats.runtime.tuning import Tuning
from romancy_nats.runtime.watched_loop import Notices, WatchedLoop
from romancy_nats.runtime.workshop import Workshop

_log = logging.getLogger("romancy.worker")
_MOST_MESSAGES = 256
_FORWARD_FIELDS = 4
_SETTLING = 3.0
"""How long a drain waits for an answer of the server before it takes it for gone."""
_LOOK = 0.05
_LONGEST_PAUSE = 60.0
_LOOKED_AT_AGAIN = 1.0
"""Seconds until an instance whose memory broke is taken up again."""
_RECONNECTING = 0.2


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
        self.world = world
        self.tuning = tuning
        self.workflows = {workflow.name: workflow for workflow in workflows}
        self._inputs = InputRule(stalls=tuning.inputs_stall)
        self._make_loop: Callable[..., DeterministicLoop] = (
            partial(WatchedLoop, Notices()) if tuning.watches_workflow_code else DeterministicLoop
        )
        self.lease = Lease(world, tuning, self._lease_lost, self._lease_regained)
        self.workshop = Workshop(tuning, world.clock, world.chance)
        self.workshop.replace({**lent(world), **(overrides or {})})
        self.workshop.may_begin = self.lease.valid
        self.workshop.limits = lambda: world.limits
        self.instances: dict[InstanceKey, Instance] = {}
        self.stalls = Stalls(world.clock)
        self.asleep: OrderedDict[InstanceKey, Instance] = OrderedDict()
        self.draining = False
        self.ready = asyncio.Event()
        self._ownership = Ownership(self)
        self._intake = Intake(self._ownership)
        self._messages = Messages(self._ownership)
        self._due = Due(self._ownership)
        self._dispatcher = Dispatcher(world, tuning.ack_wait)
        self.janitor = Janitor(self)
        self._sweeper = Sweeper(self)
        self._orphans = Orphans(self)
        self._group: asyncio.TaskGroup | None = None
        self._pulls: list[asyncio.Task[None]] = []
        self._services: list[asyncio.Task[None]] = []
        self._room = asyncio.Event()
        self.pace = Pace(self._room.set)
        self._starting = 0
        self._handling: set[asyncio.Task[None]] = set()
        self._spawned: set[asyncio.Task[None]] = set()
        self._draining: asyncio.Task[None] | None = None
        self._drained = asyncio.Event()
        self._served = ""
        self._queries = Queries(self)
        self._unserve_queries: list[Callable[[], Awaitable[None]]] = []

    @property
    def label(self) -> str:
        """What people call this worker: its label, else its incarnation."""
        return self.tuning.label or self.lease.incarnation

    async def run(self) -> None:
        """Take a lease and work until cancelled or drained; on the way out let go of everything cleanly."""
        self.workshop.open()
        await self.lease.take()
        await self._serve()
        try:
            for name in self.workflows:
                self._unserve_queries.append(
                    await self.world.wire.serve(name, self._queries.answer, shared=True)
                )
            async with asyncio.TaskGroup() as group:
                self._group = group
                services: tuple[Callable[[], Awaitable[None]], ...] = (
                    self.lease.keep,
                    Keepalive(self).run,
                    self._sweeper.run,
                    self._sweeper.watch_deaths,
                    self.janitor.run,
                    self._orphans.run,
                )
                self._services = [group.create_task(self._again_and_again(run)) for run in services]
                for name in self.workflows:
                    for pull in (self._pull_starts, self._pull_messages, self._pull_due):
                        self._pulls.append(group.create_task(self._again_and_again(partial(pull, name))))
                self._pulls.append(group.create_task(self._again_and_again(self._dispatcher.run)))
                self.ready.set()
                try:
                    await self._drained.wait()
                finally:
                    # Also of a worker that is cancelled: its attempts end before whatever they need.
                    self._drop_all()
                # All of them: a drain that came early did not see the pulls, and what waits for a server that is
                # gone would wait for ever.
                for task in (*self._services, *self._pulls, *self._spawned):
                    task.cancel()
        finally:
            self._drop_all()
            for instance in self.asleep.values():
                instance.close()
            self.asleep.clear()
            await self.workshop.close()
            for unserve in (*self._unserve_queries, self._unserve):
                await unserve()

    async def _again_and_again(self, run: Callable[[], Awaitable[None]]) -> None:
        """A loop boundary: what belongs to no single instance goes on after whatever went wrong, ever more slowly.

        A loop that returns has nothing left to do.
        """
        clock = asyncio.get_running_loop().time
        longest = self.tuning.lease_ttl / 5
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

    def _drop_all(self) -> None:
        for instance in list(self.instances.values()):
            instance.drop()
        self.instances.clear()

    # --- what is pulled

    async def _pull_starts(self, workflow: str) -> None:
        while True:
            room = self.tuning.concurrency - len(self.instances) - self._starting
            room = min(room, self.pace.room(self._starting))
            if room <= 0 or not self.lease.valid():
                await self._wait_for_room()
                continue
            for delivery in await self._pull(QueueKind.START, workflow, room):
                self._starting += 1
                self.handle_soon(self._start(delivery), delivery)

    async def _pull_messages(self, workflow: str) -> None:
        while True:
            for delivery in await self._pull(QueueKind.MESSAGE, workflow, _MOST_MESSAGES):
                self.handle_soon(self.handle(delivery), delivery)

    async def _pull_due(self, workflow: str) -> None:
        while True:
            for delivery in await self._pull(QueueKind.DUE, workflow, _MOST_MESSAGES):
                self.handle_soon(self._due.handle(delivery), delivery)

    async def _pull(self, kind: QueueKind, workflow: str, most: int) -> Sequence[Delivery]:
        try:
            return await self.world.queues.pull(kind, workflow, most)
        except (ConnectionLostError, ServerUnavailableError):
            await asyncio.sleep(_RECONNECTING)
            return []

    async def _wait_for_room(self) -> None:
        self._room.clear()
        try:
            async with asyncio.timeout(self.tuning.lease_ttl / 10):
                await self._room.wait()
        except TimeoutError:
            return

    def handle_soon(self, handling: Coroutine[Any, Any, None], delivery: Delivery) -> None:
        """Handle one message in a task of its own; whatever goes wrong with it stays there."""
        task = self.spawn(self._guarded(handling, delivery))
        self._handling.add(task)
        task.add_done_callback(partial(self._handled, handling))

    def _handled(self, handling: Coroutine[Any, Any, None], task: asyncio.Task[None]) -> None:
        self._handling.discard(task)
        # Of a task that was cancelled before it began nobody else awaits it.
        handling.close()

    async def _guarded(self, handling: Coroutine[Any, Any, None], delivery: Delivery) -> None:
        """A loop boundary: whatever goes wrong with one message is that message's affair."""
        try:
            await handling
        except BaseException as error:
            if is_own_cancel(error):
                delivery.nak()
                raise
            # Spelled here, as everywhere below: a log that formats an error asks that, and it may raise anything.
            where = Failure.of(error).traceback
            _log.error("message %s of %r will be tried again\n%s", delivery.source, delivery.workflow, where)
            delivery.nak(min(5.0 * delivery.deliveries, _LONGEST_PAUSE))

    async def _start(self, delivery: Delivery) -> None:
        try:
            await self.handle(delivery)
        finally:
            self._starting -= 1
            self._room.set()

    async def handle(self, delivery: Delivery) -> None:
        """Handle one message, pulled or forwarded."""
        if not self.lease.valid():
            delivery.nak(0.0 if self.draining else 1.0)
        elif delivery.id:
            await self._messages.handle(delivery)
        elif self.draining:
            delivery.nak()
        else:
            await self._intake.handle(delivery)

    # --- what instances need (the Owner protocol)

    def spawn(
        self, work: Coroutine[Any, Any, None], broke: Callable[[BaseException], None] | None = None
    ) -> asyncio.Task[None]:
        """Run something in the worker's task group; what it raises goes to `broke`, else to the log."""
        assert self._group is not None
        task = self._group.create_task(_bounded(work, broke or _unexpected))
        self._spawned.add(task)
        task.add_done_callback(partial(self._spawn_ended, work))
        return task

    def _spawn_ended(self, work: Coroutine[Any, Any, None], task: asyncio.Task[None]) -> None:
        self._spawned.discard(task)
        # Of a task that was cancelled before it began nobody else awaits it.
        work.close()

    def execution(self, key: InstanceKey, generation: int = 0) -> Execution:
        """A fresh execution of the workflow of this instance."""
        return Execution(
            self.workflows[key.workflow],
            key,
            generation=generation,
            worker_id=self.label,
            inputs=self._inputs,
            loop=self._make_loop,
        )

    def turn_over(self, instance: Instance) -> None:
        """Bring an instance to rest that has ended, stalled, or waits for nothing."""
        instance.spawn(self._rest(instance))

    async def _rest(self, instance: Instance, *, let_go: bool = False) -> None:
        if instance.dropped:
            return
        if instance.stalled is None:
            # Of one that is stalled they are carried out again when it is healed.
            await settle_effects(instance)
            if instance.dropped:
                return
        if instance.waits and instance.woken and not let_go:
            # It looked once more: something came while its effects were acknowledged (L6).
            instance.stay()
            return
        ending = instance.execution.ending
        if isinstance(ending, WorkflowRecurred) and instance.stalled is None and not self.draining:
            begin_next(self, instance, ending)
            return
        # From here on it may be somebody else's: what is due meanwhile is for whoever wakes it (L1).
        instance.effects.alarms.clear()
        if await rest(instance, let_go=let_go):
            self._at_rest(instance, let_go=let_go)
        else:
            self.memory_lost(instance)

    def _at_rest(self, instance: Instance, *, let_go: bool) -> None:
        """Its record is at rest: tell whoever waits, answer the messages that it held, keep or close its code."""
        instance.fall_asleep()
        self.forget(instance)
        record = instance.record
        if record.status is InstanceStatus.STALLED and record.error != instance.known_stall:
            # Once for each stall: not again when a message finds it as it was.
            _log.error("%r stalls: %s", instance.key, record.error)
        if instance.stalled is not None:
            self.stalls.found(instance.key, record.error)
        self._tell(instance)
        # After the notices: somebody waits for those, nobody for an ack (L5).
        acknowledge(instance)
        log_end(instance)
        if instance.record.status.ended:
            self.janitor.ended(instance.key)
        if instance.waits and not let_go:
            self._keep(instance)
        else:
            instance.close()

    def _tell(self, instance: Instance) -> None:
        if instance.notify:
            told = outcome(instance)
            for inbox in instance.notify:
                self.world.wire.notify(inbox, told)

    def _keep(self, instance: Instance) -> None:
        """Remember a resting instance, so that waking it needs no replay; the longest asleep is forgotten first."""
        self.asleep[instance.key] = instance
        self.asleep.move_to_end(instance.key)
        if len(self.asleep) > self.tuning.cached:
            _, oldest = self.asleep.popitem(last=False)
            oldest.close()

    def update_answered(self, instance: Instance, answered: UpdateAnswered) -> None:
        """Tell whoever waits for an update; it is recorded."""
        inbox = instance.execution.handlers.inboxes.pop(answered.id, "")
        if inbox:
            self.world.wire.notify(inbox, update_notice(answered))

    def generation_over(self, key: InstanceKey, generation: int) -> None:
        """Clear the history of a generation that was followed by another."""
        self.spawn(self.janitor.clear(key, generation))

    def memory_lost(self, instance: Instance, pause: float = 0.0) -> None:
        """Drop the memory; the messages it held are given back, and whoever gets them looks at the record."""
        self.forget(instance)
        instance.drop(pause)

    def memory_broken(self, instance: Instance, error: BaseException) -> None:
        """It can neither go on nor be brought to rest: drop it, and look at the record again after a pause (L10)."""
        where = Failure.of(error).traceback
        _log.error("%r could not be brought to rest; its memory is dropped\n%s", instance.key, where)
        self.memory_lost(instance, _LOOKED_AT_AGAIN)
        self.spawn(self._look_again(instance.key))

    async def _look_again(self, key: InstanceKey) -> None:
        """Wake an instance whose record still names us: it may hold no message that would."""
        await asyncio.sleep(_LOOKED_AT_AGAIN)
        wake = OwnWake(key, self.world.clock.now())
        self.handle_soon(self.handle(wake), wake)

    def forget(self, instance: Instance) -> None:
        """The instance is no longer in memory."""
        if self.instances.get(instance.key) is instance:
            del self.instances[instance.key]
        self._room.set()

    # --- the lease

    async def _lease_lost(self, incarnation: str) -> None:
        for instance in list(self.instances.values()):
            if instance.incarnation == incarnation:
                self.memory_lost(instance)
        await self._unserve()

    async def _lease_regained(self) -> None:
        for instance in list(self.instances.values()):
            if instance.incarnation != self.lease.incarnation:
                # Claimed for the old incarnation while the new one was being taken: it must not commit (L10).
                self.memory_lost(instance)
        if self.lease.incarnation != self._served:
            await self._serve()
        for instance in list(self.instances.values()):
            instance.poke()
        self._room.set()

    async def _serve(self) -> None:
        """Answer forwards under the present incarnation."""
        while True:
            try:
                self._served = self.lease.incarnation
                rename_worker(self.label)
                self._unserve = await self.world.wire.serve(self._served, self._asked)
                return
            except ConnectionLostError:
                await asyncio.sleep(_RECONNECTING)

    async def _asked(self, question: bytes) -> bytes:
        """Another worker forwards a message, or a query, which has a field more."""
        forwards_message = len(msgpack.unpackb(question)) == _FORWARD_FIELDS
        return await (self._ownership if forwards_message else self._queries).answer(question)

    # --- the end of a worker

    async def drain(self) -> None:
        """Take nothing new; let running turns finish for the grace period, then let go of what is left (L6).

        Whoever calls waits for the end; a caller that is cancelled stops waiting, not the drain.
        """
        if self._draining is None:
            self.draining = True
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
            async with asyncio.timeout(_SETTLING):
                await self.world.queues.stop_pulling()
                await self.world.events.stop_pulling()
        except TimeoutError:
            _log.warning(
                "messages on their way could not be given back; they come again after their ack wait"
            )

    async def _finish_turns(self) -> None:
        """Let go of what only waits at once, of what is at work when the grace period is over."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self.tuning.grace
        while self.instances or self._handling:
            left = end - loop.time()
            held = list(self.instances.values())
            await asyncio.gather(*(self._let_go(one) for one in held if left <= 0 or not one.at_work))
            if left <= 0:
                return
            work = [one.rested for one in self.instances.values()] + list(self._handling)
            if work:
                await asyncio.wait(work, timeout=min(left, _LOOK), return_when=asyncio.FIRST_COMPLETED)

    async def _let_go(self, instance: Instance) -> None:
        quiet = await instance.come_to_a_stop(_SETTLING)
        if not (quiet and instance.shown) and not instance.rested.done():
            # Its commit is unanswered: nothing else of it may be written (L3); whoever takes over reads what landed.
            self.memory_lost(instance)
        elif not instance.dropped and instance.execution.ending is None and instance.stalled is None:
            # One that only waits rests as it would anyway; one at work is for others to take up at once.
            try:
                async with asyncio.timeout(_SETTLING):
                    at_rest = instance.waits and not instance.woken and idle(instance.execution)
                    await self._rest(instance, let_go=not at_rest)
            except BaseException as error:
                # The boundary: the others, and the lease, are let go all the same.
                if is_own_cancel(error):
                    raise
                text = "%r could not be let go (%s); whoever takes it over reads its history"
                _log.warning(text, instance.key, shown(error))
                self.memory_lost(instance)

    async def _ended_rests(self) -> None:
        left = [instance.rested for instance in self.instances.values()]
        if left:
            await asyncio.wait(left, timeout=_SETTLING)


async def _bounded(work: Coroutine[Any, Any, None], broke: Callable[[BaseException], None]) -> None:
    """The boundary of what an instance, or the worker, does in a task of its own: nothing gets past it."""
    try:
        await work
    except BaseException as error:
        if is_own_cancel(error):
            raise
        broke(error)


def _unexpected(error: BaseException) -> None:
    _log.error("a task of the worker broke\n%s", Failure.of(error).traceback)
