"""Messages to instances: into the history of the instance, or to the reason why not. One delivery, one answer."""

from __future__ import annotations

import logging

from romancy_nats.core.commit import size_of
from romancy_nats.core.events import (
    Event,
    EventReceived,
    MessageEvent,
    MessageReceived,
    WorkflowStarted,
    WorkflowTerminated,
)
from romancy_nats.core.headers import KIND, MESSAGE_ID, REPLY_TO
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.inheritance import inherited_message
from romancy_nats.core.messages.kinds import ENDING_KINDS
from romancy_nats.core.messages.update import rejection
from romancy_nats.core.record import InstanceRecord
from romancy_nats.errors import InvalidNameError, PayloadTooLargeError, RetentionError
from romancy_nats.ports import Delivery, Held
from romancy_nats.runtime.claims import Claims
from romancy_nats.runtime.host import Host
from romancy_nats.runtime.instance import Instance
from romancy_nats.runtime.reading import UNREADABLE, is_of_another_generation, read_message, text_of
from romancy_nats.runtime.registrations import forget_stray
from romancy_nats.storage.histories import recorded
from romancy_nats.storage.records import microseconds, read_commit, read_record
from romancy_nats.storage.unclaimed import end_unclaimed

_log = logging.getLogger("romancy.worker")
_KINDS = {"cancel", "terminate", "retry", "resume", "event", "message", "update"}
_LONGEST_WAIT = 86_400_000_000
_ENVELOPE_BYTES = 500


