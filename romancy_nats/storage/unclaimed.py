"""Terminal records of instances that never ran: rejected input, or ended before a worker claimed them."""

from __future__ import annotations

import logging

from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.limits import shortened
from romancy_nats.core.record import LONGEST_ERROR, InstanceRecord, InstanceStatus
from romancy_nats.ports import World
from romancy_nats.storage.records import microseconds, write_record

_log = logging.getLogger("romancy.worker")


async def record_rejection(world: World, key: InstanceKey, reason: str, created: int) -> None:
    """Create a `rejected` record, unless the id belongs to an instance already: that one is not to be disturbed."""
    rejected = InstanceStatus.REJECTED
    if not await end_unclaimed(world, key, rejected, reason, "StartRejectedError", created=created):
        _log.debug("no rejected record for %r: the id is taken", key)


async def end_unclaimed(
    world: World,
    key: InstanceKey,
    status: InstanceStatus,
    reason: str,
    error_type: str = "",
    *,
    created: int = 0,
) -> bool:
    """Leave the end of an instance that nobody claimed: its start finds this record, and never enters the body.

    `created` is when its start was stored (µs), 0 where that is not known.
    """
    now = microseconds(world)
    error = shortened(reason, LONGEST_ERROR)
    record = InstanceRecord(
        status=status, created=created or now, updated=now, ended=now, error=error, error_type=error_type
    )
    return isinstance(await write_record(world, key, record, 0), int)
