"""The ledger in memory: shards of records and write-once commits, one sequence each. Knows no queue and no lease."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.record import InstanceRecord
from romancy_nats.ports import Held, Listed, Refusal, Refused, WriteReply
from romancy_nats.testing.memory.process import Answer, Effect, Process
from romancy_nats.testing.memory.revisions import Revisions

if TYPE_CHECKING:
    from romancy_nats.testing.memory.store import MemoryServer

_HEADERS = 200
"""About what the headers of a write take of the server's limit."""


class StoredRecord(NamedTuple):
    """One version of a record; older ones are kept for replicas that lag. `process` is for a checker to read."""

    revision: int
    data: bytes
    time: float
    process: str = ""


class StoredCommit(NamedTuple):
    """A commit in its place. `incarnation` checks nothing: it is who wrote it, for a checker to read."""

    sequence: int
    data: bytes
    fence: int
    process: str
    time: float


class Place(NamedTuple):
    """The subject of a commit."""

    token: str
    generation: int
    n: int


class Shard:
    """A stream of the ledger."""

    def __init__(self, server: MemoryServer) -> None:
        self._server = server
        self.revisions = Revisions(server)
        self.keys: dict[str, InstanceKey] = {}
        self.records: dict[str, list[StoredRecord]] = {}
        self.commits: dict[Place, StoredCommit] = {}

    def put_record(self, key: InstanceKey, data: bytes, expected: int, process: str, answer: Answer) -> None:
        store = partial(self._store_record, key, data, process)
        self.revisions.propose(key.token, expected, None, store, answer)

    def _store_record(self, key: InstanceKey, data: bytes, process: str) -> int:
        revision = self.revisions.next()
        self.revisions.last[key.token] = revision
        self.keys[key.token] = key
        version = StoredRecord(revision, data, self._server.loop.time(), process)
        self.records.setdefault(key.token, []).append(version)
        return revision

    def put_commit(self, place: Place, data: bytes, fence: int, process: str, answer: Answer) -> None:
        self.revisions.propose(
            place.token,
            fence,
            lambda: place in self.commits,
            partial(self._store_commit, place, data, fence, process),
            answer,
        )

    def _store_commit(self, place: Place, data: bytes, fence: int, process: str) -> int:
        sequence = self.revisions.next()
        self.commits[place] = StoredCommit(sequence, data, fence, process, self._server.loop.time())
        self._server.hub.commit(place.token, place.generation, place.n)
        return sequence

    def expire_record(self, token: str, revision: int) -> None:
        """Its retention has passed, unless somebody wrote it since."""
        versions = self.records.get(token)
        if versions and versions[-1].revision == revision:
            del self.records[token]
            self.keys.pop(token, None)
            self.revisions.last.pop(token, None)

    def record(self, token: str, cutoff: float | None = None) -> StoredRecord | None:
        """The last version, or the last that is not younger than the cutoff."""
        for version in reversed(self.records.get(token, ())):
            if cutoff is None or version.time <= cutoff:
                return version
        return None

    def history(self, token: str, generation: int, first: int, most: int, cutoff: float) -> list[bytes]:
        found: list[bytes] = []
        for n in range(first, first + most):
            commit = self.commits.get(Place(token, generation, n))
            if commit is None or commit.time > cutoff:
                break
            found.append(commit.data)
        return found

    def list(self, cutoff: float) -> list[tuple[InstanceKey, StoredRecord]]:
        """By sequence, as a stream is read."""
        rows: list[tuple[InstanceKey, StoredRecord]] = []
        for token, key in self.keys.items():
            version = self.record(token, cutoff)
            if version is not None:
                rows.append((key, version))
        return sorted(rows, key=lambda row: row[1].revision)


class MemoryLedger:
    """Implements `ports.Ledger` for one process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._server = process.server

    def append(
        self,
        key: InstanceKey,
        generation: int,
        n: int,
        data: bytes,
        fence: int,
        done: Callable[[WriteReply], None],
    ) -> None:
        process = self._process
        if (refused := self._too_large(data)) is not None:
            if process.alive_here():
                process.here(0, done, refused)
            return
        place = Place(key.token, generation, n)
        process.send(partial(self._shard(key).put_commit, place, data, fence, process.name), done)

    async def write(self, key: InstanceKey, record: InstanceRecord, expected: int) -> WriteReply:
        data = record.encode()
        if (refused := self._too_large(data)) is not None:
            return refused
        effect: Effect = partial(self._shard(key).put_record, key, data, expected, self._process.name)
        return await self._process.write(effect)

    async def read(self, key: InstanceKey) -> Held | None:
        version = await self._process.ask(lambda: self._shard(key).record(key.token))
        return None if version is None else Held(InstanceRecord.decode(version.data), version.revision)

    async def read_commit(self, key: InstanceKey, generation: int, n: int) -> bytes | None:
        place = Place(key.token, generation, n)
        commit = await self._process.ask(lambda: self._shard(key).commits.get(place))
        return None if commit is None else commit.data

    async def read_history(self, key: InstanceKey, generation: int, first: int, most: int) -> list[bytes]:
        cutoff = self._process.replica_cutoff
        return await self._process.ask(
            lambda: self._shard(key).history(key.token, generation, first, most, cutoff())
        )

    async def existing(self, keys: Sequence[InstanceKey]) -> Collection[InstanceKey]:
        return await self._process.ask(
            lambda: [key for key in keys if self._shard(key).record(key.token) is not None]
        )

    async def scan(self, workflow: str | None = None, id: str | None = None) -> AsyncIterator[Listed]:
        for shard in self._server.shards:
            cutoff = self._process.replica_cutoff()
            for key, version in await self._process.ask(partial(shard.list, cutoff)):
                if (workflow is None or key.workflow == workflow) and (id is None or key.id == id):
                    yield Listed(key, InstanceRecord.decode(version.data), version.revision)

    def _shard(self, key: InstanceKey) -> Shard:
        return self._server.shards[key.shard(len(self._server.shards))]

    def _too_large(self, data: bytes) -> Refused | None:
        limit = self._server.max_payload
        if len(data) + _HEADERS <= limit:
            return None
        return Refused(
            Refusal.TOO_LARGE, f"a message of {len(data):,} bytes, the server's limit is {limit:,}"
        )