class Messages:
    """Handles the messages to instances that one worker pulls or gets forwarded."""

    def __init__(self, host: Host, claims: Claims) -> None:
        self._host = host
        self._claims = claims

    async def handle(self, delivery: Delivery) -> None:
        """Give the message to its instance, wherever that is."""
        kind = delivery.headers.get(KIND, "")
        if kind not in _KINDS:
            await self._claims.park(delivery, f"a message of unknown kind {kind!r}")
            return
        try:
            key = InstanceKey(delivery.workflow, delivery.id)
        except InvalidNameError as error:
            await self._claims.park(delivery, str(error))
            return
        async with self._claims.claiming(key):
            instance = self._host.instances.get(key)
            if instance is not None and not instance.stopping:
                self._take(instance, delivery, kind)
                return
            if self._host.draining:
                # What it still holds can be cancelled; everything else is for the others.
                delivery.nak()
                return
            # A resume is acked on the record's word alone, so not on that of our own rest, which may be long past (L5).
            resume = kind == "resume"
            held = await (read_record(self._host.world, key) if resume else self._claims.known_record(key))
            if held is None:
                await self._nobody_there(key, delivery, kind)
            else:
                await self._deliver(key, held, delivery, kind)

    async def _nobody_there(self, key: InstanceKey, delivery: Delivery, kind: str) -> None:
        status = ENDING_KINDS.get(kind)
        if status is not None:
            if await end_unclaimed(self._host.world, key, status, text_of(delivery)):
                delivery.ack()
            else:
                delivery.nak()
        elif kind == "event":
            await forget_stray(self._host.world, key, delivery)
            delivery.ack()
        elif microseconds(self._host.world) - delivery.time > _LONGEST_WAIT:
            await self._claims.park(delivery, f"InstanceNotFoundError: no instance {key.id!r} within a day")
        else:
            # Back before a later message of its sender has lost patience with it (see `admission`).
            longest = 2 * self._host.tuning.ack_wait
            delivery.nak(min(2.0 ** min(delivery.deliveries, 10), longest))

    async def _deliver(self, key: InstanceKey, held: Held, delivery: Delivery, kind: str) -> None:
        record = held.record
        if record.status.ended:
            await self._after_the_end(key, record, delivery, kind)
            return
        resting = not record.owner and not record.let_go
        now = microseconds(self._host.world)
        overdue = 0 < record.next_due <= now
        if kind == "resume" and resting and not overdue:
            delivery.ack()
            return
        if record.commits == 0 and await read_commit(self._host.world, key, record.generation, 1) is None:
            # Only a start may claim an instance that has no commit yet (L1); a retry lets it do so at once.
            if kind == "retry":
                self._host.stalls.forget(key)
            delivery.nak(1.0)
            return
        if _waits_for_code(kind, delivery) and self._host.stalls.is_known(key, record):
            delivery.nak(self._host.stalls.pause())
            return
        instance = await self._claims.claim(key, held, delivery)
        if instance is None:
            return
        if instance.stalled is not None:
            await self._still_stalled(instance, delivery, kind)
            return
        try:
            self._take(instance, delivery, kind, begin=False)
        finally:
            # Whatever is wrong with the message: the instance is claimed now, and nobody else makes it go on (L6).
            if overdue:
                instance.effects.fire_due(now)
            self._claims.resume(instance)

    async def _after_the_end(
        self, key: InstanceKey, record: InstanceRecord, delivery: Delivery, kind: str
    ) -> None:
        """Late messages are answered, or parked; none is swallowed (L5)."""
        if kind == "update":
            # It may have been answered before the end, and only its acknowledgement was lost: the history tells.
            self._host.world.wire.notify(delivery.headers.get(REPLY_TO, ""), b"")
        if kind == "event":
            await forget_stray(self._host.world, key, delivery)
        if kind != "message" or await self._is_recorded(key, record, delivery):
            delivery.ack()
        else:
            await self._claims.park(delivery, f"InstanceEndedError: the instance has ended ({record.status})")

    async def _is_recorded(self, key: InstanceKey, record: InstanceRecord, delivery: Delivery) -> bool:
        try:
            commits = await recorded(self._host.world, key, record)
        except RetentionError:
            return False
        return any(_has(event, delivery) for commit in commits for event in commit.events)

    async def _still_stalled(self, instance: Instance, delivery: Delivery, kind: str) -> None:
        """The code does not fit the history: a terminate needs no code, a cancel waits until it does."""
        if kind == "terminate":
            event = read_message(kind, delivery)
            held = instance.held.add(delivery)
            instance.stalled = None
            instance.end_without_code([event, WorkflowTerminated(text_of(delivery))], held)
            return
        if kind not in ("retry", "resume"):
            delivery.nak(self._host.stalls.pause())
        else:
            instance.held.add(delivery, max(1, instance.commits))
        self._claims.resume(instance)

    def _fitting(self, event: MessageEvent) -> MessageEvent:
        """The event itself; raises what `UNREADABLE` names when no commit can hold it."""
        most = self._host.world.limits.commit - _ENVELOPE_BYTES
        if (size := size_of(event)) > most:
            raise PayloadTooLargeError("it", size, most)
        return event

    def _take(self, instance: Instance, delivery: Delivery, kind: str, *, begin: bool = True) -> None:
        message_id = delivery.headers.get(MESSAGE_ID, "")
        execution = instance.execution
        source = delivery.source
        known = (
            source.stream,
            source.sequence,
        ) in execution.state.seen or message_id in execution.state.seen_ids
        if kind == "resume" or known:
            instance.held.add(delivery, 1)
            return
        try:
            event = self._fitting(read_message(kind, delivery))
        except UNREADABLE as error:
            if kind == "update":
                text = f"the update cannot be read: {error}"
                self._host.world.wire.notify(delivery.headers.get(REPLY_TO, ""), rejection(text))
            self._host.spawn(self._claims.park(delivery, f"a {kind} that cannot be read: {error}"))
            return
        if isinstance(event, EventReceived) and is_of_another_generation(instance.record, delivery):
            delivery.ack()
            return
        held = instance.held.add(delivery)
        if begin:
            instance.give(event, held)
        else:
            instance.expect(event, held)


def _waits_for_code(kind: str, delivery: Delivery) -> bool:
    """Whether a stalled instance is not tried again for this; for a cancel it is once, by each worker that gets it."""
    return kind in ("event", "message", "update") or (kind == "cancel" and delivery.deliveries > 1)


def _has(event: Event, delivery: Delivery) -> bool:
    """Whether the event is the message, or begins a generation that inherits from one that had it."""
    source, message_id = delivery.source, delivery.headers.get(MESSAGE_ID, "")
    if isinstance(event, WorkflowStarted):
        return inherited_message(event.carried, source.stream, source.sequence, message_id)
    return isinstance(event, MessageReceived) and (
        (event.stream, event.sequence) == source or (bool(message_id) and event.message_id == message_id)
    )
