"""The record of a start that never runs, rejected or cancelled: whoever waits by id is told. Parks nothing."""

from __future__ import annotations

import logging

from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.limits import shortened
from romancy_nats.core.record import LONGEST_ERROR, InstanceRecord, InstanceStatus
from romancy_nats.ports import World
from romancy_nats.runtime.writing import microseconds, write_record

_log = logging.getLogger("romancy.worker")


async def record_rejection(world: World, key: InstanceKey, reason: str) -> None:
    """Create a `rejected` record, unless the id belongs to an instance already: that one is not to be disturbed."""
    if not await end_unclaimed(world, key, InstanceStatus.REJECTED, reason, "StartRejectedError"):
        _log.info("no rejected record for %r: the id is taken", key)


async def end_unclaimed(
    world: World, key: InstanceKey, status: InstanceStatus, reason: str, error_type: str = ""
) -> bool:
    """Leave the end of an instance that nobody claimed: its start finds this record, and never enters the body."""
    now = microseconds(world)
    error = shortened(reason, LONGEST_ERROR)
    record = InstanceRecord(
        status=status, created=now, updated=now, ended=now, error=error, error_type=error_type
    )
    return isinstance(await write_record(world, key, record, 0), int)
