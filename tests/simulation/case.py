"""Everything about one instance side by side: what clients were told, history, records, and what really happened."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import msgpack

from romancy_nats.core.commit import Commit
from romancy_nats.core.events import Event
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.record import InstanceRecord
from romancy_nats.testing.memory import MemoryServer
from romancy_nats.testing.memory.ledger import Place, Shard, StoredCommit
from tests.simulation.evidence import Evidence
from tests.simulation.histories import Histories, histories, named, renamed
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
    """Counted through all generations."""
    time: float
    generation: int = 0


@dataclass(slots=True)
class Version:
    """A record as it was from `time` on, until the next version."""

    record: InstanceRecord
    revision: int
    process: str
    time: float
    until: float = float("inf")
    commits: int = 0
    """How many it covers, those of earlier generations included."""
    begins: bool = False
    """Whether it is the first that names its generation."""

    @property
    def settles(self) -> bool:
        """Whether what it covers may be acked: at rest, or when the next generation has what was seen before (L5)."""
        return self.begins or not self.record.owner


@dataclass
class Case:
    """One instance, for the rules."""

    told: Told
    histories: Histories
    versions: list[Version]
    attempts: list[Attempt]
    evidence: Evidence
    clocks_agree: bool = True
    answered_within: float = float("inf")
    troubled: bool = False
    """Whether workers died or went, or writes were lost, so that what is tried once need not have happened."""
    cleared: dict[Place, float] = field(default_factory=dict[Place, float])
    """When commits left the ledger."""
    left: list[Place] = field(default_factory=list[Place])
    """Commits of generations that are over and are in the ledger all the same."""
    archived: bool = False
    """Whether it has to be archived by now."""
    token: str = ""
    found: list[str] = field(default_factory=list[str])

    @property
    def record(self) -> InstanceRecord | None:
        return self.versions[-1].record if self.versions else None

    @cached_property
    def commits(self) -> list[tuple[StoredCommit, Commit]]:
        return [(stored, commit) for _, stored, commit in self.histories.all()]

    @cached_property
    def events(self) -> list[Placed]:
        return [
            Placed(renamed(event, generation), n, stored.time, generation)
            for n, (generation, stored, commit) in enumerate(self.histories.all(), 1)
            for event in commit.events
        ]

    @property
    def last(self) -> int:
        """The last generation that its history knows."""
        return max(0, len(self.histories.commits) - 1)

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
        later.begins = earlier.record.generation < later.record.generation
    attempts = [
        replace(attempt, activity_id=named(attempt.generation, attempt.activity_id))
        for attempt in book.attempts
        if attempt.id == told.id
    ]
    case = Case(told, Histories(), versions, attempts, evidence, token=key.token)
    stored = {place: kept for place, kept in shard.commits.items() if place.token == key.token}
    case.histories = histories(_cleared(case, server, shard) | stored)
    if case.histories.gaps:
        case.fail(f"the history has gaps: {sorted(stored)}")
    if case.record is not None:
        case.left = [place for place in stored if place.generation < case.record.generation]
    for version in versions:
        version.commits = case.histories.before(version.record.generation) + version.record.commits
    return case


def _cleared(case: Case, server: MemoryServer, shard: Shard) -> dict[Place, StoredCommit]:
    """What left the ledger: generations that recurred as they were, the last one as the archive has it now."""
    commits, record = shard.commits, case.record
    if not isinstance(commits, Commits) or record is None:
        return {}
    cleared = {place: kept for place, kept in commits.cleared.items() if place.token == case.token}
    case.cleared = {place: time for place, (_, time) in cleared.items()}
    found = {place: kept for place, (kept, _) in cleared.items() if place.generation < record.generation}
    last = sorted(cleared.keys() - found.keys())
    if not last:
        return found
    archived = [
        data for place in record.archived for data in msgpack.unpackb(server.archived.get(place, b"\x90"))
    ]
    if archived != [cleared[place][0].data for place in last]:
        case.fail(f"the archive holds {len(archived)} commits, not the {len(last)} that were cleared")
    for place, data in zip(last, archived, strict=False):
        found[place] = cleared[place][0]._replace(data=data)
    return found
