"""What must hold after a run: what clients were told, what the histories say, and what really happened, side by side."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from romancy_nats.core.commit import Commit
from romancy_nats.core.definition import Workflow
from romancy_nats.core.events import (
    ActivityCompleted,
    ActivityFailed,
    ActivityScheduled,
    CancelRequested,
    Event,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowFailed,
    WorkflowStarted,
    WorkflowTerminated,
)
from romancy_nats.core.execution import Execution
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.payload import ValueCodec
from romancy_nats.core.record import InstanceRecord, InstanceStatus
from romancy_nats.errors import RomancyError
from romancy_nats.testing.memory import MemoryServer
from romancy_nats.testing.memory.ledger import StoredCommit
from tests.simulation.record import Attempt, Ledgerbook

_STRINGS = ValueCodec[str](str)
_ENDINGS = (WorkflowCompleted, WorkflowFailed, WorkflowCancelled, WorkflowTerminated)
_TOLD = {
    InstanceStatus.COMPLETED: "completed",
    InstanceStatus.FAILED: "WorkflowFailedError",
    InstanceStatus.CANCELLED: "WorkflowCancelledError",
}


@dataclass(slots=True)
class Told:
    """What a client was told about one instance."""

    id: str
    program: list[Any]
    acknowledged: bool = False
    outcome: str = ""
    result: str = ""
    error: str = ""
    cancelled: bool | None = None
    conflicts: int = 0


@dataclass(slots=True)
class Placed:
    """An event with its place in the history and the time at which its commit was stored."""

    event: Event
    commit: int
    time: float


@dataclass(slots=True)
class Case:
    """Everything about one instance."""

    told: Told
    record: InstanceRecord | None
    commits: list[tuple[StoredCommit, Commit]]
    attempts: list[Attempt]
    found: list[str] = field(default_factory=list[str])

    @property
    def events(self) -> list[Placed]:
        return [
            Placed(event, n, stored.time)
            for n, (stored, commit) in enumerate(self.commits, 1)
            for event in commit.events
        ]

    def fail(self, text: str) -> None:
        self.found.append(f"{self.told.id}: {text}")


async def check(
    server: MemoryServer, book: Ledgerbook, told: list[Told], workflow: Workflow[..., Any]
) -> list[str]:
    """All violations of a run, in words."""
    found: list[str] = []
    for each in told:
        case = _case(server, book, each, workflow.name)
        check_case(case, workflow)
        found += case.found
    for name in ("start_stream", "messages_stream"):
        left = getattr(server, name).messages
        if left:
            found.append(f"{name} still holds {len(left)} messages: {list(left.values())[:2]}")
    return found


def _case(server: MemoryServer, book: Ledgerbook, told: Told, workflow: str) -> Case:
    key = InstanceKey(workflow, told.id)
    shard = server.shards[key.shard(len(server.shards))]
    versions = shard.records.get(key.token)
    record = InstanceRecord.decode(versions[-1].data) if versions else None
    stored = sorted(
        (place.n, kept) for place, kept in shard.commits.items() if place.token == key.token
    )
    commits = [(kept, Commit.decode(kept.data)) for _, kept in stored]
    case = Case(told, record, commits, [a for a in book.attempts if a.id == told.id])
    if [n for n, _ in stored] != list(range(1, len(stored) + 1)):
        case.fail(f"the history has gaps: {[n for n, _ in stored]}")
    return case


def check_case(case: Case, workflow: Workflow[..., Any]) -> None:
    """Every rule, on one instance."""
    if not case.told.acknowledged:
        case.fail("its start was never acknowledged")
        return
    if case.record is None:
        case.fail("acknowledged, and there is no record")
        return
    _ended_once(case)
    _one_writer(case)
    _results_are_real(case)
    _nothing_again(case)
    _saga(case)
    _messages_once(case)
    _client_was_told_the_truth(case)
    _replays(case, workflow)


def _ended_once(case: Case) -> None:
    record = case.record
    assert record is not None
    endings = [placed for placed in case.events if isinstance(placed.event, _ENDINGS)]
    if not record.status.ended:
        case.fail(f"never ended: {record.status} {record.error[:300]}")
    elif not case.commits:
        if record.status is not InstanceStatus.CANCELLED:
            case.fail(f"{record.status} without any history")
    elif len(endings) != 1:
        case.fail(f"{len(endings)} endings in its history")
    elif case.events[-1].event is not endings[0].event:
        case.fail("its history goes on after the end")
    if record.owner:
        case.fail(f"still owned by {record.owner}")
    if record.commits != len(case.commits):
        case.fail(f"the record says {record.commits} commits, the history has {len(case.commits)}")
    if case.commits and sum(isinstance(p.event, WorkflowStarted) for p in case.events) != 1:
        case.fail("not started exactly once")


def _one_writer(case: Case) -> None:
    fences = [commit.fence for _, commit in case.commits]
    if fences != sorted(fences):
        case.fail(f"an older owner wrote after a newer one: fences {fences}")
    for stored, commit in case.commits:
        if stored.fence != commit.fence:
            case.fail("a commit was fenced on another revision than it says")
    owners = [commit.incarnation for _, commit in case.commits]
    turns = [owner for n, owner in enumerate(owners) if n == 0 or owners[n - 1] != owner]
    if len(turns) != len(set(turns)):
        case.fail(f"an incarnation came back: {turns}")
    times = [commit.time for _, commit in case.commits]
    if times != sorted(times):
        case.fail("time runs backwards in the history")


def _results_are_real(case: Case) -> None:
    ended = {(a.activity_id, a.value) for a in case.attempts if a.value}
    seen: set[str] = set()
    for placed in case.events:
        event = placed.event
        if isinstance(event, ActivityCompleted | ActivityFailed):
            if event.id in seen:
                case.fail(f"{event.id} has two results")
            seen.add(event.id)
        if isinstance(event, ActivityCompleted):
            value = _STRINGS.decode(event.result)
            if (event.id, value) not in ended:
                case.fail(f"the recorded result of {event.id} belongs to no attempt that ended: {value}")


def _nothing_again(case: Case) -> None:
    """An attempt may not begin after the result was stored, unless a process that could not know began it."""
    stored = {p.event.id: p for p in case.events if isinstance(p.event, ActivityCompleted | ActivityFailed)}
    scheduled = {p.event.id: p for p in case.events if isinstance(p.event, ActivityScheduled)}
    for attempt in case.attempts:
        asked = scheduled.get(attempt.activity_id)
        if asked is None or attempt.began < asked.time:
            case.fail(f"{attempt.activity_id} began before it was committed (L2)")
        known = stored.get(attempt.activity_id)
        if known is not None and attempt.began > known.time and _owner_at(case, attempt.began) == attempt.process:
            case.fail(f"{attempt.activity_id} began again at {attempt.began:.3f} after its result at {known.time:.3f}")


def _owner_at(case: Case, time: float) -> str:
    """The process that had written the newest commit by then."""
    writers = [stored.process for stored, _ in case.commits if stored.time <= time]
    return writers[-1] if writers else ""


def _saga(case: Case) -> None:
    """Exactly the completed activities that have a compensation are undone, newest first, when it did not complete."""
    events = [placed.event for placed in case.events]
    completed = [e for e in events if isinstance(e, WorkflowCompleted)]
    undone = [e for e in events if isinstance(e, ActivityScheduled) and e.compensates]
    names = {e.id: e.name for e in events if isinstance(e, ActivityScheduled)}
    owed = [e.id for e in events if isinstance(e, ActivityCompleted) and names.get(e.id) == "work"]
    if completed:
        if undone:
            case.fail("completed, and compensated all the same")
        return
    if any(isinstance(e, WorkflowFailed | WorkflowCancelled) for e in events):
        if [e.compensates for e in undone] != owed[::-1]:
            case.fail(f"undone {[e.compensates for e in undone]}, owed {owed[::-1]}")
        over = {e.id for e in events if isinstance(e, ActivityCompleted | ActivityFailed)}
        if left := [e.id for e in undone if e.id not in over]:
            case.fail(f"ended before its compensations: {left}")


def _messages_once(case: Case) -> None:
    cancels = [p.event for p in case.events if isinstance(p.event, CancelRequested)]
    places = [(event.stream, event.sequence) for event in cancels]
    if len(places) != len(set(places)):
        case.fail("one cancel is in its history twice")
    ids = [event.message_id for event in cancels if event.message_id]
    if len(ids) != len(set(ids)):
        case.fail("one cancel is in its history under two places")
    assert case.record is not None
    if cancels and case.record.status is InstanceStatus.CANCELLED:
        return
    if not cancels and case.commits and case.record.status is InstanceStatus.CANCELLED:
        case.fail("cancelled without a cancel")


def _client_was_told_the_truth(case: Case) -> None:
    told, record = case.told, case.record
    assert record is not None
    if record.status.ended and told.outcome != _TOLD.get(record.status):
        case.fail(f"the client was told {told.outcome!r} ({told.error[:200]}), the record says {record.status}")
    endings = [p.event for p in case.events if isinstance(p.event, WorkflowCompleted)]
    if endings and told.outcome == "completed" and _STRINGS.decode(endings[0].result) != told.result:
        case.fail(f"the client was told the result {told.result!r}")


def _replays(case: Case, workflow: Workflow[..., Any]) -> None:
    if not case.commits:
        return
    execution = Execution(workflow, InstanceKey(workflow.name, case.told.id))
    try:
        for _, commit in case.commits:
            execution.replay(commit)
    except RomancyError as error:
        case.fail(f"its history does not replay: {error}")
    execution.evict()
