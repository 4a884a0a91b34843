"""Histories of ended instances, copied out of the ledger into a stream of their own. Decides nothing about when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import msgpack

from romancy_nats.core.headers import GENERATION, MESSAGE_ID, TOKEN
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.record import InstanceRecord
from romancy_nats.errors import RetentionError
from romancy_nats.jetstream import stored
from romancy_nats.jetstream.api import ask
from romancy_nats.jetstream.connection import Connection
from romancy_nats.jetstream.ledger import record_headers
from romancy_nats.jetstream.subjects import Subjects
from romancy_nats.jetstream.writes import TTL, ack_prefix, write
from romancy_nats.ports import WriteReply

_ROOM = 4_096
CHUNK = "Romancy-Chunk"


class JetStreamArchive:
    """Implements `ports.Archive`."""

    def __init__(self, connection: Connection, subjects: Subjects, shards: int) -> None:
        self._connection = connection
        self._subjects = subjects
        self._shards = shards
        self._prefix = ack_prefix(subjects.archive_stream)

    async def store(
        self, key: InstanceKey, generation: int, commits: Sequence[bytes]
    ) -> Sequence[int] | None:
        """Copy a whole history; the places to read it from, or None when that is not certain (do it again)."""
        places: list[int] = []
        subject = self._subjects.archive(key.workflow)
        for number, chunk in enumerate(chunks(commits, self._connection.max_payload - _ROOM)):
            headers = {
                TOKEN: key.id_token,
                GENERATION: str(generation),
                CHUNK: str(number),
                MESSAGE_ID: f"{key.token}:{generation}:{number}",
            }
            reply = await write(self._connection, subject, chunk, headers, self._prefix)
            if not isinstance(reply, int):
                return None
            places.append(reply)
        return places

    async def read(self, places: Sequence[int]) -> list[bytes]:
        """The commits at these places. Raises ServerUnavailableError; RetentionError when they have expired."""
        commits: list[bytes] = []
        for place in places:
            found = await stored.at(self._connection, self._subjects.archive_stream, place)
            if found is None:
                raise RetentionError("this history has left the archive: its retention has passed")
            commits += cast("list[bytes]", msgpack.unpackb(found.data))
        return commits

    async def clear(self, key: InstanceKey, generation: int) -> bool:
        """Remove the commits of a generation from the ledger; False when that is not certain."""
        return await self._purge(key, generation)

    async def clear_before(self, key: InstanceKey, revision: int) -> bool:
        """Remove all commits, of every generation, that are older than this revision of the record; False as above."""
        # Up to that sequence: a generation that began meanwhile is not touched.
        return await self._purge(key, None, seq=revision)

    async def _purge(self, key: InstanceKey, generation: int | None, **limit: int) -> bool:
        p = key.shard(self._shards)
        which = {"filter": self._subjects.commits(p, key, generation), **limit}
        answer = await ask(self._connection, f"STREAM.PURGE.{self._subjects.shard_stream(p)}", which)
        return not answer.code

    async def seal(self, key: InstanceKey, record: InstanceRecord, expected: int, ttl: float) -> WriteReply:
        """The last write of a record: by compare-and-set, and it expires after `ttl` seconds."""
        p = key.shard(self._shards)
        headers = record_headers(key, record, expected) | {TTL: str(max(1, round(ttl)))}
        subject = self._subjects.record(p, key)
        return await write(self._connection, subject, record.encode(), headers)


def chunks(commits: Sequence[bytes], most: int) -> Iterator[bytes]:
    """The commits packed into messages of at most `most` bytes (a commit alone always fits one)."""
    batch: list[bytes] = []
    size = 0
    for commit in commits:
        if batch and size + len(commit) + 5 > most:
            yield msgpack.packb(batch)
            batch, size = [], 0
        batch.append(commit)
        size += len(commit) + 5
    yield msgpack.packb(batch)
