"""What a client can know about an instance: `InstanceInfo`, from its record and its history."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from romancy_nats.core.commit import Commit
from romancy_nats.core.described import PendingActivityInfo
from romancy_nats.core.events import ActivityCompleted, ActivityFailed, ActivityScheduled
from romancy_nats.core.failure import Failure
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.record import InstanceRecord, InstanceStatus
from romancy_nats.core.times import utc


@dataclass(slots=True, frozen=True)
class CompensationInfo:
    """One compensation of an instance: what it undoes, and whether it is done, failed or still to come."""

    activity_id: str
    name: str
    status: str
    error: str = ""


@dataclass(slots=True, frozen=True)
class InstanceInfo:
    """What is known about an instance."""

    id: str
    workflow: str
    status: InstanceStatus
    generation: int = 0
    created_at: datetime | None = None
    started_at: datetime | None = None
    updated_at: datetime | None = None
    ended_at: datetime | None = None
    owner: str | None = None
    error: str | None = None
    error_type: str | None = None
    compensations: tuple[CompensationInfo, ...] = ()
    waiting_for: tuple[str, ...] = ()
    parent: str | None = None
    attributes: dict[str, Any] | None = None
    memo: dict[str, Any] | None = None
    takeovers: int = 0
    skipped: int = 0
    """How many events and messages did not fit and were parked in the dead letters, as of its last rest."""
    pending_activities: tuple[PendingActivityInfo, ...] = ()


def instance_info(
    key: InstanceKey, record: InstanceRecord, compensations: tuple[CompensationInfo, ...] = ()
) -> InstanceInfo:
    """The public view of a record."""
    return InstanceInfo(
        id=key.id,
        workflow=key.workflow,
        status=record.status,
        generation=record.generation,
        created_at=_moment(record.created),
        started_at=_moment(record.started),
        updated_at=_moment(record.updated),
        ended_at=_moment(record.ended),
        owner=record.owner or None,
        error=record.error or None,
        error_type=record.error_type or None,
        compensations=compensations,
        waiting_for=tuple(record.waiting_for),
        parent=record.parent or None,
        attributes=dict(record.attributes),
        memo=dict(record.memo),
        takeovers=record.takeovers,
        skipped=record.skipped,
    )


def compensations(commits: list[Commit]) -> tuple[CompensationInfo, ...]:
    """The compensations that a history knows of, in the order in which they were scheduled."""
    found: dict[str, CompensationInfo] = {}
    for commit in commits:
        for event in commit.events:
            if isinstance(event, ActivityScheduled) and event.compensates:
                found[event.id] = CompensationInfo(event.compensates, event.name, "scheduled")
            elif isinstance(event, ActivityCompleted) and (known := found.get(event.id)):
                found[event.id] = CompensationInfo(known.activity_id, known.name, "completed")
            elif isinstance(event, ActivityFailed) and (known := found.get(event.id)):
                failure = Failure.decode(event.failure)
                text = f"{failure.error_type}: {failure.message}"
                found[event.id] = CompensationInfo(known.activity_id, known.name, "failed", text)
    return tuple(found.values())


def _moment(micros: int) -> datetime | None:
    return utc(micros) if micros else None
