"""Which races a run really had: counted, so that a test run without one of them proves nothing and fails."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from romancy_nats.core.events import (
    CancelRequested,
    EventReceived,
    MessageReceived,
    TimerFired,
    TimerStarted,
    UpdateAnswered,
    UpdateRequested,
    WorkflowCompleted,
)
from romancy_nats.core.headers import KIND, MESSAGE_ID
from romancy_nats.core.waits import EVENT
from romancy_nats.testing.memory.store import EPOCH
from tests.simulation.case import Case, Placed
from tests.simulation.histories import last_words
from tests.simulation.laws_of_waiting import Wait, waits_of

RACES = (
    "event before its registration",
    "event at its registration",
    "event beats timeout",
    "timeout beats event",
    "cancel beats completion",
    "completion beats cancel",
    "message against rest",
    "two workers for one message",
    "takeover while forwarding",
    "timer from the server",
    "retry from the server",
    "message after the end",
    "read from the archive",
    "archived by another worker",
    "update carried over",
)
_CLOSE = 0.5
"""Seconds within which two things count as a race."""


def races(case: Case) -> Counter[str]:
    """How often each happened to one instance."""
    found: Counter[str] = Counter()
    for wait in waits_of(case).values():
        _of_a_wait(case, wait, found)
    _of_a_cancel(case, found)
    _of_a_rest(case, found)
    _of_workers(case, found)
    _of_timers(case, found)
    said = [said for said in case.told.said if said.kind in ("message", "update") and said.refused]
    found["message after the end"] += len(said)
    found["read from the archive"] += bool(case.told.reread and case.cleared)
    asked = {p.event.id: p.generation for p in case.events if isinstance(p.event, UpdateRequested)}
    answered = [p for p in case.events if isinstance(p.event, UpdateAnswered) and not p.event.rejected]
    found["update carried over"] += sum(p.generation > asked.get(p.event.id, p.generation) for p in answered)
    enders = [v.process for v in case.versions if v.record.status.ended]
    found["archived by another worker"] += len(set(enders)) > 1
    return found


def _of_a_wait(case: Case, wait: Wait, found: Counter[str]) -> None:
    one = min(wait.registered, key=lambda each: each.sequence, default=None)
    if one is None:
        return
    for event in case.evidence.kept.events.values():
        fits = event.type == one.heard.type and one.heard.key in (None, event.key)
        if fits and event.sequence < one.sequence and event.time >= wait.begun.time - _CLOSE:
            found["event before its registration"] += 1
        elif fits and event.sequence > one.sequence and event.time <= one.time + _CLOSE:
            found["event at its registration"] += 1
    due = _timeout(case, wait)
    if due is None or wait.ended is None:
        return
    sent = _sent_to(case, wait)
    if wait.heard and abs(wait.heard[-1].time - due) < _CLOSE:
        found["event beats timeout"] += 1
    elif not wait.heard and sent:
        # It was on its way to a wait that gave up meanwhile.
        found["timeout beats event"] += 1


def _sent_to(case: Case, wait: Wait) -> list[float]:
    ending = last_words(wait.begun.generation, wait.started.id)
    return [
        case.evidence.published[source]
        for source, message in case.evidence.messages.items()
        if message.id == case.told.id
        and message.headers.get(KIND) == EVENT
        and message.headers.get(MESSAGE_ID, "").endswith(ending)
    ]


def _timeout(case: Case, wait: Wait) -> float | None:
    """When the wait gives up: its timer begins in the same commit."""
    for placed in case.events:
        if placed.commit == wait.begun.commit and isinstance(placed.event, TimerStarted):
            return placed.event.due / 1_000_000 - EPOCH
    return None


def _of_a_cancel(case: Case, found: Counter[str]) -> None:
    last = case.events[-1] if case.events else None
    for source, message in case.evidence.messages.items():
        if message.id != case.told.id or message.headers.get(KIND) != "cancel" or last is None:
            continue
        if isinstance(last.event, WorkflowCompleted):
            found["completion beats cancel"] += abs(case.evidence.published[source] - last.time) < 5.0
    if any(isinstance(p.event, CancelRequested) for p in case.events) and last is not None:
        found["cancel beats completion"] += not isinstance(last.event, WorkflowCompleted)


def _of_a_rest(case: Case, found: Counter[str]) -> None:
    """Something came while the instance was owned, and the next owner recorded it: the rest did not see it."""
    arrived = (EventReceived, MessageReceived, UpdateRequested)
    came: list[tuple[float, Placed]] = []
    for placed in case.events:
        if isinstance(placed.event, arrived):
            for source, time in case.evidence.published.items():
                if (source.stream, source.sequence) == (placed.event.stream, placed.event.sequence):
                    came.append((time, placed))
    for before, after in pairwise(case.versions):
        if before.record.owner and not after.record.owner:
            for time, placed in came:
                close = max(before.time, after.time - _CLOSE) <= time <= after.time
                found["message against rest"] += close and placed.time > after.time


def _of_workers(case: Case, found: Counter[str]) -> None:
    for source, processes in case.evidence.kept.handled.items():
        message = case.evidence.messages.get(source)
        if message is not None and message.id == case.told.id:
            removed = case.evidence.removed.get(source, float("inf"))
            found["two workers for one message"] += sum(time < removed for time in processes.values()) > 1
    owners = [
        after.time
        for before, after in pairwise(case.versions)
        if after.record.owner and after.record.owner != before.record.owner
    ]
    for forward in case.evidence.kept.forwards:
        if forward.key.id == case.told.id:
            found["takeover while forwarding"] += any(forward.began < t <= forward.ended for t in owners)


def _of_timers(case: Case, found: Counter[str]) -> None:
    """The instance was at rest when its time came."""
    for version in case.versions:
        due = version.record.next_due / 1_000_000 - EPOCH if version.record.next_due else 0.0
        if version.record.owner or not due or not version.time < due <= version.until:
            continue
        after = [p for p in case.events if p.commit == version.commits + 1]
        if any(isinstance(p.event, TimerFired) for p in after):
            found["timer from the server"] += 1
        elif version.record.waiting_for and any(w.startswith("retry:") for w in version.record.waiting_for):
            found["retry from the server"] += 1
