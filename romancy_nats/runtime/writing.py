"""Record writes that end in an answer (L3): sent again unchanged until the server says yes or no."""

from __future__ import annotations

import anyio

from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.record import InstanceRecord
from romancy_nats.errors import ServerUnavailableError
from romancy_nats.ports import Held, Refusal, Refused, World

_LONGEST_PAUSE = 2.0


def microseconds(world: World) -> int:
    """The time of the world in µs since the epoch, the unit of records and histories."""
    return int(world.clock.now() * 1_000_000)


async def write_record(
    world: World, key: InstanceKey, record: InstanceRecord, expected: int, pause: float = 0.05
) -> int | Refused:
    """Create or replace a record by compare-and-set; returns its new revision, or the refusal.

    `record.write` is made fresh here. A refusal of a write that was sent before may be our own success: the record is
    then read back, and the same `write` id means that it is ours.
    """
    record.write = world.chance.id()
    sent_before = False
    while True:
        reply = await world.ledger.write(key, record, expected)
        if isinstance(reply, int):
            return reply
        if reply is None:
            sent_before = True
            await anyio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
            continue
        if sent_before and reply.why is Refusal.STALE:
            held = await read_record(world, key)
            if held is not None and held.record.write == record.write:
                return held.revision
        return reply


async def read_record(world: World, key: InstanceKey, pause: float = 0.05) -> Held | None:
    """The record from the leader, asked for until there is an answer."""
    while True:
        try:
            return await world.ledger.read(key)
        except ServerUnavailableError:
            await anyio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)


async def read_commit(
    world: World, key: InstanceKey, generation: int, n: int, pause: float = 0.05
) -> bytes | None:
    """Commit n from the leader, asked for until there is an answer."""
    while True:
        try:
            return await world.ledger.read_commit(key, generation, n)
        except ServerUnavailableError:
            await anyio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)


async def read_commits(world: World, key: InstanceKey, generation: int, first: int = 1) -> list[bytes]:
    """All commits from `first` on: read from a replica, then the next number from the leader to miss none."""
    commits: list[bytes] = []
    most = 16
    while True:
        try:
            found = await world.ledger.read_history(key, generation, first + len(commits), most)
        except ServerUnavailableError:
            found = []
        commits.extend(found)
        if len(found) == most:
            most = min(most * 4, 1000)
            continue
        # A replica may lag (L4): only the leader's word that the next number is not there ends the history.
        following = await read_commit(world, key, generation, first + len(commits))
        if following is None:
            return commits
        commits.append(following)
