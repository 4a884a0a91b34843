"""Record and commit access that retries until the server answers (L3). Reads go to the leader unless stated.

A worker retries for ever. A client gives `World.patience`: after so many seconds without an answer each function here
raises ServerUnavailableError, which says what is unknown.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio

from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.record import InstanceRecord
from romancy_nats.errors import (
    ConnectionLostError,
    PayloadError,
    PermissionDeniedError,
    ServerUnavailableError,
    StorageError,
)
from romancy_nats.ports import Held, Refusal, Refused, World, WriteReply

T = TypeVar("T")
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0
_NOTHING_CHANGED = "nothing was changed; ask again"
UNANSWERED = (ServerUnavailableError, ConnectionLostError)
"""The errors of a request that may be made again."""


def microseconds(world: World) -> int:
    """The time of the world in µs since the epoch, the unit of records and histories."""
    return int(world.clock.now() * 1_000_000)


@asynccontextmanager
async def answered_in_time(world: World, unknown: str) -> AsyncGenerator[asyncio.Timeout]:
    """A block that waits for the server: raises ServerUnavailableError, with `unknown`, after `World.patience`."""
    limit = asyncio.timeout(world.patience)
    try:
        async with limit:
            yield limit
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise ServerUnavailableError(
            f"the server did not answer within {world.patience:g} s (ROMANCY_CLIENT_TIMEOUT): {unknown}"
        ) from error


async def until_answered(
    world: World,
    ask: Callable[[], Awaitable[T]],
    unknown: str = _NOTHING_CHANGED,
    pause: float = _FIRST_PAUSE,
) -> T:
    """Ask until there is an answer. What is asked changes nothing, or may be done twice."""
    async with answered_in_time(world, unknown):
        return await _until_answered(ask, pause)


async def _until_answered(ask: Callable[[], Awaitable[T]], pause: float) -> T:
    while True:
        try:
            return await ask()
        except UNANSWERED:
            await anyio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)


async def publish(
    world: World, write: Callable[[], Awaitable[WriteReply]], what: str, remedy: str = "send it again"
) -> int:
    """Send again, unchanged, until the server answers (L3); the message id makes that harmless.

    Returns the sequence, a `Duplicate` where the message was there before the first try. `remedy` tells a client that
    gives up how to send it again without a second effect. Raises PayloadError, PermissionDeniedError, StorageError.
    """
    async with answered_in_time(world, f"{what} may or may not have been stored; {remedy}"):
        return await until_stored(write, what)


async def until_stored(write: Callable[[], Awaitable[WriteReply]], what: str) -> int:
    """The loop of `publish`, without its end."""
    pause, unanswered = _FIRST_PAUSE, False
    while True:
        try:
            reply = await write()
        except UNANSWERED:
            reply = None
        if isinstance(reply, int):
            # What is there already after a lost answer is our own: it counts as sent, with its number in the order.
            return int(reply) if unanswered else reply
        if isinstance(reply, Refused):
            if reply.why is Refusal.TOO_LARGE:
                raise PayloadError(f"{what} is larger than the server takes ({reply.text})")
            if reply.why is Refusal.DENIED:
                raise PermissionDeniedError(f"{what} is refused: {reply.text}")
            raise StorageError(f"the server refused {what}: {reply}")
        unanswered = True
        await anyio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


async def write_record(
    world: World, key: InstanceKey, record: InstanceRecord, expected: int, pause: float = _FIRST_PAUSE
) -> int | Refused:
    """Create or replace a record by compare-and-set; returns its new revision, or the refusal.

    `record.write` is made fresh here; a record that is too large for the server is shortened. A refusal of a write
    that was sent before may be our own success: the record is then read back, and the same `write` id means that it is
    ours.
    """
    record.write = world.chance.id()
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
            await anyio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
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


async def read_record(world: World, key: InstanceKey, pause: float = _FIRST_PAUSE) -> Held | None:
    """The record from the leader, asked for until there is an answer."""
    return await until_answered(world, lambda: world.ledger.read(key), pause=pause)


async def read_commit(
    world: World, key: InstanceKey, generation: int, n: int, pause: float = _FIRST_PAUSE
) -> bytes | None:
    """Commit n from the leader, asked for until there is an answer."""
    return await until_answered(world, lambda: world.ledger.read_commit(key, generation, n), pause=pause)


async def read_commits(world: World, key: InstanceKey, generation: int, first: int = 1) -> list[bytes]:
    """All commits from `first` on: read from a replica, then the next number from the leader to miss none."""
    commits: list[bytes] = []
    most = 16
    while True:
        async with answered_in_time(world, _NOTHING_CHANGED):
            number = first + len(commits)
            try:
                found = await world.ledger.read_history(key, generation, number, most)
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
