"""The engine with one guard taken out at a time. Each function patches one; `MUTANTS` names the law that it breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pytest import MonkeyPatch

from romancy_nats import client as client_module
from romancy_nats.core.events import ActivityCompleted, ActivityFailed
from romancy_nats.core.execution import Execution
from romancy_nats.core.saga import Saga
from romancy_nats.handle import WorkflowHandle
from romancy_nats.ports import Refusal, Refused
from romancy_nats.runtime import claim as claim_module
from romancy_nats.runtime import instance as instance_module
from romancy_nats.runtime import intake as intake_module
from romancy_nats.runtime import rest as rest_module
from romancy_nats.runtime.engine import Engine
from romancy_nats.runtime.instance import HeldDelivery, Instance
from romancy_nats.runtime.intake import Intake
from romancy_nats.runtime.lease import Lease
from romancy_nats.runtime.messages import Messages
from romancy_nats.runtime.ownership import Ownership
from romancy_nats.runtime.sweeper import Sweeper
from romancy_nats.runtime.writing import read_record
from romancy_nats.testing.memory.ledger import Shard

Patch = MonkeyPatch


@dataclass(frozen=True, slots=True)
class Mutant:
    """One guard taken out; a seed that shows it; the faults to lean on; and words of the rule that has to see it."""

    law: str
    change: Callable[[Patch], None]
    seed: int
    seen: str
    lean: dict[str, float] = field(default_factory=dict[str, float])


# --- L1, L2, L3: one writer, commit before effect, unanswered is unknown


def commit_not_fenced(patch: Patch) -> None:
    """The ledger takes a commit whatever its fence says."""
    put = Shard.put_commit

    def unfenced(self: Any, place: Any, data: bytes, fence: int, process: str, answer: Any) -> None:
        put(self, place, data, self.revisions.last.get(place.token, 0), process, answer)

    patch.setattr(Shard, "put_commit", unfenced)


def message_claims_before_the_first_commit(patch: Patch) -> None:
    async def something(*_: Any) -> bytes:
        return b"there"

    patch.setattr("romancy_nats.runtime.messages.read_commit", something)


def conflict_is_joined(patch: Patch) -> None:
    """A start with another input counts as the same start."""

    async def swallow(self: Any, request: Any, delivery: Any) -> None:
        delivery.ack()

    patch.setattr(Intake, "_conflict", swallow)


def conflict_runs(patch: Patch) -> None:
    """A start with another input overwrites a record that has no commit yet."""
    write = intake_module.write_record

    async def over(world: Any, key: Any, record: Any, expected: int) -> Any:
        held = await read_record(world, key)
        fresh = held is not None and not held.record.commits and not held.record.status.ended
        return await write(world, key, record, held.revision if fresh and held is not None else expected)

    patch.setattr(intake_module, "write_record", over)


def effects_before_commit(patch: Patch) -> None:
    commit = Instance._commit

    def early(self: Any, batch: Any, now: int, open: bool) -> None:
        commit(self, batch, now, open)
        carry_out(self, batch)

    carry_out = Instance._carry_out
    patch.setattr(Instance, "_commit", early)
    patch.setattr(Instance, "_carry_out", lambda self, batch: None)


def refused_commit_counts(patch: Patch) -> None:
    """The memory is kept after a refused commit."""

    async def settle(self: Any, reply: Any) -> None:
        while reply is None:
            await asyncio.sleep(0.05)
            reply = await self._append_again()
        self._committed()

    patch.setattr(Instance, "_settle_commit", settle)


def unanswered_counts_as_stored(patch: Patch) -> None:
    settle = Instance._settle_commit

    async def hopeful(self: Any, reply: Any) -> None:
        if reply is None:
            self._committed()
        else:
            await settle(self, reply)

    patch.setattr(Instance, "_settle_commit", hopeful)


def resent_under_another_number(patch: Patch) -> None:
    async def next_number(self: Any) -> Any:
        self._sent = self._sent._replace(n=self._sent.n + 1)
        return await again(self)

    again = Instance._append_again
    patch.setattr(Instance, "_append_again", next_number)


def any_stored_commit_is_ours(patch: Patch) -> None:
    """10077, and 10071 too, count as our own success without looking at the id."""

    async def settle(self: Any, reply: Any) -> None:
        while reply is None:
            await asyncio.sleep(0.05)
            reply = await self._append_again()
        stored = await instance_module.read_commit(
            self.owner.world, self.key, self.record.generation, self._sent.n
        )
        if isinstance(reply, int) or stored is not None:
            self._committed()
        else:
            self.owner.memory_lost(self)

    patch.setattr(Instance, "_settle_commit", settle)


def refused_record_counts_as_ours(patch: Patch) -> None:
    """A record write that is refused as stale adopts the record that is there."""
    for module in (claim_module, rest_module, instance_module):
        write = module.write_record

        async def adopt(world: Any, key: Any, record: Any, expected: int, write: Any = write) -> Any:
            reply = await write(world, key, record, expected)
            if isinstance(reply, Refused) and reply.why is Refusal.STALE:
                held = await read_record(world, key)
                return held.revision if held is not None else reply
            return reply

        patch.setattr(module, "write_record", adopt)


# --- L4: claim, then load


def claim_without_cas(patch: Patch) -> None:
    write = claim_module.write_record

    async def blind(world: Any, key: Any, record: Any, expected: int) -> Any:
        while True:
            held = await read_record(world, key)
            reply = await write(world, key, record, held.revision if held is not None else 0)
            if not isinstance(reply, Refused):
                return reply
            await asyncio.sleep(0.05)

    patch.setattr(claim_module, "write_record", blind)


def rest_without_cas(patch: Patch) -> None:
    write = rest_module.write_record

    async def blind(world: Any, key: Any, record: Any, expected: int) -> Any:
        while True:
            held = await read_record(world, key)
            reply = await write(world, key, record, held.revision if held is not None else 0)
            if not isinstance(reply, Refused):
                return reply
            await asyncio.sleep(0.05)

    patch.setattr(rest_module, "write_record", blind)


def load_before_claim(patch: Patch) -> None:
    take_over, read = claim_module.take_over, claim_module.read_commits
    before: dict[Any, Any] = {}

    async def early(owner: Any, key: Any, held: Any) -> Any:
        before[owner, key] = await read(owner.world, key, held.record.generation)
        return await take_over(owner, key, held)

    async def load(owner: Any, execution: Any, record: Any, revision: int) -> Any:
        async def known(*_: Any) -> Any:
            return before[owner, execution.key]

        with MonkeyPatch.context() as inner:
            inner.setattr(claim_module, "read_commits", known)
            return await real_load(owner, execution, record, revision)

    real_load = claim_module.load
    patch.setattr(claim_module, "take_over", early)
    patch.setattr(claim_module, "load", load)


def replica_is_believed(patch: Patch) -> None:
    """The history is read without asking the leader for the next number."""

    async def read(world: Any, key: Any, generation: int, first: int = 1) -> Any:
        return await world.ledger.read_history(key, generation, first, 1000)

    patch.setattr(claim_module, "read_commits", read)


def owner_is_not_asked(patch: Patch) -> None:
    """Whoever gets a message takes the instance, its owner living or not."""

    async def dead(self: Any, owner: str) -> bool:
        return False

    patch.setattr(Ownership, "_alive", dead)


def incarnation_used_again(patch: Patch) -> None:
    take = Lease.take

    async def again(self: Any) -> None:
        chance = self._world.chance
        if not self.incarnation:
            await take(self)
            return
        with MonkeyPatch.context() as inner:
            inner.setattr(type(chance), "id", lambda _: self.incarnation)
            await take(self)

    patch.setattr(Lease, "take", again)


def lost_lease_drops_nothing(patch: Patch) -> None:
    async def nothing(self: Any, incarnation: str) -> None:
        await self._unserve()

    patch.setattr(Engine, "_lease_lost", nothing)


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


def refused_rest_counts(patch: Patch) -> None:
    """The messages are acked although the resting record was refused."""
    rest = rest_module.rest

    async def always(instance: Any, *, let_go: bool = False) -> bool:
        if not await rest(instance, let_go=let_go):
            instance.record = rest_module.resting_record(instance, let_go=let_go)
        return True

    patch.setattr("romancy_nats.runtime.engine.rest", always)


def forward_is_believed(patch: Patch) -> None:
    """A forwarded message is acked on the owner's word, whatever the record says."""

    async def believe(self: Any, key: Any, owner: str, delivery: Any) -> None:
        delivery.ack() if await self._alive(owner) else delivery.nak(1.0)

    patch.setattr(Ownership, "_forward", believe)


