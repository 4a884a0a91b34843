"""Holds every history against the external record. Pure: no clock, no files, no network, no screen.

Exactly once is a statement about histories: each order has one ending, each activity one recorded result. What the
activities really did is at least once, and only in one window: what was in flight when a worker died.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from attempt import Attempt, attempts
from entry import Entry
from told import Told, tell

from romancy_nats.core.commit import Commit


class Fault(StrEnum):
    """What can be wrong."""

    MISSING_ORDER = "order without a history"
    UNKNOWN_ORDER = "history without an order"
    MISSING_END = "order did not end"
    DOUBLE_END = "order ended more than once"
    WRONG_END = "order ended otherwise than it should"
    TWO_RESULTS = "activity with more than one recorded result"
    UNENDED_RESULT = "result of an attempt that never ended"
    EFFECT_BEFORE_COMMIT = "activity begun before its command was recorded"
    BEGUN_AFTER_RESULT = "activity begun after its result was recorded"
    RAN_AGAIN = "activity ran again without a crash"
    MIXED_KEYS = "idempotency key not one per activity"
    COMPENSATION_MISSING = "compensation missing"
    COMPENSATION_EXTRA = "compensation that nothing asks for"
    COMPENSATION_ORDER = "compensations not in reverse order"


class Violation(NamedTuple):
    fault: Fault
    order: str
    text: str


@dataclass(slots=True)
class Verdict:
    """What was found. `window` holds the attempts that a killed worker had in flight, and that ran again or not."""

    violations: list[Violation] = field(default_factory=list[Violation])
    window: list[Attempt] = field(default_factory=list[Attempt])
    retried: int = 0
    interrupted: int = 0
    results: int = 0
    ended_once: int = 0


def check(
    expected: Mapping[str, str],
    histories: Mapping[str, Sequence[Commit]],
    entries: Sequence[Entry],
    *,
    deaths: Mapping[int, int],
    compensated_by: Mapping[str, str],
) -> Verdict:
    """Compare. `expected`: order -> how it ends (completed, failed, cancelled). `deaths`: pid -> µs of its SIGKILL.
    `compensated_by`: name of an activity -> name of its compensation."""
    verdict = Verdict()
    known = attempts(entries)
    verdict.violations += [
        Violation(Fault.UNKNOWN_ORDER, order, "nobody placed this order")
        for order in sorted({*histories, *(order for order, _ in known)} - expected.keys())
    ]
    for order, ending in expected.items():
        if order not in histories:
            verdict.violations.append(Violation(Fault.MISSING_ORDER, order, "no instance has this id"))
            continue
        told = tell(histories[order])
        of_order = {id: found for (whose, id), found in known.items() if whose == order}
        ends = list(_ending(order, ending, told))
        verdict.ended_once += not ends
        verdict.results += len(told.results)
        verdict.violations += ends
        verdict.violations += _results(order, told, of_order)
        verdict.violations += _attempts(order, told, of_order, deaths, verdict)
        verdict.violations += _compensations(order, told, of_order, compensated_by)
    verdict.violations += _keys(entries)
    return verdict


def _ending(order: str, expected: str, told: Told) -> Iterator[Violation]:
    if not told.endings:
        yield Violation(Fault.MISSING_END, order, "its history has no end")
    elif len(told.endings) > 1:
        yield Violation(Fault.DOUBLE_END, order, " and ".join(told.endings))
    elif told.endings[0] != expected:
        yield Violation(Fault.WRONG_END, order, f"{told.endings[0]}, not {expected}")
    elif not told.ends_with_its_end:
        yield Violation(Fault.DOUBLE_END, order, "its history goes on after the end")


def _results(order: str, told: Told, known: Mapping[str, Sequence[Attempt]]) -> Iterator[Violation]:
    for id, number in told.times_completed.items():
        if number > 1:
            yield Violation(Fault.TWO_RESULTS, order, f"{id} was recorded {number} times")
    for id, result in told.results.items():
        if _source(known.get(id, ()), result.attempt, result.time) is None:
            yield Violation(Fault.UNENDED_RESULT, order, f"{id}, attempt {result.attempt}")


def _source(found: Sequence[Attempt], number: int, recorded: int) -> Attempt | None:
    """The attempt that a recorded result comes from: the last one of that number that had ended by then."""
    fitting = [
        attempt
        for attempt in found
        if attempt.begun.attempt == number and attempt.outcome == "end" and attempt.over <= recorded
    ]
    return fitting[-1] if fitting else None


def _attempts(
    order: str,
    told: Told,
    known: Mapping[str, Sequence[Attempt]],
    deaths: Mapping[int, int],
    verdict: Verdict,
) -> Iterator[Violation]:
    cancelled = "cancelled" in told.endings
    for id, found in known.items():
        scheduled = told.scheduled.get(id)
        result = told.results.get(id)
        source = _source(found, result.attempt, result.time) if result else None
        for attempt in found:
            begun = attempt.begun
            where = f"{id}, attempt {begun.attempt}, process {begun.pid}"
            if scheduled is None or begun.wall < scheduled.time:
                yield Violation(Fault.EFFECT_BEFORE_COMMIT, order, where)
            elif result is not None and begun.wall > result.time:
                yield Violation(Fault.BEGUN_AFTER_RESULT, order, where)
            elif attempt is not source and not _explained(attempt, deaths, cancelled, verdict):
                yield Violation(Fault.RAN_AGAIN, order, where)


def _explained(attempt: Attempt, deaths: Mapping[int, int], cancelled: bool, verdict: Verdict) -> bool:
    """Whether there is a good reason for an attempt whose result is not the recorded one."""
    killed = deaths.get(attempt.begun.pid)
    if attempt.outcome == "failed":
        verdict.retried += 1
    elif cancelled and attempt.outcome == "interrupted":
        verdict.interrupted += 1
    elif killed is not None and attempt.begun.wall <= killed:
        verdict.window.append(attempt)
    elif cancelled:
        verdict.interrupted += 1
    else:
        return False
    return True


def _compensations(
    order: str,
    told: Told,
    known: Mapping[str, Sequence[Attempt]],
    compensated_by: Mapping[str, str],
) -> Iterator[Violation]:
    due: list[str] = []
    if "completed" not in told.endings:
        due = [id for id in told.to_undo if told.scheduled[id].name in compensated_by][::-1]
    yield from _compare(order, "history", [undone for undone, _ in told.compensations], due)
    for undone, id in told.compensations:
        if undone in due and id not in told.results:
            yield Violation(Fault.COMPENSATION_MISSING, order, f"{id} was asked for and never completed")
    undoing = set(compensated_by.values())
    # `known` is in the order in which the activities first began.
    really = [
        _undone(id, told) for id, found in known.items() if found and found[0].begun.activity in undoing
    ]
    yield from _compare(order, "record", really, due)


def _undone(id: str, told: Told) -> str:
    scheduled = told.scheduled.get(id)
    return scheduled.compensates if scheduled is not None else id


def _compare(order: str, where: str, found: Sequence[str], due: Sequence[str]) -> Iterator[Violation]:
    for id in due:
        if id not in found:
            yield Violation(Fault.COMPENSATION_MISSING, order, f"{where}: {id} was not undone")
    for position, id in enumerate(found):
        if id not in due or id in found[:position]:
            yield Violation(Fault.COMPENSATION_EXTRA, order, f"{where}: {id} was undone")
    if sorted(found) == sorted(due) and list(found) != list(due):
        text = f"{where}: {', '.join(found)} instead of {', '.join(due)}"
        yield Violation(Fault.COMPENSATION_ORDER, order, text)


def _keys(entries: Sequence[Entry]) -> Iterator[Violation]:
    """Every attempt of an activity shows the same idempotency key, and no other activity shows it."""
    owner: dict[str, tuple[str, str]] = {}
    key_of: dict[tuple[str, str], str] = {}
    for entry in entries:
        activity = (entry.order, entry.activity_id)
        key = entry.idempotency_key
        if owner.setdefault(key, activity) != activity or key_of.setdefault(activity, key) != key:
            yield Violation(Fault.MIXED_KEYS, entry.order, f"{entry.activity_id}: {key}")
