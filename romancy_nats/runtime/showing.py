"""Writing the record in mid-turn: what it has to say before effects begin. Its new revision is the fence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from romancy_nats.core.events import Event
from romancy_nats.core.record import InstanceStatus
from romancy_nats.ports import Refused
from romancy_nats.storage.records import write_record

if TYPE_CHECKING:
    from romancy_nats.runtime.instance import Instance


def is_owed(instance: Instance) -> bool:
    """Whether the record does not tell yet that the instance compensates, or that it is in its next generation."""
    return not instance.shown or _begins_to_compensate(instance)


def _begins_to_compensate(instance: Instance) -> bool:
    execution = instance.execution
    if instance.stalled is not None or not execution.root.compensating or execution.state.ending is not None:
        return False
    return instance.record.status is not InstanceStatus.COMPENSATING


async def show(instance: Instance, batch: Sequence[Event]) -> None:
    """Write it, and only then let the commit `batch` take effect."""
    owner = instance.owner
    status = InstanceStatus.COMPENSATING if _begins_to_compensate(instance) else instance.record.status
    record = replace(instance.record, status=status, commits=instance.commits)
    reply = await write_record(owner.world, instance.key, record, instance.revision)
    if instance.dropped:
        return
    if isinstance(reply, Refused):
        owner.discard(instance)
        return
    instance.record, instance.revision = record, reply
    if not instance.shown:
        instance.shown = True
        instance.held.acknowledge_recorded(record)
        owner.generation_over(instance.key, record.generation - 1)
    instance.take_effect(batch)
