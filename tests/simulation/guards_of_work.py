"""The engine with one guard of acks, wakes, time, attempts, sagas or clients taken out: each function patches one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from romancy_nats.client import result as result_module
from romancy_nats.client.notice import is_set_within
from romancy_nats.core.events import ActivityCompleted, ActivityFailed, TimerFired
from romancy_nats.core.execution import Execution
from romancy_nats.core.root import Root
from romancy_nats.core.saga import Saga
from romancy_nats.runtime import commits as commits_module
from romancy_nats.runtime import instance as instance_module
from romancy_nats.runtime.claims import Claims
from romancy_nats.runtime.effects import Effects
from romancy_nats.runtime.engine import Engine
from romancy_nats.runtime.instance import Instance
from romancy_nats.runtime.intake import Intake
from romancy_nats.runtime.lease import Lease
from romancy_nats.runtime.messages import Messages
from romancy_nats.runtime.sweeper import Sweeper
from romancy_nats.storage import publishing as publishing_module

Patch = pytest.MonkeyPatch


# --- L5, L6: ack last, wake always


def ack_on_arrival(patch: Patch) -> None:
    handle = Engine.handle

    async def eager(self: Any, delivery: Any) -> None:
        delivery.ack()
        await handle(self, delivery)

    patch.setattr(Engine, "handle", eager)


def ack_at_the_commit(patch: Patch) -> None:
    """A message is acked when its commit is stored, not when the instance rests."""
    confirm = Instance._confirm_carried

    def ack(self: Any) -> None:
        for held in self._carried:
            held.delivery.ack()
        confirm(self)

    patch.setattr(Instance, "_confirm_carried", ack)


def ack_while_it_runs(patch: Patch) -> None:
    """A start that joins a running instance is acked at once."""
    join = Intake._join

    async def eager(self: Any, request: Any, delivery: Any, held: Any) -> None:
        if held.record.fingerprint == request.fingerprint:
            delivery.ack()
        await join(self, request, delivery, held)

    patch.setattr(Intake, "_join", eager)


def forward_is_believed(patch: Patch) -> None:
    """A forwarded message is acked on the owner's word, whatever the record says."""

    async def believe(self: Any, key: Any, owner: str, delivery: Any) -> None:
        delivery.ack() if await self._alive(owner) else delivery.nak(1.0)

    patch.setattr(Claims, "_forward", believe)


def message_taken_twice(patch: Patch) -> None:
    def take(self: Any, instance: Any, delivery: Any, kind: str, *, begin: bool = True) -> None:
        held = instance.held.add(delivery, 1 if kind == "resume" else 0)
        if kind == "resume":
            return
        event = messages_event(kind, delivery)
        instance.give(event, held) if begin else instance.expect(event, held)

    from romancy_nats.runtime.reading import read_message as messages_event

    patch.setattr(Messages, "_take", take)
    patch.setattr(Instance, "_is_known", lambda self, held: False)


def no_sweeper(patch: Patch) -> None:
    async def never(self: Any, only: Any) -> None:
        return None

    patch.setattr(Sweeper, "_sweep", never)


def sweeper_forgets_what_was_let_go(patch: Patch) -> None:
    needs = Sweeper._needs_a_wake

    async def only_owned(self: Any, listed: Any, only: Any) -> bool:
        return bool(listed.record.owner) and await needs(self, listed, only)

    patch.setattr(Sweeper, "_needs_a_wake", only_owned)


# --- L7, L8, L10 and the saga


def time_runs_backwards(patch: Patch) -> None:
    """The worker's clock is written as it is."""

    def turn(self: Any) -> None:
        self.last_time = 0
        real(self)

    real = Instance._turn
    patch.setattr(Instance, "_turn", turn)


def timer_early(patch: Patch) -> None:
    def arm(self: Any, id: str) -> None:
        instance = self._instance
        timer = instance.execution.state.timers.get(id)
        if timer is not None and not instance.stopping:
            wait = (timer.when() - instance.owner.world.clock.now()) / 2
            asyncio.get_running_loop().call_later(max(0.0, wait), fired, instance, id)

    def fired(instance: Any, id: str) -> None:
        if id in instance.execution.state.timers:
            instance.give(TimerFired(id))

    patch.setattr(Effects, "arm", arm)


def firing_recorded_early(patch: Patch) -> None:
    """Between the look at the clock and the commit the clock may be set back."""

    def fired(self: Any, id: str) -> None:
        before = self._instance.last_time
        real(self, id)
        self._instance.last_time = before

    def give(self: Any, event: Any, held: Any = None) -> None:
        if isinstance(event, TimerFired):
            self.last_time = self.commits and self._said
        real_give(self, event, held)

    def commit(self: Any, batch: Any, now: int, open: bool) -> None:
        self._said = now
        real_commit(self, batch, now, open)

    real, real_give, real_commit = Effects._fired, Instance.give, Instance._commit
    patch.setattr(Instance, "_said", 0, raising=False)
    patch.setattr(Instance, "give", give)
    patch.setattr(Instance, "_commit", commit)
    patch.setattr(Effects, "_fired", fired)


