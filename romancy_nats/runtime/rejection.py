"""The record of a start that never runs, rejected or cancelled: whoever waits by id is told. Parks nothing."""

from __future__ import annotations

import logging

from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.record import InstanceRecord, InstanceStatus
from romancy_nats.ports import Refused, World
from romancy_nats.runtime.writing import write_record

_log = logging.getLogger("romancy.worker")
_LONGEST_ERROR = 4000


async def record_rejection(world: World, key: InstanceKey, reason: str) -> None:
    """Create a `rejected` record, unless the id belongs to an instance already: that one is not to be disturbed."""
    now = int(world.clock.now() * 1_000_000)
    record = InstanceRecord(
        status=InstanceStatus.REJECTED,
        created=now,
        updated=now,
        ended=now,
        error=reason[:_LONGEST_ERROR],
        error_type="StartRejectedError",
    )
    if isinstance(await write_record(world, key, record, 0), Refused):
        _log.info("no rejected record for %r: the id is taken", key)


async def end_unclaimed(world: World, key: InstanceKey, status: InstanceStatus, reason: str) -> bool:
    """Leave the end of an instance that nobody claimed: its start finds this record, and never enters the body."""
    now = int(world.clock.now() * 1_000_000)
    record = InstanceRecord(status=status, created=now, updated=now, ended=now, error=reason)
    return isinstance(await write_record(world, key, record, 0), int)