def message_taken_twice(patch: Patch) -> None:
    def take(self: Any, instance: Any, delivery: Any, kind: str, *, begin: bool = True) -> None:
        held = HeldDelivery(delivery, 1 if kind == "resume" else 0)
        instance.held.append(held)
        if kind == "resume":
            return
        event = messages_event(kind, delivery, delivery.headers.get("Nats-Msg-Id", ""))
        instance.give(event, held) if begin else instance.expect(event, held)

    from romancy_nats.runtime.messages import _event as messages_event

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
        timer = self.execution.timers.get(id)
        if timer is not None and not self.stopping:
            wait = (timer.when() - self.owner.world.clock.now()) / 2
            loop = asyncio.get_running_loop()
            self._timers[id] = loop.call_later(max(0.0, wait), fired, self, id)

    def fired(self: Any, id: str) -> None:
        self._timers.pop(id, None)
        if id in self.execution.timers:
            self.give(instance_module.TimerFired(id))

    patch.setattr(Instance, "_arm", arm)


def firing_recorded_early(patch: Patch) -> None:
    """Between the look at the clock and the commit the clock may be set back."""

    def fired(self: Any, id: str) -> None:
        before = self.last_time
        real(self, id)
        self.last_time = before

    def give(self: Any, event: Any, held: Any = None) -> None:
        if isinstance(event, instance_module.TimerFired):
            self.last_time = self.commits and self._said
        real_give(self, event, held)

    def commit(self: Any, batch: Any, now: int, open: bool) -> None:
        self._said = now
        real_commit(self, batch, now, open)

    real, real_give, real_commit = Instance._fired, Instance.give, Instance._commit
    patch.setattr(Instance, "_said", 0, raising=False)
    patch.setattr(Instance, "give", give)
    patch.setattr(Instance, "_commit", commit)
    patch.setattr(Instance, "_fired", fired)


