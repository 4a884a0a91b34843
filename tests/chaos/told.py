"""What a history and the lines of the record tell about one instance, side by side. Reads; does not judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from romancy_nats.core.commit import Commit
from romancy_nats.core.events import (
    ActivityAbandoned,
    ActivityCompleted,
    ActivityFailed,
    ActivityScheduled,
    CancelRequested,
    CompensationBegun,
    Event,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowFailed,
    WorkflowTerminated,
)
from romancy_nats.core.payload import ValueCodec
from tests.chaos.record import Kind, Line

ENDINGS: dict[type[Event], str] = {
    WorkflowCompleted: "completed",
    WorkflowFailed: "failed",
    WorkflowCancelled: "cancelled",
    WorkflowTerminated: "terminated",
}
VALUE = ValueCodec[str](str)


@dataclass(slots=True)
class Attempt:
    """One attempt that began. `outcome` is None when nothing was heard of it again."""

    begun: Line
    outcome: Kind | None = None
    over: int = 0


class Recorded(NamedTuple):
    """The recorded end of an activity. `value` is "" for a failure."""

    id: str
    attempt: int
    value: str
    commit: Commit


@dataclass(slots=True)
class Told:
    """One history. `to_undo`: activities completed before compensation began, in order of completion."""

    commits: Sequence[Commit]
    endings: list[str] = field(default_factory=list[str])
    ends_with_its_end: bool = False
    result: str = ""
    scheduled: dict[str, tuple[ActivityScheduled, Commit]] = field(default_factory=dict)  # type: ignore[type-arg]
    schedulings: Counter[str] = field(default_factory=Counter[str])
    abandoned: set[str] = field(default_factory=set[str])
    recorded: list[Recorded] = field(default_factory=list[Recorded])
    to_undo: list[str] = field(default_factory=list[str])
    undone: list[str] = field(default_factory=list[str])
    cancels: list[CancelRequested] = field(default_factory=list[CancelRequested])
    compensating: bool = False

    @property
    def end_of(self) -> dict[str, Recorded]:
        """The first recorded end of each activity."""
        return {one.id: one for one in reversed(self.recorded)}


def tell(history: Sequence[Commit]) -> Told:
    """Read a history."""
    told = Told(history)
    for commit in history:
        for event in commit.events:
            _note(told, commit, event)
            told.ends_with_its_end = type(event) in ENDINGS
    return told


def _note(told: Told, commit: Commit, event: Event) -> None:
    match event:
        case ActivityScheduled():
            told.scheduled.setdefault(event.id, (event, commit))
            told.schedulings[event.id] += 1
            if event.compensates:
                told.undone.append(event.compensates)
        case ActivityCompleted():
            told.recorded.append(Recorded(event.id, event.attempt, VALUE.decode(event.result), commit))
            if not told.compensating:
                told.to_undo.append(event.id)
        case ActivityFailed():
            told.recorded.append(Recorded(event.id, event.attempt, "", commit))
        case ActivityAbandoned():
            told.abandoned.add(event.id)
        case CancelRequested():
            told.cancels.append(event)
        case CompensationBegun():
            told.compensating = True
        case _:
            _note_ending(told, event)


def _note_ending(told: Told, event: Event) -> None:
    if type(event) in ENDINGS:
        told.endings.append(ENDINGS[type(event)])
    if isinstance(event, WorkflowCompleted):
        told.result = VALUE.decode(event.result)


def attempts(lines: Iterable[Line]) -> dict[tuple[str, str], list[Attempt]]:
    """The attempts of each instance (workflow, id), in the order in which they began."""
    found: dict[tuple[str, str], list[Attempt]] = {}
    by_value: dict[str, Attempt] = {}
    for line in lines:
        if line.kind == "begin":
            attempt = by_value[f"{line.workflow}/{line.id}/{line.value}"] = Attempt(line)
            found.setdefault((line.workflow, line.id), []).append(attempt)
        elif known := by_value.get(f"{line.workflow}/{line.id}/{line.value}"):
            known.outcome, known.over = line.kind, line.wall
    return found