def lease_always_valid(patch: Patch) -> None:
    """A worker that stood still goes on as if no time had passed."""
    patch.setattr(Lease, "valid", lambda self: self._valid_until > 0)


def nothing_held_back_is_begun(patch: Patch) -> None:
    """The lease is good again, and nobody looks at what was held back meanwhile."""
    patch.setattr(Instance, "resume_after_lease_gap", lambda self: None)


def pending_not_begun_again(patch: Patch) -> None:
    def take_up(self: Any, owed: Any) -> None:
        self._batch = list(owed)
        self._turn()

    patch.setattr(Instance, "take_up", take_up)


def abandoned_goes_on(patch: Patch) -> None:
    patch.setattr(Effects, "give_up", lambda self, id: None)


def completion_recorded_twice(patch: Patch) -> None:
    encode = commits_module.encode_commit

    def twice(id: str, incarnation: str, fence: int, time: int, events: Any, open: bool = False) -> bytes:
        doubled = [
            e
            for event in events
            for e in ([event, event] if isinstance(event, ActivityCompleted) else [event])
        ]
        return encode(id, incarnation, fence, time, doubled, open)

    patch.setattr(commits_module, "encode_commit", twice)


def late_completion_counts(patch: Patch) -> None:
    moot = instance_module.is_moot

    def never(state: Any, event: Any) -> bool:
        return not isinstance(event, ActivityCompleted | ActivityFailed) and moot(state, event)

    patch.setattr(instance_module, "is_moot", never)


def one_attempt_too_few(patch: Patch) -> None:
    from romancy_nats.core.retry import RetryPolicy

    delay = RetryPolicy.next_delay
    patch.setattr(RetryPolicy, "next_delay", lambda self, n, *rest: delay(self, n + 1, *rest))


def one_attempt_too_many(patch: Patch) -> None:
    from romancy_nats.core.retry import RetryPolicy

    delay = RetryPolicy.next_delay
    patch.setattr(RetryPolicy, "next_delay", lambda self, n, *rest: delay(self, n - 1, *rest))


def compensations_forward(patch: Patch) -> None:
    patch.setattr(Saga, "newest_first", lambda self: list(self._undos))


def one_compensation_forgotten(patch: Patch) -> None:
    patch.setattr(Saga, "newest_first", lambda self: self._undos[:0:-1])


def failed_is_compensated(patch: Patch) -> None:
    """An activity that failed is undone like one that completed."""
    receive = Execution._receive

    def too(self: Any, event: Any) -> None:
        pending = self.state.activities.get(event.id) if isinstance(event, ActivityFailed) else None
        if pending is not None and not pending.compensates and pending.activity.compensation is not None:
            self.state.saga.completed(event.id, pending.activity, pending.input, b"\xa0")
        receive(self, event)

    patch.setattr(Execution, "_receive", too)


def compensations_not_awaited(patch: Patch) -> None:
    """The end is recorded while compensations still run."""

    async def undo(self: Any, one: Any) -> None:
        self._state.loop.create_task(real(self, one))
        await asyncio.sleep(0)

    real = Root._undo
    patch.setattr(Root, "_undo", undo)


# --- the client


def client_takes_silence_for_yes(patch: Patch) -> None:
    """A start without an answer counts as sent."""

    async def once(write: Any, what: str) -> int:
        reply = await write()
        return reply if isinstance(reply, int) else 1

    patch.setattr(publishing_module, "until_stored", once)


def client_waits_for_news_only(patch: Patch) -> None:
    # The moment after a change stays what it is.
    patch.setattr(
        result_module,
        "is_set_within",
        lambda event, wait: is_set_within(event, 1e9 if wait > 0.01 else wait),
    )


def put_off_turn_is_lost(patch: Patch) -> None:
    """A turn that the lease put off is made up for only when something is in hand, not when only the rest is due."""

    def poke(self: Any) -> None:
        with pytest.MonkeyPatch.context() as inner:
            if not self._inbox and not self._batch:
                inner.setattr(Instance, "_turn", lambda self: None)
            real(self)

    real = Instance.resume_after_lease_gap
    patch.setattr(Instance, "resume_after_lease_gap", poke)


def ended_is_begun_again(patch: Patch) -> None:
    """After a doubtful while an activity is begun again whose end waits in the inbox."""

    def poke(self: Any) -> None:
        if self.dropped or self._busy:
            return
        for id in self.execution.state.activities:
            if id not in self.effects.attempts:
                self.effects.begin(id)
        if self._inbox:
            self._turn()

    patch.setattr(Instance, "resume_after_lease_gap", poke)
