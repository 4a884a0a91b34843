"""What must hold after a run: what clients were told, what histories say, and what really happened, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from romancy_nats.core.commit import Commit
from romancy_nats.core.definition import Workflow
from romancy_nats.core.events import (
    ActivityCompleted,
    ActivityFailed,
    ActivityScheduled,
    CancelRequested,
    MessageEvent,
    TimerFired,
    TimerStarted,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowFailed,
    WorkflowTerminated,
)
from romancy_nats.core.execution import Execution
from romancy_nats.core.headers import KIND
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.payload import ValueCodec
from romancy_nats.core.record import InstanceStatus
from romancy_nats.errors import RomancyError
from romancy_nats.testing.memory import Faults, MemoryServer
from tests.simulation.case import CONFLICT, Case, Told, collect
from tests.simulation.evidence import Evidence
from tests.simulation.laws import check_laws
from tests.simulation.laws_of_generations import check_generations
from tests.simulation.laws_of_waiting import COPIED, check_waiting
from tests.simulation.program import KINDS, undo
from tests.simulation.races import races
from tests.simulation.record import Ledgerbook

_STRINGS = ValueCodec[str](str)
_ENDINGS = (WorkflowCompleted, WorkflowFailed, WorkflowCancelled, WorkflowTerminated)
_TOLD = {
    InstanceStatus.COMPLETED: "completed",
    InstanceStatus.FAILED: "WorkflowFailedError",
    InstanceStatus.CANCELLED: "WorkflowCancelledError",
    InstanceStatus.TERMINATED: "WorkflowTerminatedError",
}
_BEFORE_ITS_START = (InstanceStatus.CANCELLED, InstanceStatus.TERMINATED)
_WRITES = ("lost_ack", "committed_error", "late_write", "lost_write", "no_responders", "outage")
_DELAYS = (*_WRITES, "pause", "slow")
MAX_ATTEMPTS = 4
_OURS = {undo.name, *KINDS}
"""Activities that keep a record outside."""
_IN_FLIGHT = 0.01


async def check(
    server: MemoryServer,
    book: Ledgerbook,
    told: Sequence[Told],
    versions: Sequence[Workflow[..., Any]],
    evidence: Evidence,
    faults: Faults,
    reached: Counter[str],
    archived: bool = False,
) -> list[str]:
    """All violations of a run, in words; what the run came to is counted in `reached`."""
    found: list[str] = []
    conflicts = 0
    for each in told:
        case = collect(server, book, each, versions[0].name, evidence)
        case.clocks_agree = not faults.clock_jump
        case.archived = archived
        case.troubled = any(faults.fired[name] for name in (*_WRITES, "crash", "drain"))
        if not any(getattr(faults, name) for name in _DELAYS):
            case.answered_within = 2 * faults.latency + 0.1
        conflicts += _rivals(case)
        check_case(case, versions)
        found += case.found
        reached.update(type(placed.event).__name__ for placed in case.events)
        reached.update({str(version.record.status) for version in case.versions})
        reached["takeover"] += len({v.record.owner for v in case.versions if v.record.owner}) > 1
        reached["conflict"] += told_of_conflict(each)
        reached["cancelled before its start"] += not case.commits
        reached.update(races(case))
    queues = (server.start_stream, server.messages_stream, server.timers_stream, server.events.stream)
    for stream in queues:
        if stream.messages:
            found.append(
                f"{stream.name} still holds {len(stream.messages)} messages: {list(stream.messages.values())[:2]}"
            )
    # Those that came after the end, and events that did not fit, are the affair of their instances.
    letters = [
        letter
        for letter in server.dead_stream.messages.values()
        if letter.headers.get(KIND) != "message" and COPIED not in letter.headers
    ]
    if len(letters) != conflicts:
        found.append(f"{len(letters)} dead letters for {conflicts} starts that lost: {letters[:2]}")
    found += _lives_once(evidence)
    return found


def _lives_once(evidence: Evidence) -> list[str]:
    """L4: an incarnation has one life. On R3 a renewal that was under way when the key expired may still land."""
    ended: dict[str, float] = {}
    found: list[str] = []
    for life in evidence.lives:
        if life.began > ended.get(life.incarnation, life.began) + _IN_FLIGHT:
            found.append(f"the lease key of {life.incarnation} ({life.label}) was created a second time (L4)")
        ended[life.incarnation] = life.ended
    return found


def told_of_conflict(told: Told) -> bool:
    """Whether one of two starts that differ was a conflict."""
    return CONFLICT in (told.outcome, told.rival.outcome if told.rival is not None else "")


def _rivals(case: Case) -> int:
    """Of two starts that differ one runs and the other is a conflict (L1). Returns how many letters that leaves."""
    told, rival = case.told, case.told.rival
    if rival is None:
        return 0
    if told.outcome == CONFLICT:
        told, rival = rival, told
    cancelled_first = not case.commits and case.record is not None and case.record.status in _BEFORE_ITS_START
    if not cancelled_first and (told.outcome == CONFLICT or rival.outcome != CONFLICT):
        case.fail(f"two starts that differ were told {told.outcome!r} and {rival.outcome!r}")
    if rival.cancelled is not None:
        told.cancelled = rival.cancelled
    case.told = told
    return 0 if cancelled_first else rival.starts


def check_case(case: Case, versions: Sequence[Workflow[..., Any]]) -> None:
    """Every rule, on one instance."""
    if not case.told.acknowledged:
        case.fail("its start was never acknowledged")
        return
    if case.record is None:
        case.fail("acknowledged, and there is no record")
        return
    _ended_once(case)
    _one_writer(case)
    check_generations(case, versions[0])
    _results_are_real(case)
    _all_attempts_used(case)
    _timers(case)
    _saga(case)
    _messages_once(case)
    check_laws(case)
    check_waiting(case)
    _client_was_told_the_truth(case)
    _replays(case, versions)


def _ended_once(case: Case) -> None:
    record = case.record
    assert record is not None
    endings = [placed for placed in case.events if isinstance(placed.event, _ENDINGS)]
    if not record.status.ended:
        case.fail(f"never ended: {record.status} {record.error[:300]}")
    elif not case.commits:
        if record.status not in _BEFORE_ITS_START:
            case.fail(f"{record.status} without any history")
    elif len(endings) != 1:
        case.fail(f"{len(endings)} endings in its history")
    elif case.events[-1].event is not endings[0].event:
        case.fail("its history goes on after the end")
    if record.owner:
        case.fail(f"still owned by {record.owner}")
    if case.versions[-1].commits != len(case.commits) or record.generation != case.last:
        case.fail(f"the record says {record.commits} commits, the history has {len(case.commits)}")


def _one_writer(case: Case) -> None:
    fences = [commit.fence for _, commit in case.commits]
    if fences != sorted(fences):
        case.fail(f"an older owner wrote after a newer one: fences {fences}")
    for stored, commit in case.commits:
        if stored.fence != commit.fence:
            case.fail("a commit was fenced on another revision than it says")
    times = [commit.time for _, commit in case.commits]
    if times != sorted(times):
        case.fail("time runs backwards in the history")
    ids = [commit.id for _, commit in case.commits]
    if len(ids) != len(set(ids)):
        case.fail("one commit is in its history twice")


def _results_are_real(case: Case) -> None:
    ended = {(a.activity_id, a.value) for a in case.attempts if a.value}
    names = {p.event.id: p.event.name for p in case.events if isinstance(p.event, ActivityScheduled)}
    seen: set[str] = set()
    for placed in case.events:
        event = placed.event
        if isinstance(event, ActivityCompleted | ActivityFailed):
            if event.id in seen:
                case.fail(f"{event.id} has two results")
            seen.add(event.id)
        if isinstance(event, ActivityCompleted) and names.get(event.id) in _OURS:
            value = _STRINGS.decode(event.result)
            if (event.id, value) not in ended:
                case.fail(f"the recorded result of {event.id} belongs to no attempt that ended: {value}")


def _all_attempts_used(case: Case) -> None:
    """An activity that fails for want of attempts really had them; none is tried more often than its policy says."""
    numbers: dict[str, set[int]] = {}
    for attempt in case.attempts:
        numbers.setdefault(attempt.activity_id, set()).add(attempt.number)
        if attempt.number > MAX_ATTEMPTS:
            case.fail(f"{attempt.activity_id} was tried {attempt.number} times")
    for placed in case.events:
        event = placed.event
        if (
            isinstance(event, ActivityFailed)
            and event.exhausted
            and len(numbers.get(event.id, ())) < MAX_ATTEMPTS
        ):
            case.fail(f"{event.id} was given up after attempts {numbers.get(event.id)}")


def _timers(case: Case) -> None:
    """Never early (L8), by the clock of the worker that said so."""
    due = {p.event.id: p.event.due for p in case.events if isinstance(p.event, TimerStarted)}
    for placed in case.events:
        event, said = placed.event, case.commits[placed.commit - 1][1].time
        if isinstance(event, TimerFired) and said < due.get(event.id, 1 << 62):
            case.fail(f"{event.id} fired {(due.get(event.id, 0) - said) / 1e6:.3f} s before it was due")


def _saga(case: Case) -> None:
    """Exactly the completed activities that have a compensation are undone, newest first, when it did not complete."""
    events = [placed.event for placed in case.events]
    undone = [e for e in events if isinstance(e, ActivityScheduled) and e.compensates]
    names = {e.id: e.name for e in events if isinstance(e, ActivityScheduled)}
    # What an earlier generation did is done: it recurred, and took nothing that it owes along.
    mine = [placed.event for placed in case.events if placed.generation == case.last]
    owed = [e.id for e in mine if isinstance(e, ActivityCompleted) and names.get(e.id) == "work"]
    if any(isinstance(e, WorkflowCompleted) for e in events):
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
    messages = [p.event for p in case.events if isinstance(p.event, MessageEvent)]
    places = [(event.stream, event.sequence) for event in messages]
    if len(places) != len(set(places)):
        case.fail("one message is in its history twice")
    ids = [event.message_id for event in messages if event.message_id]
    if len(ids) != len(set(ids)):
        case.fail("one message is in its history under two places")
    assert case.record is not None
    cancels = [event for event in messages if isinstance(event, CancelRequested)]
    if not cancels and case.commits and case.record.status is InstanceStatus.CANCELLED:
        case.fail("cancelled without a cancel")


def _client_was_told_the_truth(case: Case) -> None:
    told, record = case.told, case.record
    assert record is not None
    if record.status.ended and told.outcome != _TOLD.get(record.status):
        case.fail(
            f"the client was told {told.outcome!r} ({told.error[:200]}), the record says {record.status}"
        )
    endings = [p.event for p in case.events if isinstance(p.event, WorkflowCompleted)]
    if endings and told.outcome == "completed" and _STRINGS.decode(endings[0].result) != told.result:
        case.fail(f"the client was told the result {told.result!r}")


def _replays(case: Case, versions: Sequence[Workflow[..., Any]]) -> None:
    """L7: some version of the code gives what the history says."""
    for generation, history in enumerate(case.histories.commits):
        commits = [commit for _, commit in history]
        errors = [_mismatch(case.told.id, generation, commits, version) for version in versions]
        if None not in errors:
            case.fail(f"its history does not replay: {errors[0]}")


def _mismatch(
    id: str, generation: int, commits: Sequence[Commit], workflow: Workflow[..., Any]
) -> RomancyError | None:
    execution = Execution(workflow, InstanceKey(workflow.name, id), generation=generation)
    try:
        for commit in commits:
            execution.replay(commit)
    except RomancyError as error:
        return error
    finally:
        execution.evict()
    return None
