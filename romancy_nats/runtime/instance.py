"""One owned instance: what arrives is stepped, committed in one message, and only then carried out (L2, L3).

Whoever brings something calls `give`; a turn begins at once unless a commit is in flight. The hot path is synchronous
from the end of an activity to its commit and from the answer to the next activity: a step costs its write.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ParamSpec, cast

from romancy_nats.core.commit import split
from romancy_nats.core.events import (
    ActivityAttemptFailed,
    ActivityCompleted,
    ActivityFailed,
    ActivityScheduled,
    Command,
    Delivered,
    Ending,
    Event,
    MessageEvent,
    MessageReceived,
    Skipped,
    TimerStarted,
    WaitStarted,
    WorkflowStarted,
    weight,
)
from romancy_nats.core.execution import Execution
from romancy_nats.core.failure import Failure
from romancy_nats.core.headers import MESSAGE_ID
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.messages.announcement import EMITTED, write_progress
from romancy_nats.core.record import InstanceRecord
from romancy_nats.errors import PayloadError, WorkflowRuleError
from romancy_nats.ports import Refused
from romancy_nats.runtime import showing
from romancy_nats.runtime.admission import LOOKS_PER_WAIT, is_early, is_moot, is_over
from romancy_nats.runtime.alarms import idle, next_due
from romancy_nats.runtime.commits import CommitWriter, Fence
from romancy_nats.runtime.effects import Effects
from romancy_nats.runtime.held import HeldDelivery, HeldMessages
from romancy_nats.runtime.owner import Owner
from romancy_nats.storage.records import microseconds

P = ParamSpec("P")
_log = logging.getLogger("romancy.worker")
_MICROSECONDS = 1_000_000
_LARGEST_STEP = 500
"""Events after which a turn takes nothing more up: between two commits the loop does what else there is to do."""


class Instance:
    """An instance in the memory of its owner, under the fencing token `revision`."""

    def __init__(
        self,
        owner: Owner,
        key: InstanceKey,
        execution: Execution,
        record: InstanceRecord,
        revision: int,
        commits: int = 0,
    ) -> None:
        """`commits` is how many the ledger holds of this generation."""
        self.owner = owner
        self.key = key
        self.execution = execution
        self.record = record
        self.revision = revision
        self.incarnation = record.owner
        self.last_time = 0
        self.held = HeldMessages()
        self.notify: list[str] = []
        self.dropped = False
        self.shown = True
        """Whether the record names this generation."""
        self.stopping = False
        self.stalled: BaseException | None = None
        self.known_stall = ""
        """The reason with which it was stalled when it was taken up: told and logged before."""
        self.rested: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._inbox: list[tuple[Delivered, HeldDelivery | None]] = []
        self._busy = False
        self._batch: list[Event] = []
        self._carried: list[HeldDelivery] = []
        self._writer = CommitWriter(
            key,
            commits,
            world=owner.world,
            pace=owner.pace,
            seconds_between_resends=owner.tuning.seconds_between_resends,
            listener=self,
        )
        self.effects = Effects(self)
        self.over: list[WaitStarted] = []
        self.skipped: list[Skipped] = []
        """What was skipped before this worker had it, and may not be parked."""
        self._linger: asyncio.TimerHandle | None = None
        self._early: list[tuple[Delivered, HeldDelivery]] = []
        self._patience: asyncio.TimerHandle | None = None
        self._emitted: list[bytes] = []
        execution.state.announce = self._emitted.append
        loop = asyncio.get_running_loop()
        execution.on_violation = lambda: loop.call_soon_threadsafe(self._rule_broken)

    # --- what arrives

    def give(self, event: Delivered, held: HeldDelivery | None = None) -> None:
        """Something happened to the instance; it is stepped and committed at once, or with the next commit."""
        if self.dropped:
            return
        self._inbox.append((event, held))
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        if not self._busy:
            self._turn()

    def expect(self, event: Delivered, held: HeldDelivery | None = None) -> None:
        """Put something into the inbox of an instance that has not been taken up yet."""
        self._inbox.append((event, held))

    def end_without_code(self, events: list[Event], held: HeldDelivery) -> None:
        """End an instance whose code cannot be run."""
        self._carried.append(held)
        self._batch = events
        self.execution.state.ended(cast("Ending", events[-1]))
        self.last_time = max(microseconds(self.owner.world), self.last_time)
        self.bounded(self._commit, self._batch, self.last_time, open=False)

    def ended(self, event: ActivityCompleted | ActivityFailed) -> None:
        """An activity ended (told by its attempts)."""
        self.effects.attempts.pop(event.id, None)
        self.give(event)

    def announce(self, type: str, data: bytes) -> None:
        """Tell whoever watches how it gets on; best effort, nothing of it is recorded."""
        if not self.dropped:
            now = int(self.owner.world.clock.now() * _MICROSECONDS)
            self.owner.world.wire.announce(self.key, write_progress(type, now, data))

    def attempt_failed(self, event: ActivityAttemptFailed, *, commit: bool) -> None:
        """An attempt failed and another follows: recorded now, or with whatever comes next."""
        if event.retry_at:
            self.effects.attempts.pop(event.id, None)
        if len(event.heartbeat) > self.owner.world.limits.value // 2:
            _log.warning("%r: the details of a heartbeat of %s are too large to be kept", self.key, event.id)
            event = event._replace(heartbeat=b"")
        if commit:
            self.give(event)
        elif not self.dropped:
            self._inbox.append((event, None))

    def park(self, event: Delivered, held: HeldDelivery) -> None:
        """Record what arrived without stepping the workflow: the instance is stalled, but nothing is lost (L9)."""
        self._carried.append(held)
        self._batch = [event]
        self.last_time = microseconds(self.owner.world)
        self.bounded(self._commit, self._batch, self.last_time, open=True)

    def take_up(self, owed: list[Command]) -> None:
        """Go on where a loaded history ends: record what is owed, begin again what is pending, look at the inbox."""
        self.bounded(self._take_up, owed)

    def _take_up(self, owed: list[Command]) -> None:
        self._batch = list(owed)
        # Begun only once they are recorded (L2).
        activities = {command.id for command in owed if isinstance(command, ActivityScheduled)}
        timers = {command.id for command in owed if isinstance(command, TimerStarted)}
        waits = {command.id for command in owed if isinstance(command, WaitStarted)}
        self.effects.begin_all([id for id in self.execution.state.activities if id not in activities])
        for id in self.execution.state.timers:
            if id not in timers:
                self.effects.arm(id)
        for wait in self.execution.state.waiting.open.values():
            if wait.started.id not in waits:
                self.effects.registrations.begin(wait.started)
        for started in self.over:
            self.effects.registrations.forget(started)
        self.over.clear()
        for skipped in self.skipped:
            self.effects.skipped.begin(skipped)
        self.skipped.clear()
        self._turn()

    def resume_after_lease_gap(self) -> None:
        """The lease is good again after a doubtful while: begin what was held back (L10)."""
        if not self.dropped and not self._busy:
            self.bounded(self._begin_what_was_held_back)

    def _begin_what_was_held_back(self) -> None:
        not_now = {command.id for command in self._batch if isinstance(command, ActivityScheduled)}
        # What ended in the doubtful while waits in the inbox: its activity is not to be run again, or only later.
        not_now |= {e.id for e, _ in self._inbox if is_over(e)}
        not_now.update(self.effects.attempts)
        self.effects.begin_all([id for id in self.execution.state.activities if id not in not_now])
        # Also with nothing in hand: a turn that was put off may be the one that sees that the instance has ended.
        self._turn()

    def _rule_broken(self) -> None:
        """Workflow code broke a rule between steps, for example from a thread that it started: it stalls."""
        violation = self.execution.state.loop.stalled
        if violation is not None and self.stalled is None and not self.dropped:
            self.stalled = WorkflowRuleError(str(violation))
            self.bounded(self._settled)

    # --- the boundary

    def bounded(self, work: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Do a part of this instance's turn; whatever it raises stalls this instance, and nothing else."""
        try:
            work(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - the boundary: workflow code and its data may raise anything
            self.broke(error)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do a part of this instance's turn in a task of its own, within the same boundary."""
        return self.owner.spawn(work, self.broke)

    def broke(self, error: BaseException) -> None:
        """A part of the turn raised what nobody expected: the instance rests as stalled with this reason.

        When that fails, too, or a write is unanswered whose fate nobody knows (L3), the memory is dropped, and whoever
        takes the instance over counts that (L10).
        """
        if self.dropped:
            _log.error("%r: an error after it came to rest\n%s", self.key, Failure.of(error).traceback)
            if not self.rested.done():
                self.rested.set_result(0)
            return
        again = self.stalled is not None
        if not again:
            self.stalled = error
        if again or self._writer.unanswered:
            self.owner.discard_broken(self, error)
            return
        try:
            self._stall()
        except BaseException as another:  # noqa: BLE001 - the boundary of the boundary
            self.owner.discard_broken(self, another)

    def _stall(self) -> None:
        """Record what has arrived, as far as it can be recorded, then rest. Nothing of it begins."""
        batch, self._batch = self._batch, self._recordable()
        self.execution.state.unsee(batch[len(self._batch) :])
        recorded = {
            (event.stream, event.sequence)
            for event in self._batch
            if isinstance(event, WorkflowStarted | MessageEvent)
        }
        self._carried = [held for held in self._carried if tuple(held.delivery.source) in recorded]
        if self._batch:
            self._commit(self._batch, max(microseconds(self.owner.world), self.last_time), open=True)
        else:
            self._busy = True
            self._writer.settled()
            self.owner.bring_to_rest(self)

    def _recordable(self) -> list[Event]:
        """The batch up to the first event that no commit can hold: an open commit may end anywhere (L7)."""
        for n, event in enumerate(self._batch):
            try:
                fits = split([event], self._writer.largest_event) is not None
            except Exception:  # noqa: BLE001 - what cannot be encoded; `stalled` says why
                fits = False
            if not fits:
                return self._batch[:n]
        return self._batch

    # --- the turn

    def _turn(self) -> None:
        self.bounded(self._take_turn)

    def _take_turn(self) -> None:
        if self.dropped or self.stalled is not None:
            return
        if not self.owner.lease.valid():
            # The lease task will find the loss and drop us; until then nothing new begins (L10).
            return
        now = max(microseconds(self.owner.world), self.last_time)
        self.last_time = now
        batch = self._batch
        open = self._step(batch, now)
        if batch:
            self._commit(batch, now, open)
        else:
            self._confirm_carried()
            self._settled()

    def _step(self, batch: list[Event], now: int) -> bool:
        """Step the workflow by all that has arrived; returns whether it stalled on the way."""
        execution = self.execution
        size = 0
        while self._inbox:
            event, held = self._inbox[0]
            size += weight(event)
            if batch and (len(batch) >= _LARGEST_STEP or size > self.owner.world.limits.value // 2):
                break
            del self._inbox[0]
            if not self._admits(event, held):
                continue
            batch.append(event)
            try:
                batch.extend(execution.deliver(event, now))
            except BaseException as error:  # noqa: BLE001 - the boundary: nothing of this step is recorded but what arrived
                self.stalled = error
                return True
            if self._early and isinstance(event, MessageReceived):
                # One of them may be the next of its sender.
                self._inbox[:0] = self._early
                self._early = []
        return False

    def _admits(self, event: Delivered, held: HeldDelivery | None) -> bool:
        """Whether the workflow is to see it now."""
        if self.execution.state.ending is not None:
            return False
        if is_moot(self.execution.state, event):
            # Moot: whoever waited has its answer, or waits no longer. Nothing is lost by acknowledging it.
            if held is not None:
                held.moot = True
            return False
        if held is None:
            return True
        if is_early(self, event, held):
            self._early.append((event, held))
            return False
        self._carried.append(held)
        return not self._is_known(held)

    def _is_known(self, held: HeldDelivery) -> bool:
        """Whether the message is in the history already: pulled and forwarded, or delivered twice (L5)."""
        source = held.delivery.source
        if (source.stream, source.sequence) in self.execution.state.seen:
            return True
        return held.delivery.headers.get(MESSAGE_ID, "") in self.execution.state.seen_ids

    @property
    def commits(self) -> int:
        """How many commits of this generation the ledger holds."""
        return self._writer.number

    def _commit(self, batch: list[Event], now: int, open: bool) -> None:
        self._busy = True
        fence = Fence(self.record.generation, self.incarnation, self.revision)
        self._writer.write(batch, now, open=open, fence=fence)

    def committed(self) -> None:
        """The turn is recorded: its effects may begin."""
        # First: what is recorded is not recorded again, whatever goes wrong from here on.
        batch, self._batch = self._batch, []
        self._confirm_carried()
        self._busy = False
        if self.dropped:
            return
        if showing.is_owed(self):
            self._busy = True
            self.spawn(showing.show(self, batch))
        else:
            self._go_on(batch)

    def _confirm_carried(self) -> None:
        for held in self._carried:
            held.commit = self.commits
        self._carried.clear()
        self._writer.settled()

    def commit_refused(self) -> None:
        """The memory is worthless: look at the record again (L3)."""
        self.owner.discard(self)

    def commit_too_large(self, reply: Refused) -> None:
        """The server takes no commit of this size: the same again would be refused again, also by the next owner."""
        self.stalled = PayloadError(
            f"a commit of {self.key!r} is larger than this server takes: {reply.text}"
        )
        # Whoever forwarded one of them, or brings it again, is not to ack it (L5).
        self.execution.state.unsee(self._batch)
        self._batch = []
        self._carried.clear()
        self._busy = False
        self._writer.settled()
        self._settled()

    async def confirmed(self) -> bool:
        """Return when what the workflow code did so far is recorded; False when its memory was dropped before."""
        return await self._writer.confirmed()

    def take_effect(self, batch: Sequence[Event]) -> None:
        """What `batch` asked for begins: it is committed, and the record says what it has to."""
        self._busy = False
        self._go_on(batch)

    def _go_on(self, batch: Sequence[Event]) -> None:
        for value in self._emitted:
            self.announce(EMITTED, value)
        self._emitted.clear()
        if self.stalled is None:
            self.effects.carry_out(batch)
        if self._inbox and self.stalled is None:
            self._turn()
        else:
            self._settled()

    def _settled(self) -> None:
        """Nothing is left to do in this turn: rest if nothing can come, or linger if nothing will come soon."""
        if self._busy or self.dropped:
            return
        if (
            self.stalled is not None
            or self.execution.state.ending is not None
            or not self.execution.state.waits
        ):
            self._busy = True
            self.owner.bring_to_rest(self)
        elif self._early:
            self._be_patient()
        elif self._linger is None and self.may_rest():
            self._linger = asyncio.get_running_loop().call_later(self.owner.tuning.linger, self._lingered)

    def _be_patient(self) -> None:
        """Wait for the message that is missing, but not for ever."""
        if self._patience is None:
            pause, loop = self.owner.tuning.ack_wait / LOOKS_PER_WAIT, asyncio.get_running_loop()
            self._patience = loop.call_later(pause, self._look_at_early)

    def _look_at_early(self) -> None:
        self._patience = None
        if not self.dropped and self._early:
            for _, held in self._early:
                held.looks += 1
            self._inbox.extend(self._early)
            self._early = []
            if not self._busy:
                self._turn()

    def may_rest(self) -> bool:
        """Whether only timers not due soon, events and messages are waited for (L6, L8); no start ahead is held."""
        if self.effects.attempts or self._inbox or self._early or self._busy or self.stopping:
            return False
        if not idle(self.execution.state):
            return False
        due = next_due(self.execution.state)
        soon = self.owner.world.clock.now() + (
            0.0 if self.execution.root.delayed else self.owner.tuning.rest_from
        )
        return due == 0 or due > soon * _MICROSECONDS

    def _lingered(self) -> None:
        self._linger = None
        self.bounded(self._rest_if_idle)

    def _rest_if_idle(self) -> None:
        if not self.dropped and self.may_rest():
            self._busy = True
            self.owner.bring_to_rest(self)

    def stay(self) -> None:
        """Something came while it was going to rest: it does not (L6)."""
        self._busy = False
        self._turn()

    @property
    def waits(self) -> bool:
        """Whether it is neither ended nor stalled, and something may still come."""
        return self.stalled is None and self.execution.state.ending is None and self.execution.state.waits

    @property
    def woken(self) -> bool:
        """Whether something has arrived that no commit holds yet, or an attempt has begun."""
        return bool(self._inbox or self.effects.attempts)

    def fall_asleep(self) -> None:
        """At rest: the workflow code stays in memory, nobody may touch it before `wake_up`."""
        self.dropped = True
        self._early.clear()
        self._writer.close()

    def come_to_rest(self) -> None:
        """Answer the forwards that wait for the rest."""
        if not self.rested.done():
            # A forward that is told of a let-go would ack the only wake of an instance that nobody owns.
            self.rested.set_result(0 if self.record.let_go else self.record.commits)

    def wake_up(self, record: InstanceRecord, revision: int) -> None:
        """Owned again, by compare-and-set on the very revision that our own rest produced (L4)."""
        self.record, self.revision, self.incarnation = record, revision, record.owner
        self.dropped = self._busy = False
        self._writer.reopen()
        self.rested = asyncio.get_running_loop().create_future()

    # --- the end of the memory

    async def come_to_a_stop(self, most: float) -> bool:
        """Give up attempts and timers, record what has arrived; whether the commit in flight is answered."""
        self.effects.stop()
        self.stopping = True
        if self._inbox and not self._busy:
            self._turn()
        waited = 0.0
        while self._busy and not self.dropped and not self.rested.done() and waited < most:
            await asyncio.sleep(0.01)
            waited += 0.01
        quiet, self._busy = not self._busy, True  # the rest is being written: nothing else may be (L3)
        return quiet

    @property
    def at_work(self) -> bool:
        """Whether something is under way that can end by itself: an attempt, a commit, a step."""
        return bool(self.effects.attempts or self._inbox or self._busy)

    def drop(self, pause: float = 0.0) -> None:
        """Forget the instance: nothing of it begins or is committed any more; its messages come again in `pause` s."""
        if self.dropped:
            return
        self.dropped = True
        self._writer.close()
        self.close()
        self.held.give_back(pause)
        if not self.rested.done():
            self.rested.set_result(0)

    def close(self) -> None:
        """Stop attempts and timers and close the workflow code, whatever that does."""
        try:
            self._writer.detach()
            self.effects.stop()
            for handle in filter(None, (self._linger, self._patience)):
                handle.cancel()
            self._linger = self._patience = None
            self.execution.evict()
        except BaseException:  # noqa: BLE001 - the boundary: it is out of memory all the same
            _log.exception("%r: closing its code failed", self.key)
