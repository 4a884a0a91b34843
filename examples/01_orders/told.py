"""What a history tells, in the terms in which it is compared with the record. Reads; does not judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from romancy_nats.core.commit import Commit
from romancy_nats.core.events import (
    ActivityCompleted,
    ActivityScheduled,
    CompensationBegun,
    Event,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowFailed,
    WorkflowTerminated,
)

ENDINGS: dict[type[Event], str] = {
    WorkflowCompleted: "completed",
    WorkflowFailed: "failed",
    WorkflowCancelled: "cancelled",
    WorkflowTerminated: "terminated",
}


class Scheduled(NamedTuple):
    name: str
    compensates: str
    time: int


class Result(NamedTuple):
    attempt: int
    time: int
    incarnation: str


@dataclass(slots=True)
class Told:
    """`to_undo`: ids of the activities completed before compensation began, in order of completion."""

    endings: list[str] = field(default_factory=list[str])
    ends_with_its_end: bool = False
    scheduled: dict[str, Scheduled] = field(default_factory=dict[str, Scheduled])
    results: dict[str, Result] = field(default_factory=dict[str, Result])
    times_completed: dict[str, int] = field(default_factory=dict[str, int])
    to_undo: list[str] = field(default_factory=list[str])
    compensations: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])


def tell(history: Sequence[Commit]) -> Told:
    """Read a history."""
    told = Told()
    compensating = False
    for commit in history:
        for event in commit.events:
            compensating = compensating or isinstance(event, CompensationBegun)
            _note(told, commit, event, compensating)
            told.ends_with_its_end = type(event) in ENDINGS
    return told


def _note(told: Told, commit: Commit, event: Event, compensating: bool) -> None:
    if isinstance(event, ActivityScheduled):
        told.scheduled[event.id] = Scheduled(event.name, event.compensates, commit.time)
        if event.compensates:
            told.compensations.append((event.compensates, event.id))
    elif isinstance(event, ActivityCompleted):
        told.times_completed[event.id] = told.times_completed.get(event.id, 0) + 1
        told.results.setdefault(event.id, Result(event.attempt, commit.time, commit.incarnation))
        if not compensating:
            told.to_undo.append(event.id)
    elif type(event) in ENDINGS:
        told.endings.append(ENDINGS[type(event)])
