"""What a worker lends to the activities behind `ctx.send_event` and `ctx.send_to`. Nothing else is sent here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from romancy_nats.core import sending
from romancy_nats.core.cloudevents import Event
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.messages.channel import channel_message
from romancy_nats.core.plain import encode_plain
from romancy_nats.core.record import InstanceRecord
from romancy_nats.errors import InstanceEndedError, InstanceNotFoundError
from romancy_nats.ports import World
from romancy_nats.runtime.activity_context import activity_context
from romancy_nats.storage.publishing import publish
from romancy_nats.storage.records import read_record


def lent(world: World) -> dict[str, Callable[..., object]]:
    """The functions by the names of their activities."""

    async def send_event(type: str, data: object, key: str | None) -> None:
        context = activity_context()
        # The same for every attempt: the second time is harmless, and shows as the same event.
        id = context.idempotency_key
        source = f"romancy/{context.workflow_name}/{context.instance_id}"
        now = datetime.fromtimestamp(world.clock.now(), UTC)
        event = Event(
            id,
            type,
            source,
            encode_plain(data, "the data of an event", world.limits.value),
            key,
            now.isoformat(),
        )
        await publish(world, lambda: world.events.publish(event, id), f"the event {type!r}")

    async def send_to(workflow: str, id: str, channel: str, data: object, order: int = 0) -> None:
        key = InstanceKey(workflow, id)
        context = activity_context()
        body = encode_plain(data, f"the message on {channel!r}", world.limits.value)
        record = await _target(world, key)
        if record is not None and record.status.ended:
            raise InstanceEndedError(id, record.status)
        message = channel_message(key, channel, body, context.instance_id, order, context.idempotency_key)
        await publish(world, lambda: world.queues.send(message), f"the message on {channel!r}")

    return {sending.send_event.name: send_event, sending.send_to.name: send_to}


async def _target(world: World, key: InstanceKey) -> InstanceRecord | None:
    """The record, None when its start still waits. Raises InstanceNotFoundError."""
    held = await read_record(world, key)
    if held is None and await world.queues.waiting_start(key) is None:
        # It may have been claimed between the two looks.
        held = await read_record(world, key)
        if held is None:
            raise InstanceNotFoundError(key.id, key.workflow)
    return None if held is None else held.record