def lease_always_valid(patch: Patch) -> None:
    """A worker that stood still goes on as if no time had passed."""
    patch.setattr(Lease, "valid", lambda self: self._valid_until > 0)


def nothing_held_back_is_begun(patch: Patch) -> None:
    """The lease is good again, and nobody looks at what was held back meanwhile."""
    patch.setattr(Instance, "poke", lambda self: None)


def pending_not_begun_again(patch: Patch) -> None:
    def take_up(self: Any, owed: Any) -> None:
        self._batch = list(owed)
        self._turn()

    patch.setattr(Instance, "take_up", take_up)


def abandoned_goes_on(patch: Patch) -> None:
    patch.setattr(Instance, "_give_up", lambda self, id: None)


def completion_recorded_twice(patch: Patch) -> None:
    encode = instance_module.encode_commit

    def twice(id: str, incarnation: str, fence: int, time: int, events: Any, open: bool = False) -> bytes:
        doubled = [
            e
            for event in events
            for e in ([event, event] if isinstance(event, ActivityCompleted) else [event])
        ]
        return encode(id, incarnation, fence, time, doubled, open)

    patch.setattr(instance_module, "encode_commit", twice)


def late_completion_counts(patch: Patch) -> None:
    patch.setattr(Instance, "_is_late", lambda self, event: False)


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
        if isinstance(event, ActivityFailed) and (pending := self.activities.get(event.id)) is not None:
            if not pending.compensates and pending.activity.compensation is not None:
                self.saga.completed(event.id, pending.activity, pending.input, b"\xa0")
        receive(self, event)

    patch.setattr(Execution, "_receive", too)


def compensations_not_awaited(patch: Patch) -> None:
    """The end is recorded while compensations still run."""

    async def undo(self: Any, one: Any) -> None:
        self.loop.create_task(real(self, one))
        await asyncio.sleep(0)

    real = Execution._undo
    patch.setattr(Execution, "_undo", undo)


# --- the client


def client_takes_silence_for_yes(patch: Patch) -> None:
    """A start without an answer counts as sent."""

    async def once(write: Any, what: str) -> int:
        reply = await write()
        return reply if isinstance(reply, int) else 1

    patch.setattr(client_module, "_until_stored", once)


def client_waits_for_news_only(patch: Patch) -> None:
    noticed = WorkflowHandle._noticed
    patch.setattr(WorkflowHandle, "_noticed", lambda self, wait: noticed(self, 1e9))


def ended_is_begun_again(patch: Patch) -> None:
    """After a doubtful while an activity is begun again whose end waits in the inbox."""

    def poke(self: Any) -> None:
        if self.dropped or self._busy:
            return
        for id in self.execution.activities:
            if id not in self._attempts:
                self._begin_activity(id)
        if self._inbox:
            self._turn()

    patch.setattr(Instance, "poke", poke)


