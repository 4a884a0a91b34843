"""The engine with one guard of timers, events, messages, rests or the archive taken out: each function patches one."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import pytest

from romancy_nats.core.events import ActivityCompleted, ActivityFailed, EventReceived
from romancy_nats.core.record import InstanceRecord
from romancy_nats.ports import Held, Source
from romancy_nats.runtime import instance as instance_module
from romancy_nats.runtime import messages as messages_module
from romancy_nats.runtime import rest as rest_module
from romancy_nats.runtime import skipped as skipped_module
from romancy_nats.runtime.alarms import idle
from romancy_nats.runtime.dispatcher import Dispatcher
from romancy_nats.runtime.effects import Effects
from romancy_nats.runtime.held import HeldMessages
from romancy_nats.runtime.host import Host
from romancy_nats.runtime.instance import Instance
from romancy_nats.runtime.janitor import Janitor
from romancy_nats.runtime.messages import Messages
from romancy_nats.runtime.registrations import Registrations
from romancy_nats.runtime.skipped import SkippedAnswers
from romancy_nats.runtime.sweeper import Sweeper
from romancy_nats.storage import publishing as publishing_module
from romancy_nats.storage.records import read_record
from romancy_nats.testing.memory.events import Heard, MemoryEvents

Patch = pytest.MonkeyPatch


# --- events


def event_without_barrier(patch: Patch) -> None:
    """The first answer of a replica counts, as far behind as it may be."""

    async def complete(self: Any, published: Any, event: Any) -> Any:
        kinds = [Heard(event.type, None)] + ([Heard(event.type, event.key)] if event.key is not None else [])
        cutoff = self._server.micros(self._process.replica_cutoff())
        return await self._process.ask(
            lambda: self._log.all_matching(kinds, published.source.sequence, cutoff)
        )

    patch.setattr(MemoryEvents, "_complete", complete)


def event_acked_before_it_is_told(patch: Patch) -> None:
    dispatch = Dispatcher._dispatch

    async def eager(self: Any, published: Any) -> None:
        published.ack()
        await dispatch(self, published)

    patch.setattr(Dispatcher, "_dispatch", eager)


def registered_after_rest(patch: Patch) -> None:
    async def done(self: Any) -> None:
        return None

    patch.setattr(Registrations, "done", done)


def registration_stays(patch: Patch) -> None:
    patch.setattr(Registrations, "end", lambda self, id: None)
    patch.setattr(Registrations, "forget", lambda self, started: None)


def timeout_and_event(patch: Patch) -> None:
    """An event that comes after its wait gave up is recorded all the same."""
    moot = instance_module.is_moot

    def never(state: Any, event: Any) -> bool:
        return not isinstance(event, EventReceived) and moot(state, event)

    patch.setattr(instance_module, "is_moot", never)


def skipped_is_never_parked(patch: Patch) -> None:
    patch.setattr(SkippedAnswers, "begin", lambda self, skipped: None)


def skipped_is_parked_twice(patch: Patch) -> None:
    """A second copy under another place, which no message id makes one with the first."""

    async def twice(world: Any, letter: Any) -> bool:
        stream, sequence = letter.source
        await write(world, replace(letter, source=Source(stream, sequence + 1_000_000)))
        return await write(world, letter)

    write = skipped_module.write_letter
    patch.setattr(skipped_module, "write_letter", twice)


# --- timers


def due_fires_what_comes_later(patch: Patch) -> None:
    """The wake-up of the server fires whatever is due in the next minute."""
    fire = Effects.fire_due

    def early(self: Any, now: int) -> None:
        before = self._instance.last_time
        fire(self, now + 60_000_000)
        self._instance.last_time = max(before, now)

    patch.setattr(Effects, "fire_due", early)


def nothing_promised(patch: Patch) -> None:
    """An instance rests without a wake-up on the server, and without saying when it is due."""

    async def promise(instance: Any, due: int) -> int:
        return 1

    patch.setattr(rest_module, "_promise", promise)
    patch.setattr(rest_module, "next_due", lambda state: 0)


def retry_begun_at_once(patch: Patch) -> None:
    """After a doubtful while an activity is begun again that waits for its next time."""
    patch.setattr(
        instance_module, "is_over", lambda event: isinstance(event, ActivityCompleted | ActivityFailed)
    )


# --- messages and rest


def message_lost_at_rest(patch: Patch) -> None:
    """What came while the rest was written is acked with everything else."""

    def acknowledge(self: HeldMessages, record: InstanceRecord) -> None:
        for held in self:
            held.commit = held.commit or record.commits
        real(self, record)

    real = HeldMessages.acknowledge
    patch.setattr(HeldMessages, "acknowledge", acknowledge)
    patch.setattr(Instance, "woken", False)


def order_is_not_kept(patch: Patch) -> None:
    patch.setattr(instance_module, "is_early", lambda instance, event, held: False)


def own_message_gets_no_number(patch: Patch) -> None:
    """A message that was stored although its answer was lost counts as somebody else's."""

    async def until_stored(write: Any, what: str) -> Any:
        answers: list[Any] = []

        async def remembered() -> Any:
            answers.append(await write())
            return answers[-1]

        await real(remembered, what)
        return answers[-1]

    real = publishing_module.until_stored
    patch.setattr(publishing_module, "until_stored", until_stored)


def resume_answered_from_memory(patch: Patch) -> None:
    """A resume is acked because the instance rested here last, whatever happened to it since."""
    handle, read = Messages.handle, messages_module.read_record
    # Not patched for the while of a call: calls overlap, and the last to end would put back what another had put.
    here: ContextVar[Any] = ContextVar("here")

    async def remembered(self: Any, delivery: Any) -> None:
        here.set(self._host)
        await handle(self, delivery)

    async def believed(world: Any, key: Any) -> Any:
        asleep = here.get().asleep.get(key)
        return Held(asleep.record, asleep.revision) if asleep is not None else await read(world, key)

    patch.setattr(Messages, "handle", remembered)
    patch.setattr(messages_module, "read_record", believed)


def drained_with_something_in_hand(patch: Patch) -> None:
    """A drain lays to rest what only let go would have been right for."""
    rest = Host.rest

    async def always(self: Any, instance: Any, *, let_go: bool = False) -> None:
        await rest(self, instance, let_go=let_go and not idle(instance.execution.state))

    patch.setattr(Host, "rest", always)


# --- the archive


def the_living_are_archived(patch: Patch) -> None:
    needs, tidy = Sweeper._needs_a_wake, Janitor.tidy

    async def all_of_them(self: Any, listed: Any, only: Any) -> bool:
        self._host.janitor.ended(listed.key)
        return await needs(self, listed, only)

    async def whatever(self: Any, key: Any) -> None:
        world = self._world
        held = await read_record(world, key)
        if held is None or held.record.status.ended:
            await tidy(self, key)
        elif held.record.commits and (held.record.archived or await self._copy(key, held) is not None):
            await world.archive.clear(key, held.record.generation)

    patch.setattr(Sweeper, "_needs_a_wake", all_of_them)
    patch.setattr(Janitor, "tidy", whatever)


def cleared_before_it_is_archived(patch: Patch) -> None:
    tidy = Janitor.tidy

    async def eager(self: Any, key: Any) -> None:
        held = await read_record(self._world, key)
        if held is not None and held.record.status.ended:
            await self._world.archive.clear(key, held.record.generation)
        await tidy(self, key)

    patch.setattr(Janitor, "tidy", eager)


def nobody_tidies(patch: Patch) -> None:
    patch.setattr(Janitor, "ended", lambda self, key: None)
