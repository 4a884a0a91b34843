"""Instance records and single commits: read from the leader, and records written, until the server answers (L3).

A worker retries for ever. A client gives `World.patience`: after so many seconds without an answer each function here
raises ServerUnavailableError, which says what is unknown.
"""

from __future__ import annotations

from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.record import InstanceRecord
from romancy_nats.ports import Held, Refusal, Refused, World
from romancy_nats.storage.backoff import UNANSWERED, Backoff, until_answered


def microseconds(world: World) -> int:
    """The time of the world in µs since the epoch, the unit of records and histories."""
    return int(world.clock.now() * 1_000_000)


async def write_record(
    world: World, key: InstanceKey, record: InstanceRecord, expected: int
) -> int | Refused:
    """Create or replace a record by compare-and-set; returns its new revision, or the refusal.

    `record.write` is made fresh here; a record that is too large for the server is shortened. A refusal of a write
    that was sent before may be our own success: the record is then read back, and the same `write` id means that it is
    ours.
    """
    record.write = world.chance.id()
    backoff = Backoff()
    sent_before = shortened = False
    while True:
        try:
            reply = await world.ledger.write(key, record, expected)
        except UNANSWERED:
            reply = None
        if isinstance(reply, int):
            return reply
        if reply is None:
            sent_before = True
            await backoff.pause()
            continue
        if reply.why is Refusal.TOO_LARGE and not shortened:
            # It was not sent. The same again would be refused again.
            shortened = True
            record.shorten()
            continue
        if sent_before and reply.why is Refusal.STALE:
            held = await read_record(world, key)
            if held is not None and held.record.write == record.write:
                return held.revision
        return reply


async def read_record(world: World, key: InstanceKey) -> Held | None:
    """The record from the leader, None where there is none."""
    return await until_answered(world, lambda: world.ledger.read(key))


async def read_commit(world: World, key: InstanceKey, generation: int, n: int) -> bytes | None:
    """Commit n from the leader, None where it was not written or is in the archive."""
    return await until_answered(world, lambda: world.ledger.read_commit(key, generation, n))
