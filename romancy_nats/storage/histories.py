"""Whole histories of instances, read from the ledger or the archive until the server answers (L3). Writes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from romancy_nats.core.commit import Commit
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.record import InstanceRecord
from romancy_nats.errors import ServerUnavailableError
from romancy_nats.ports import World
from romancy_nats.storage.backoff import NOTHING_CHANGED, answered_in_time, until_answered
from romancy_nats.storage.records import read_commit, read_record

_FIRST_PORTION = 16
_LARGEST_PORTION = 1000
_TRIES = 100
_AGAIN_AFTER = 0.005


async def recorded(world: World, key: InstanceKey, record: InstanceRecord, first: int = 1) -> list[Commit]:
    """The commits of a generation from `first` on, wherever they are kept. Raises RetentionError."""
    found: list[bytes] = []
    for _ in range(_TRIES):
        if record.archived:
            return [Commit.decode(data) for data in await read_archive(world, record.archived)][first - 1 :]
        found = await read_commits(world, key, record.generation, first)
        held = None if len(found) + first > record.commits else await read_record(world, key)
        if held is None or held.record.generation != record.generation:
            break
        # They left the ledger between the two reads.
        record = held.record
        await asyncio.sleep(_AGAIN_AFTER)
    return [Commit.decode(data) for data in found]


async def read_commits(world: World, key: InstanceKey, generation: int, first: int = 1) -> list[bytes]:
    """All commits from `first` on: read from a replica, then the next number from the leader to miss none (L4)."""
    commits: list[bytes] = []
    most = _FIRST_PORTION
    while True:
        async with answered_in_time(world, NOTHING_CHANGED):
            number = first + len(commits)
            try:
                found = await world.ledger.read_history(key, generation, number, most)
            except ServerUnavailableError:
                found = []
            commits.extend(found)
            if len(found) == most:
                most = min(most * 4, _LARGEST_PORTION)
                continue
            # A replica may lag (L4): only the leader's word that the next number is not there ends the history.
            following = await read_commit(world, key, generation, first + len(commits))
            if following is None:
                return commits
            commits.append(following)


async def read_archive(world: World, places: Sequence[int]) -> list[bytes]:
    """The commits of an archived history. A client asks for each part until there is an answer.

    Raises RetentionError; ServerUnavailableError at once in a worker, where what asked is delivered again.
    """
    if world.patience is None:
        return await world.archive.read(places)
    commits: list[bytes] = []
    for place in places:
        commits += await until_answered(world, lambda place=place: world.archive.read([place]))  # type: ignore[misc]
    return commits
