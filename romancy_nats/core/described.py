"""What a history says of its instance to people: activities without a result, and how it failed. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from romancy_nats.core.commit import Commit
from romancy_nats.core.events import (
    ActivityAbandoned,
    ActivityAttemptFailed,
    ActivityCompleted,
    ActivityFailed,
    ActivityScheduled,
    Ending,
    WorkflowFailed,
)
from romancy_nats.core.failure import Failure
from romancy_nats.core.shown import shown_text, shown_value, traceback_text
from romancy_nats.errors import PayloadError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True, frozen=True)
class PendingActivityInfo:
    """An activity that has begun, or waits for its next attempt, and has no result yet.

    `attempt` counts from 1: the attempt that runs, or the next one. `last_error` is "" as long as no failed attempt is
    recorded, else class and message. `next_attempt` is None where the attempt runs already, or begins within moments.
    `heartbeat` is what the last recorded attempt said last, as JSON-like data. `compensates` is the id of the activity
    that it undoes, "" for none.
    """

    id: str
    name: str
    attempt: int = 1
    last_error: str = ""
    next_attempt: datetime | None = None
    heartbeat: object = None
    since: datetime | None = None
    compensates: str = ""


def pending_activities(commits: Iterable[Commit]) -> tuple[PendingActivityInfo, ...]:
    """The activities without a result, in the order in which they were scheduled."""
    pending: dict[str, PendingActivityInfo] = {}
    for commit in commits:
        for event in commit.events:
            match event:
                case ActivityScheduled(id, name, _, compensates):
                    since = moment(commit.time)
                    pending[id] = PendingActivityInfo(id, name, since=since, compensates=compensates)
                case ActivityCompleted(id) | ActivityFailed(id) | ActivityAbandoned(id):
                    pending.pop(id, None)
                case ActivityAttemptFailed() if event.id in pending:
                    pending[event.id] = _tried(pending[event.id], event)
                case _:
                    if isinstance(event, Ending):
                        pending.clear()
    return tuple(pending.values())


def _tried(known: PendingActivityInfo, failed: ActivityAttemptFailed) -> PendingActivityInfo:
    return replace(
        known,
        attempt=failed.attempt + 1,
        last_error=_short(failed.failure),
        next_attempt=moment(failed.retry_at) if failed.retry_at else None,
        heartbeat=shown_value(failed.heartbeat) if failed.heartbeat else known.heartbeat,
    )


def _short(data: bytes) -> str:
    try:
        failure = Failure.decode(data)
    except PayloadError as error:
        return str(error)
    return shown_text(f"{failure.error_type}: {failure.message}")


def failure_text(commits: Sequence[Commit]) -> str:
    """The traceback of the failure that the history ends with, "" when it ends with none."""
    ending = commits[-1].events[-1] if commits and commits[-1].events else None
    if not isinstance(ending, WorkflowFailed):
        return ""
    try:
        return traceback_text(Failure.decode(ending.failure), _last_failure(commits))
    except PayloadError:
        return ""


def _last_failure(commits: Sequence[Commit]) -> bytes:
    compensations: set[str] = set()
    found = b""
    for commit in commits:
        for event in commit.events:
            if isinstance(event, ActivityScheduled) and event.compensates:
                compensations.add(event.id)
            elif isinstance(event, ActivityFailed) and event.id not in compensations:
                found = event.failure
    return found


def moment(micros: int) -> datetime:
    """The time, in UTC, so many µs after the epoch."""
    return _EPOCH + timedelta(microseconds=micros)
