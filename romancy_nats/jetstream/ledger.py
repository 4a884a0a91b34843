"""The ledger on JetStream: records and write-once commits in the shards. Knows no workflow and no worker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence

from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.record import InstanceRecord
from romancy_nats.errors import PayloadError
from romancy_nats.jetstream import stored
from romancy_nats.jetstream.connection import Connection
from romancy_nats.jetstream.replies import Reply
from romancy_nats.jetstream.stored import Stored, TooManyMatchesError
from romancy_nats.jetstream.subjects import Subjects
from romancy_nats.jetstream.writes import (
    EXPECTED,
    EXPECTED_SUBJECT,
    ROLLUP,
    TIMEOUT,
    ack_prefix,
    outcome,
    write,
)
from romancy_nats.ports import Held, Listed, Refusal, Refused, WriteReply

_log = logging.getLogger("romancy.ledger")

FIRST_READ = 16
LARGEST_READ = 1000
READ_BYTES = 4 * 1024 * 1024
REQUEST_BYTES = 256 * 1024
SCAN_PAGE = 500

_COMMIT_HEADERS = len("NATS/1.0\r\n\r\n" + EXPECTED + EXPECTED_SUBJECT) + 2 * 4 + 20


class JetStreamLedger:
    """Implements `ports.Ledger`."""

    def __init__(
        self, connection: Connection, subjects: Subjects, shards: int, patience: float = 0.0
    ) -> None:
        self._connection = connection
        self._patience = patience
        self._subjects = subjects
        self._shards = shards
        self._loop = asyncio.get_running_loop()
        numbers = range(shards)
        self._streams = [subjects.shard_stream(p) for p in numbers]
        self._record_prefixes = [subjects.record_prefix(p) for p in numbers]
        self._commit_prefixes = [subjects.commit_prefix(p) for p in numbers]
        self._ack_prefixes = [ack_prefix(stream) for stream in self._streams]

    # --- writing

    def append(
        self,
        key: InstanceKey,
        generation: int,
        n: int,
        data: bytes,
        fence: int,
        done: Callable[[WriteReply], None],
    ) -> None:
        """Write commit n once, fenced on the record's revision; no Nats-Msg-Id, which R3 checks first (L3)."""
        p = key.shard(self._shards)
        record = self._record_prefixes[p] + key.token
        size = len(data) + len(record) + _COMMIT_HEADERS
        if size > self._connection.max_payload:
            # Before sending: the server closes a connection that sends too much.
            self._loop.call_soon(done, _too_large(size, self._connection.max_payload))
            return
        prefix = self._ack_prefixes[p]

        def answered(reply: Reply | None) -> None:
            done(outcome(reply, prefix))

        self._connection.request(
            f"{self._commit_prefixes[p]}{key.token}.{generation}.{n}",
            data,
            {EXPECTED: str(fence), EXPECTED_SUBJECT: record},
            answered,
            TIMEOUT,
        )

    async def write(self, key: InstanceKey, record: InstanceRecord, expected: int) -> WriteReply:
        """Create (expected 0) or replace the record by compare-and-set; the reply is the new revision."""
        reply = await self._write(key, record, expected)
        if expected == 0 and isinstance(reply, Refused) and reply.why is Refusal.STALE:
            # A record that expired leaves a marker for a while, which counts as a message but is no record.
            found = await self._last(key)
            if found is not None and found.marker:
                return await self._write(key, record, found.sequence)
        return reply

    async def _write(self, key: InstanceKey, record: InstanceRecord, expected: int) -> WriteReply:
        p = key.shard(self._shards)
        headers = record_headers(key, record, expected)
        subject = self._record_prefixes[p] + key.token
        return await write(self._connection, subject, record.encode(), headers, self._ack_prefixes[p])

    # --- reading one instance

    async def read(self, key: InstanceKey) -> Held | None:
        """The record, from the leader. Raises ServerUnavailableError."""
        found = await self._last(key)
        if found is None or found.marker:
            return None
        return Held(InstanceRecord.decode(found.data), found.sequence)

    async def _last(self, key: InstanceKey) -> Stored | None:
        p = key.shard(self._shards)
        return await stored.last(self._connection, self._streams[p], self._record_prefixes[p] + key.token)

    async def read_commit(self, key: InstanceKey, generation: int, n: int) -> bytes | None:
        """Commit n, from the leader. Raises ServerUnavailableError."""
        p = key.shard(self._shards)
        subject = self._subjects.commit(p, key, generation, n)
        found = await stored.last(self._connection, self._streams[p], subject)
        return None if found is None or found.marker else found.data

    async def read_history(self, key: InstanceKey, generation: int, first: int, most: int) -> list[bytes]:
        """Up to `most` commits from `first` on, without a gap; from a replica, so possibly fewer than exist."""
        p = key.shard(self._shards)
        prefix = f"{self._commit_prefixes[p]}{key.token}.{generation}."
        limit = min(LARGEST_READ, REQUEST_BYTES // (len(prefix) + 16))
        ask_for = FIRST_READ
        history: list[bytes] = []
        while len(history) < most:
            start = first + len(history)
            numbers = range(start, min(start + ask_for, first + most))
            part = await self._read_commits(p, prefix, numbers)
            history += part
            if len(part) < len(numbers):
                break
            average = sum(map(len, part)) // len(part)
            ask_for = max(1, min(ask_for * 4, limit, READ_BYTES // max(average, 1)))
        return history

    async def _read_commits(self, p: int, prefix: str, numbers: range) -> list[bytes]:
        subjects = [f"{prefix}{n}" for n in numbers]
        found = await stored.several(self._connection, self._streams[p], {"multi_last": subjects})
        data = {one.subject: one.data for one in found if not one.marker}
        history: list[bytes] = []
        for subject in subjects:
            if (commit := data.get(subject)) is None:
                break  # a gap: the replica lags
            history.append(commit)
        return history

    # --- listing

    async def scan(self, workflow: str | None = None, id: str | None = None) -> AsyncIterator[Listed]:
        """Records, of one workflow or one id if named; from a replica."""
        shards: Sequence[int] = range(self._shards)
        if id is not None:
            shards = [InstanceKey(workflow or "-", id).shard(self._shards)]
        for p in shards:
            seen: set[str] = set()
            async for one in self._matches(p, self._subjects.records(p, workflow, id), few=id is not None):
                # A record that is written during the scan comes again at its new place.
                if one.marker or one.subject in seen:
                    continue
                seen.add(one.subject)
                if (listed := self._listed(one)) is not None:
                    yield listed

    async def existing(self, keys: Sequence[InstanceKey]) -> Collection[InstanceKey]:
        """Which of these have a record; from a replica."""
        shards: dict[int, list[str]] = {}
        for key in keys:
            p = key.shard(self._shards)
            shards.setdefault(p, []).append(self._record_prefixes[p] + key.token)
        found: set[InstanceKey] = set()
        for p, subjects in shards.items():
            for some in batched(subjects, LARGEST_READ):
                request = {"multi_last": some}
                for one in await stored.several(self._connection, self._streams[p], request):
                    found_key = None if one.marker else self._subjects.read_record(one.subject)
                    if found_key is not None:
                        found.add(found_key)
        return found

    async def _matches(self, p: int, filter_subject: str, *, few: bool) -> AsyncIterator[Stored]:
        stream = self._streams[p]
        if few:
            try:
                for one in await stored.several(self._connection, stream, {"multi_last": [filter_subject]}):
                    yield one
                return
            except TooManyMatchesError as error:
                _log.debug("reading in pages instead: %s", error)
        sequence = 1
        while True:
            request = {"batch": SCAN_PAGE, "seq": sequence, "next_by_subj": filter_subject}
            page = await stored.page(self._connection, stream, request, self._patience)
            for one in page:
                yield one
            if not page or page[-1].headers.get("Nats-Num-Pending") == "0":
                return
            sequence = page[-1].sequence + 1

    def _listed(self, one: Stored) -> Listed | None:
        key = self._subjects.read_record(one.subject)
        if key is None:
            return None
        try:
            return Listed(key, InstanceRecord.decode(one.data), one.sequence)
        except PayloadError as error:
            _log.warning("%s is left out of the list: %s", one.subject, error)
            return None


def batched(subjects: Sequence[str], most: int) -> Iterator[Sequence[str]]:
    """Subjects by as many as one request may name."""
    return (subjects[begin : begin + most] for begin in range(0, len(subjects), most))


def _too_large(size: int, limit: int) -> Refused:
    return Refused(
        Refusal.TOO_LARGE,
        f"a commit of {size:,} bytes, the server's limit is {limit:,}; pass large data by reference",
    )


def record_headers(key: InstanceKey, record: InstanceRecord, expected: int) -> dict[str, str]:
    """The headers of a record write: fenced, the only message on its subject, listable without its body."""
    return {
        EXPECTED: str(expected),
        ROLLUP: "sub",
        "Romancy-Workflow": key.token.partition(".")[0],
        "Romancy-Status": record.status.value,
    }
