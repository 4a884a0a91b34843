"""Everything about one instance side by side: what clients were told, history, records, and what really happened."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import msgpack

from romancy_nats.core.commit import Commit
from romancy_nats.core.events import Event
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.record import InstanceRecord
from romancy_nats.testing.memory import MemoryServer
from romancy_nats.testing.memory.ledger import Shard, StoredCommit
from tests.simulation.evidence import Evidence
from tests.simulation.kept import Commits
from tests.simulation.record import Attempt, Ledgerbook

CONFLICT = "InstanceConflictError"


@dataclass(slots=True)
class Said:
    """Something that a user said to an instance and that was acknowledged; `value` is unlike any other."""

    kind: str
    value: str
    refused: bool = False
    answer: Any = None
    error: str = ""


@dataclass(slots=True)
class Told:
    """What a client was told about one instance. A rival started the same id with another program."""

    id: str
    program: list[Any]
    acknowledged: bool = False
    outcome: str = ""
    result: str = ""
    error: str = ""
    cancelled: bool | None = None
    conflicts: int = 0
    rival: Told | None = None
    starts: int = 0
    """How many starts of it were acknowledged."""
    said: list[Said] = field(default_factory=list[Said])
    numbers: int = 0
    reread: list[bytes] | None = None
    """Its history as a client read it when all was over, perhaps from the archive."""


@dataclass(slots=True)
class Placed:
    """An event with its place in the history and the time at which its commit was stored."""

    event: Event
    commit: int
    time: float


@dataclass(slots=True)
class Version:
    """A record as it was from `time` on, until the next version."""

    record: InstanceRecord
    revision: int
    process: str
    time: float
    until: float = float("inf")


@dataclass
class Case:
    """One instance, for the rules."""

    told: Told
    commits: list[tuple[StoredCommit, Commit]]
    versions: list[Version]
    attempts: list[Attempt]
    evidence: Evidence
    clocks_agree: bool = True
    answered_within: float = float("inf")
    cleared: dict[int, float] = field(default_factory=dict[int, float])
    """When commits left the ledger."""
    archived: bool = False
    """Whether it has to be archived by now."""
    token: str = ""
    found: list[str] = field(default_factory=list[str])

    @property
    def record(self) -> InstanceRecord | None:
        return self.versions[-1].record if self.versions else None

    @cached_property
    def events(self) -> list[Placed]:
        return [
            Placed(event, n, stored.time)
            for n, (stored, commit) in enumerate(self.commits, 1)
            for event in commit.events
        ]

    def at(self, time: float) -> Version | None:
        """The record as it was at that time."""
        return next((v for v in self.versions if v.time <= time < v.until), None)

    def fail(self, text: str) -> None:
        self.found.append(f"{self.told.id}: {text}")


def collect(server: MemoryServer, book: Ledgerbook, told: Told, workflow: str, evidence: Evidence) -> Case:
    """The case of one instance."""
    key = InstanceKey(workflow, told.id)
    shard = server.shards[key.shard(len(server.shards))]
    versions = [
        Version(InstanceRecord.decode(stored.data), stored.revision, stored.process, stored.time)
        for stored in shard.records.get(key.token, ())
    ]
    for earlier, later in pairwise(versions):
        earlier.until = later.time
    attempts = [attempt for attempt in book.attempts if attempt.id == told.id]
    case = Case(told, [], versions, attempts, evidence, token=key.token)
    stored = {place.n: kept for place, kept in shard.commits.items() if place.token == key.token}
    stored |= _archived(case, server, shard)
    case.commits = [(kept, Commit.decode(kept.data)) for _, kept in sorted(stored.items())]
    if sorted(stored) != list(range(1, len(stored) + 1)):
        case.fail(f"the history has gaps: {sorted(stored)}")
    return case


def _archived(case: Case, server: MemoryServer, shard: Shard) -> dict[int, StoredCommit]:
    """What was cleared from the ledger, as the archive has it now."""
    commits = shard.commits
    if not isinstance(commits, Commits):
        return {}
    cleared = {place.n: kept for place, kept in commits.cleared.items() if place.token == case.token}
    case.cleared = {n: time for n, (_, time) in cleared.items()}
    if not cleared:
        return {}
    places = case.record.archived if case.record is not None else []
    archived = [data for place in places for data in msgpack.unpackb(server.archived.get(place, b"\x90"))]
    if archived != [kept.data for _, (kept, _) in sorted(cleared.items())]:
        case.fail(f"the archive holds {len(archived)} commits, not the {len(cleared)} that were cleared")
    return {
        n: kept._replace(data=data)
        for data, (n, (kept, _)) in zip(archived, sorted(cleared.items()), strict=False)
    }