def both(*changes: Callable[[Patch], None]) -> Callable[[Patch], None]:
    """Two guards taken out at once: where one alone is covered by the other."""

    def change(patch: Patch) -> None:
        for each in changes:
            each(patch)

    change.__name__ = " and ".join(each.__name__ for each in changes)
    return change


MUTANTS = (
    Mutant("L1", commit_not_fenced, 0, "", {}),
    Mutant("L1", message_claims_before_the_first_commit, 0, "", {}),
    Mutant("L1", conflict_is_joined, 0, "", {}),
    Mutant("L1", conflict_runs, 0, "", {}),
    Mutant("L2", effects_before_commit, 0, "", {}),
    Mutant(
        "L2",
        abandoned_goes_on,
        0,
        "",
        {
            "lost_ack": 0,
            "committed_error": 0,
            "late_write": 0,
            "lost_write": 0,
            "no_responders": 0,
            "outage": 0,
            "pause": 0,
            "slow": 0,
        },
    ),
    Mutant(
        "L3",
        both(refused_commit_counts, lease_always_valid),
        0,
        "",
        {"pause": 0.1, "pause_for": 60, "no_responders": 0.2, "crash": 0},
    ),
    Mutant("L3", unanswered_counts_as_stored, 0, "", {}),
    Mutant("L3", resent_under_another_number, 0, "", {}),
    Mutant(
        "L3",
        both(any_stored_commit_is_ours, lease_always_valid),
        0,
        "",
        {"pause": 0.1, "pause_for": 60, "no_responders": 0.2, "crash": 0},
    ),
    Mutant("L3", refused_record_counts_as_ours, 0, "", {}),
    Mutant("L4", claim_without_cas, 0, "", {}),
    Mutant("L4", rest_without_cas, 0, "", {}),
    Mutant("L4", load_before_claim, 0, "", {}),
    Mutant(
        "L4", replica_is_believed, 0, "", {"stale_read": 0.5, "stale_by": 30, "replicas": 3, "crash": 0.02}
    ),
    Mutant("L4", owner_is_not_asked, 0, "", {}),
    Mutant("L4", incarnation_used_again, 0, "", {"lost_ack": 0.2}),
    Mutant("L4", lost_lease_drops_nothing, 0, "", {"lost_ack": 0.2, "late_expiry": 0, "clock_jump": 0}),
    Mutant("L5", ack_on_arrival, 0, "", {}),
    Mutant("L5", ack_at_the_commit, 0, "", {}),
    Mutant("L5", ack_while_it_runs, 0, "", {}),
    Mutant("L5", refused_rest_counts, 0, "", {"pause": 0.2, "pause_for": 60, "latency": 0.3, "crash": 0.05}),
    Mutant("L5", forward_is_believed, 0, "", {}),
    Mutant("L5", message_taken_twice, 0, "", {}),
    Mutant("L6", no_sweeper, 0, "", {}),
    Mutant("L6", sweeper_forgets_what_was_let_go, 0, "", {"purge_at": 5, "crash": 0.05}),
    Mutant("L7", late_completion_counts, 0, "", {}),
    Mutant("L7", completion_recorded_twice, 0, "", {}),
    Mutant("L7", pending_not_begun_again, 0, "", {}),
    Mutant("L8", time_runs_backwards, 0, "", {}),
    Mutant("L8", timer_early, 0, "", {}),
    Mutant("L8", firing_recorded_early, 0, "", {"clock_jump": 0.05, "latency": 0.3}),
    Mutant("L10", lease_always_valid, 0, "", {"pause": 0.1, "pause_for": 60}),
    Mutant("L10", nothing_held_back_is_begun, 0, "", {"pause": 0.1, "pause_for": 20, "latency": 0.3}),
    Mutant("L10", ended_is_begun_again, 0, "", {"pause": 0.1, "pause_for": 20, "latency": 0.3}),
    Mutant("retry", one_attempt_too_few, 0, "", {}),
    Mutant("retry", one_attempt_too_many, 0, "", {}),
    Mutant("saga", compensations_forward, 0, "", {}),
    Mutant("saga", one_compensation_forgotten, 0, "", {}),
    Mutant("saga", failed_is_compensated, 0, "", {}),
    Mutant("saga", compensations_not_awaited, 0, "", {}),
    Mutant("L9", client_takes_silence_for_yes, 0, "", {}),
    Mutant("L9", client_waits_for_news_only, 0, "", {}),
)
