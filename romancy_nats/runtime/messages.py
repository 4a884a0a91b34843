"""Messages to instances: into the history of the instance, or to the reason why not. One delivery, one answer."""

from __future__ import annotations

import logging

from romancy_nats.core.events import (
    CancelRequested,
    MessageEvent,
    RetryRequested,
    TerminateRequested,
    WorkflowTerminated,
)
from romancy_nats.core.headers import KIND, MESSAGE_ID
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.record import LONGEST_ERROR, InstanceStatus
from romancy_nats.errors import InvalidNameError
from romancy_nats.ports import Delivery, Held
from romancy_nats.runtime.instance import HeldDelivery, Instance
from romancy_nats.runtime.ownership import Ownership
from romancy_nats.runtime.rejection import end_unclaimed
from romancy_nats.runtime.writing import microseconds, read_commit, read_record

_log = logging.getLogger("romancy.worker")
ENDING_KINDS = {"cancel": InstanceStatus.CANCELLED, "terminate": InstanceStatus.TERMINATED}
_HARMLESS_AFTER_THE_END = {"cancel", "terminate", "retry", "resume"}
_LONGEST_WAIT = 86_400_000_000
_STALLED_PAUSE = 30.0


class Messages:
    """Handles the messages to instances that one worker pulls or gets forwarded."""

    def __init__(self, ownership: Ownership) -> None:
        self._ownership = ownership
        self._engine = ownership.engine

    async def handle(self, delivery: Delivery) -> None:
        """Give the message to its instance, wherever that is."""
        kind = delivery.headers.get(KIND, "")
        if kind not in _HARMLESS_AFTER_THE_END:
            await self._ownership.park(delivery, f"a message of unknown kind {kind!r}")
            return
        try:
            key = InstanceKey(delivery.workflow, delivery.id)
        except InvalidNameError as error:
            await self._ownership.park(delivery, str(error))
            return
        async with self._ownership.claiming(key):
            instance = self._engine.instances.get(key)
            if instance is not None and not instance.stopping:
                self._take(instance, delivery, kind)
                return
            if self._engine.draining:
                # What it still holds can be cancelled; everything else is for the others.
                delivery.nak()
                return
            held = await read_record(self._engine.world, key)
            if held is None:
                await self._nobody_there(key, delivery, kind)
            else:
                await self._deliver(key, held, delivery, kind)

    async def _nobody_there(self, key: InstanceKey, delivery: Delivery, kind: str) -> None:
        status = ENDING_KINDS.get(kind)
        if status is not None:
            if await end_unclaimed(self._engine.world, key, status, _text(delivery)):
                delivery.ack()
            else:
                delivery.nak()
        elif microseconds(self._engine.world) - delivery.time > _LONGEST_WAIT:
            await self._ownership.park(
                delivery, f"InstanceNotFoundError: no instance {key.id!r} within a day"
            )
        else:
            delivery.nak(min(2.0 ** min(delivery.deliveries, 10), 600.0))

    async def _deliver(self, key: InstanceKey, held: Held, delivery: Delivery, kind: str) -> None:
        record = held.record
        if record.status.ended:
            delivery.ack()
            return
        resting = not record.owner and record.status is not InstanceStatus.QUEUED
        if kind == "resume" and resting:
            delivery.ack()
            return
        if record.commits == 0 and await read_commit(self._engine.world, key, record.generation, 1) is None:
            # Only a start may claim an instance that has no commit yet (L1).
            delivery.nak(1.0)
            return
        instance = await self._ownership.claim(key, held, delivery)
        if instance is None:
            return
        if instance.stalled is not None:
            await self._still_stalled(instance, delivery, kind)
            return
        self._take(instance, delivery, kind, begin=False)
        self._ownership.go_on(instance)

    async def _still_stalled(self, instance: Instance, delivery: Delivery, kind: str) -> None:
        """The code does not fit the history: a terminate needs no code, a cancel waits until it does."""
        if kind == "terminate":
            event = _event(kind, delivery)
            held = HeldDelivery(delivery)
            instance.held.append(held)
            instance.stalled = None
            instance.end_without_code([event, WorkflowTerminated(_text(delivery))], held)
            return
        if kind == "cancel":
            delivery.nak(_STALLED_PAUSE)
        else:
            instance.held.append(HeldDelivery(delivery, max(1, instance.commits)))
        self._ownership.go_on(instance)

    def _take(self, instance: Instance, delivery: Delivery, kind: str, *, begin: bool = True) -> None:
        message_id = delivery.headers.get(MESSAGE_ID, "")
        execution = instance.execution
        source = delivery.source
        known = (source.stream, source.sequence) in execution.seen or message_id in execution.seen_ids
        if kind == "resume" or known:
            instance.held.append(HeldDelivery(delivery, 1))
            return
        held = HeldDelivery(delivery)
        instance.held.append(held)
        event = _event(kind, delivery)
        if begin:
            instance.give(event, held)
        else:
            instance.expect(event, held)


def _text(delivery: Delivery) -> str:
    return delivery.data.decode(errors="replace")[:LONGEST_ERROR]


def _event(kind: str, delivery: Delivery) -> MessageEvent:
    source, text = delivery.source, _text(delivery)
    message_id = delivery.headers.get(MESSAGE_ID, "")
    if kind == "cancel":
        return CancelRequested(text, source.stream, source.sequence, message_id)
    if kind == "terminate":
        return TerminateRequested(text, source.stream, source.sequence, message_id)
    return RetryRequested(source.stream, source.sequence, message_id)
