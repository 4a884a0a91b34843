"""What one worker holds: its lease, the instances in memory and at rest, and the tasks that work for them.

What handles messages, wake-ups and queries stands above it and reaches instances through it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

from romancy_nats.core.definition import Workflow
from romancy_nats.core.determinism import InputRule
from romancy_nats.core.events import UpdateAnswered, WorkflowRecurred
from romancy_nats.core.execution import Execution
from romancy_nats.core.failure import Failure
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.loop import DeterministicLoop
from romancy_nats.core.messages.update import update_notice
from romancy_nats.core.record import InstanceStatus
from romancy_nats.ports import Delivery, World
from romancy_nats.runtime.cancellation import is_own_cancel
from romancy_nats.runtime.endings import log_end
from romancy_nats.runtime.generations import next_generation
from romancy_nats.runtime.instance import Instance
from romancy_nats.runtime.janitor import Janitor
from romancy_nats.runtime.lease import Lease
from romancy_nats.runtime.notices import outcome
from romancy_nats.runtime.pace import Pace
from romancy_nats.runtime.rest import rest, settle_effects
from romancy_nats.runtime.sending import lent
from romancy_nats.runtime.stalls import Stalls
from romancy_nats.runtime.tuning import Tuning
from romancy_nats.runtime.watched_loop import Notices, WatchedLoop
from romancy_nats.runtime.workshop import Workshop

_log = logging.getLogger("romancy.worker")
_LOOKED_AT_AGAIN_SECONDS = 1.0
"""Until an instance whose memory broke is taken up again."""
_LONGEST_PAUSE_SECONDS = 60.0


class Host:
    """The state of one worker, and what is done with an instance whatever brought it into memory."""

    def __init__(
        self,
        world: World,
        workflows: Sequence[Workflow[..., Any]],
        tuning: Tuning,
        lease: Lease,
        *,
        overrides: Mapping[str, Callable[..., object]] | None = None,
        wake: Callable[[InstanceKey], None],
    ) -> None:
        """`wake` looks at the record of an instance again; it is called where no message would bring that about."""
        self.world = world
        self.tuning = tuning
        self.workflows = {workflow.name: workflow for workflow in workflows}
        self.lease = lease
        self.workshop = Workshop(tuning, world.clock, world.chance)
        self.workshop.replace({**lent(world), **(overrides or {})})
        self.workshop.may_begin = self.lease.valid
        self.workshop.limits = lambda: world.limits
        self.instances: dict[InstanceKey, Instance] = {}
        self.asleep: OrderedDict[InstanceKey, Instance] = OrderedDict()
        self.stalls = Stalls(world.clock)
        self.janitor = Janitor(world, tuning)
        self.room = asyncio.Event()
        """Set when an instance left the memory, or its commit was answered: a start may fit in."""
        self.pace = Pace(self.room.set)
        self.draining = False
        self.handling: set[asyncio.Task[None]] = set()
        """The messages that are being handled."""
        self.spawned: set[asyncio.Task[None]] = set()
        self._inputs = InputRule(stalls=tuning.inputs_stall)
        self._make_loop: Callable[..., DeterministicLoop] = (
            partial(WatchedLoop, Notices()) if tuning.watches_workflow_code else DeterministicLoop
        )
        self._wake = wake
        self._group: asyncio.TaskGroup | None = None

    @property
    def label(self) -> str:
        """What people call this worker: its label, else its incarnation."""
        return self.tuning.label or self.lease.incarnation

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

    # --- tasks

    def open(self, group: asyncio.TaskGroup) -> None:
        """The worker runs: its tasks belong to this group."""
        self._group = group

    def spawn(
        self, work: Coroutine[Any, Any, None], broke: Callable[[BaseException], None] | None = None
    ) -> asyncio.Task[None]:
        """Run something in the worker's task group; what it raises goes to `broke`, else to the log."""
        assert self._group is not None
        task = self._group.create_task(_bounded(work, broke or _unexpected))
        self.spawned.add(task)
        task.add_done_callback(partial(self._spawn_ended, work))
        return task

    def _spawn_ended(self, work: Coroutine[Any, Any, None], task: asyncio.Task[None]) -> None:
        self.spawned.discard(task)
        # Of a task that was cancelled before it began nobody else awaits it.
        work.close()

    def handle_soon(self, handling: Coroutine[Any, Any, None], delivery: Delivery) -> None:
        """Handle one message in a task of its own; whatever goes wrong with it stays there."""
        task = self.spawn(self._guarded(handling, delivery))
        self.handling.add(task)
        task.add_done_callback(partial(self._handled, handling))

    def _handled(self, handling: Coroutine[Any, Any, None], task: asyncio.Task[None]) -> None:
        self.handling.discard(task)
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
            delivery.nak(min(5.0 * delivery.deliveries, _LONGEST_PAUSE_SECONDS))

    # --- instances

    def bring_to_rest(self, instance: Instance) -> None:
        """Bring an instance to rest that has ended, stalled, or waits for nothing."""
        instance.spawn(self.rest(instance))

    async def rest(self, instance: Instance, *, let_go: bool = False) -> None:
        """Carry out what is left of its effects, then write its resting record (L5, L6)."""
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
        ending = instance.execution.state.ending
        if isinstance(ending, WorkflowRecurred) and instance.stalled is None and not self.draining:
            self._begin_next(instance, ending)
            return
        # From here on it may be somebody else's: what is due meanwhile is for whoever wakes it (L1).
        instance.effects.alarms.clear()
        if await rest(instance, let_go=let_go):
            self._at_rest(instance, let_go=let_go)
        else:
            self.discard(instance)

    def _begin_next(self, instance: Instance, ending: WorkflowRecurred) -> None:
        following, started = next_generation(self, instance, ending)
        self.instances[instance.key] = following
        following.give(started)

    def _at_rest(self, instance: Instance, *, let_go: bool) -> None:
        """Its record is at rest: tell whoever waits, answer the messages that it held, keep or close its code."""
        instance.fall_asleep()
        self._forget(instance)
        record = instance.record
        if record.status is InstanceStatus.STALLED and record.error != instance.known_stall:
            # Once for each stall: not again when a message finds it as it was.
            _log.error("%r stalls: %s", instance.key, record.error)
        if instance.stalled is not None:
            self.stalls.found(instance.key, record.error)
        self._notify(instance)
        # After the notices: somebody waits for those, nobody for an ack (L5).
        instance.held.acknowledge(record)
        instance.come_to_rest()
        log_end(instance)
        if instance.record.status.ended:
            self.janitor.ended(instance.key)
        if instance.waits and not let_go:
            self._keep(instance)
        else:
            instance.close()

    def _notify(self, instance: Instance) -> None:
        if instance.notify:
            notice = outcome(instance)
            for inbox in instance.notify:
                self.world.wire.notify(inbox, notice)

    def _keep(self, instance: Instance) -> None:
        """Remember a resting instance, so that waking it needs no replay; the longest asleep is forgotten first."""
        self.asleep[instance.key] = instance
        self.asleep.move_to_end(instance.key)
        if len(self.asleep) > self.tuning.cached:
            _, oldest = self.asleep.popitem(last=False)
            oldest.close()

    def update_answered(self, instance: Instance, answered: UpdateAnswered) -> None:
        """Send the answer of an update to the client that waits for it; it is recorded."""
        inbox = instance.execution.state.handlers.inboxes.pop(answered.id, "")
        if inbox:
            self.world.wire.notify(inbox, update_notice(answered))

    def generation_over(self, key: InstanceKey, generation: int) -> None:
        """Clear the history of a generation that was followed by another."""
        self.spawn(self.janitor.clear(key, generation))

    def discard(self, instance: Instance, pause: float = 0.0) -> None:
        """Drop the memory; the messages it held come again in `pause` seconds, and find what the record says."""
        self._forget(instance)
        instance.drop(pause)

    def discard_broken(self, instance: Instance, error: BaseException) -> None:
        """Drop an instance that can neither go on nor rest, and look at its record after a pause (L10)."""
        where = Failure.of(error).traceback
        _log.error("%r could not be brought to rest; its memory is dropped\n%s", instance.key, where)
        self.discard(instance, _LOOKED_AT_AGAIN_SECONDS)
        self.spawn(self._look_again(instance.key))

    async def _look_again(self, key: InstanceKey) -> None:
        """Wake an instance whose record still names this worker: it may hold no message that would."""
        await asyncio.sleep(_LOOKED_AT_AGAIN_SECONDS)
        self._wake(key)

    def _forget(self, instance: Instance) -> None:
        if self.instances.get(instance.key) is instance:
            del self.instances[instance.key]
        self.room.set()

    # --- all of them

    def discard_those_of(self, incarnation: str) -> None:
        """The lease of this incarnation is lost: nothing of its instances is committed any more (L10)."""
        for instance in list(self.instances.values()):
            if instance.incarnation == incarnation:
                self.discard(instance)

    def discard_those_of_others(self) -> None:
        """Drop what was claimed for an earlier incarnation while the present one was being taken (L10)."""
        for instance in list(self.instances.values()):
            if instance.incarnation != self.lease.incarnation:
                self.discard(instance)

    def begin_what_was_held_back(self) -> None:
        """The lease is good again: begin in every instance what was postponed (L10)."""
        for instance in list(self.instances.values()):
            instance.resume_after_lease_gap()
        self.room.set()

    def drop_all(self) -> None:
        """The worker ends: drop every instance in memory."""
        for instance in list(self.instances.values()):
            instance.drop()
        self.instances.clear()

    def close(self) -> None:
        """The worker has ended: close what slept, too."""
        self.drop_all()
        for instance in self.asleep.values():
            instance.close()
        self.asleep.clear()


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
