"""Everything about one instance side by side: what clients were told, history, records, and what really happened."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

from romancy_nats.core.commit import Commit
from romancy_nats.core.events import Event
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.record import InstanceRecord
from romancy_nats.testing.memory import MemoryServer
from romancy_nats.testing.memory.ledger import StoredCommit
from tests.simulation.evidence import Evidence
from tests.simulation.record import Attempt, Ledgerbook

CONFLICT = "InstanceConflictError"


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
    stored = sorted((place.n, kept) for place, kept in shard.commits.items() if place.token == key.token)
    commits = [(kept, Commit.decode(kept.data)) for _, kept in stored]
    attempts = [attempt for attempt in book.attempts if attempt.id == told.id]
    case = Case(told, commits, versions, attempts, evidence)
    if [n for n, _ in stored] != list(range(1, len(stored) + 1)):
        case.fail(f"the history has gaps: {[n for n, _ in stored]}")
    return case
