"""Holds what clients were told, the histories and the external record against each other. Pure; no I/O, no clock.

Exactly once is a statement about histories. What activities did is at least once, and twice only in one window: begun
and not recorded when their worker was killed, paused past its lease, or let go. The window is counted, never excused
without a fault.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

from tests.chaos.evidence import Evidence, Fault, Key, Op
from tests.chaos.told import Attempt, Told, attempts, tell


class Rule(StrEnum):
    """What can be wrong."""

    LOST = "an acknowledged start has no history"
    NO_END = "an instance did not end"
    TWO_ENDS = "an instance ended more than once, or went on after its end"
    STATUS = "the record says another status than the history"
    TOLD_WRONG = "a client was told something else than the history holds"
    UNKNOWN = "the record knows an instance that nobody started"
    RECORDED_TWICE = "an activity was scheduled or recorded more than once"
    UNPROVEN = "a recorded result belongs to no attempt that ended with it"
    ECHO = "an attempt was given a value that its history did not hold"
    EFFECT_FIRST = "an attempt began before its command was committed"
    BEGUN_AFTER = "the owner began an activity after its result was recorded"
    RAN_AGAIN = "an attempt is neither recorded nor explained by a fault"
    FENCE = "commits of two owners are interleaved, or a fence went back"
    DEAD_COMMIT = "a commit under a lease that was lost before"
    NOT_UNDONE = "what was completed was not undone exactly once"
    UNDO_ORDER = "compensations ran in another order than the reverse"
    CANCEL_LOST = "an accepted cancel is not in the history"
    CANCEL_TWICE = "a cancel is in the history twice"
    LEFT = "something is left in a queue"
    DEAD_OWNER = "a record is owned by a lease that is gone"
    REPLAY = "the history does not replay with the code that made it"


class Violation(NamedTuple):
    rule: Rule
    where: str
    text: str


@dataclass(slots=True)
class Verdict:
    """What was found. `window`: attempts that a fault kept from being recorded.

    `recoveries`: seconds from a kill to the next owner, per instance; `mixed_recoveries`: with another fault meanwhile.
    """

    violations: list[Violation] = field(default_factory=list[Violation])
    window: list[Attempt] = field(default_factory=list[Attempt])
    counts: Counter[str] = field(default_factory=Counter[str])
    recoveries: list[float] = field(default_factory=list[float])
    mixed_recoveries: list[float] = field(default_factory=list[float])


@dataclass(slots=True)
class Case:
    """One instance, from every side."""

    key: Key
    told: Told
    attempts: Sequence[Attempt]
    evidence: Evidence
    gone: Mapping[str, int]
    dead: Mapping[str, int]
    verdict: Verdict

    def wrong(self, rule: Rule, text: str) -> Violation:
        return Violation(rule, "/".join(self.key), text)


def check(evidence: Evidence) -> Verdict:
    """Apply every rule."""
    verdict = Verdict()
    gone = gone_at(evidence)
    dead = dead_at(evidence, gone)
    done = attempts(evidence.lines)
    found = verdict.violations
    cancelled = {op.key for op in evidence.ops if op.what == "cancel" and op.outcome != "fail"}
    for key in sorted(acknowledged(evidence.ops) - evidence.histories.keys()):
        summary = evidence.summaries.get(key)
        if summary is None or summary.status != "cancelled" or key not in cancelled:
            found.append(Violation(Rule.LOST, "/".join(key), "its start was acknowledged"))
        else:
            verdict.counts["cancelled before the first claim"] += 1
    known = {op.key for op in evidence.ops if op.what == "start"}
    for key in sorted({*evidence.histories, *done} - known):
        found.append(Violation(Rule.UNKNOWN, "/".join(key), "no client started it"))
    for key, history in evidence.histories.items():
        case = Case(key, tell(history), done.get(key, ()), evidence, gone, dead, verdict)
        for rule in RULES:
            found.extend(rule(case))
        verdict.counts["workflows"] += 1
        verdict.counts["results"] += len(case.told.recorded)
        verdict.counts[case.told.endings[0] if case.told.endings else "unended"] += 1
    found.extend(_told(evidence))
    found.extend(_left(evidence))
    found.extend(Violation(Rule.REPLAY, "/".join(key), text) for key, text in evidence.replay_errors.items())
    for seconds, alone in recoveries(evidence):
        (verdict.recoveries if alone else verdict.mixed_recoveries).append(seconds)
    verdict.recoveries.sort()
    verdict.mixed_recoveries.sort()
    return verdict


def acknowledged(ops: Sequence[Op]) -> set[Key]:
    """Instances whose start a client was told to be durable."""
    return {op.key for op in ops if op.what == "start" and op.outcome == "ok"}


def gone_at(evidence: Evidence) -> dict[str, int]:
    """When each incarnation stopped being one: killed, drained, or found that its lease was lost."""
    gone: dict[str, int] = {}
    of_pid: dict[int, list[str]] = {}
    for life in evidence.lives:
        if life.kind == "taken":
            of_pid.setdefault(life.pid, []).append(life.incarnation)
        else:
            gone.setdefault(life.incarnation, life.wall)
    for fault in evidence.faults:
        if fault.what == "kill" and fault.pid in of_pid:
            last = of_pid[fault.pid][-1]
            gone[last] = min(gone.get(last, fault.begin), fault.begin)
    return gone


def dead_at(evidence: Evidence, gone: Mapping[str, int]) -> dict[str, int]:
    """From when on each incarnation must not commit: a pause past the lease ends it before the worker can know."""
    dead = dict(gone)
    ttl = int(evidence.lease_ttl * 1_000_000)
    for fault in evidence.faults:
        if fault.what != "pause" or fault.end - fault.begin <= ttl:
            continue
        of_pid = [life for life in evidence.lives if life.pid == fault.pid and life.kind == "taken"]
        before = [life.incarnation for life in of_pid if life.wall < fault.begin]
        if before:
            dead[before[-1]] = min(dead.get(before[-1], fault.end), fault.begin + ttl)
    return dead


# --- one instance


def _ends(case: Case) -> Iterator[Violation]:
    told = case.told
    if not told.endings:
        yield case.wrong(Rule.NO_END, f"{len(told.commits)} commits and no ending")
    elif len(told.endings) > 1 or not told.ends_with_its_end:
        yield case.wrong(Rule.TWO_ENDS, " and ".join(told.endings))
    summary = case.evidence.summaries.get(case.key)
    if summary is not None and told.endings and summary.status != told.endings[-1]:
        yield case.wrong(Rule.STATUS, f"{summary.status}, history: {told.endings[-1]}")


def _recorded_once(case: Case) -> Iterator[Violation]:
    ends = Counter(one.id for one in case.told.recorded)
    for id, number in (ends + case.told.schedulings).items():
        most = max(ends[id], case.told.schedulings[id])
        if most > 1 or (ends[id] and not case.told.schedulings[id]):
            yield case.wrong(Rule.RECORDED_TWICE, f"{id}: {number} events of its schedule and end")


def _proven(case: Case) -> Iterator[Violation]:
    for one in case.told.recorded:
        if not one.value:
            continue
        proof = [
            a
            for a in case.attempts
            if (a.begun.value, a.begun.activity_id, a.begun.attempt) == (one.value, one.id, one.attempt)
        ]
        if not any(a.outcome == "end" and a.over <= one.commit.time for a in proof):
            yield case.wrong(Rule.UNPROVEN, f"{one.id}: {one.value}")


def _echoed(case: Case) -> Iterator[Violation]:
    held = {one.value: one.commit.time for one in case.told.recorded if one.value}
    for attempt in case.attempts:
        for value in attempt.begun.seen:
            if value not in held or held[value] > attempt.begun.wall:
                yield case.wrong(Rule.ECHO, f"{attempt.begun.value} was given {value}")


def _begun(case: Case) -> Iterator[Violation]:
    """When attempts began, held against the commits of their command and of their result."""
    ends = case.told.end_of
    for attempt in case.attempts:
        begun = attempt.begun
        scheduled = case.told.scheduled.get(begun.activity_id)
        if scheduled is None or begun.wall < scheduled[1].time:
            yield case.wrong(Rule.EFFECT_FIRST, begun.value)
        end = ends.get(begun.activity_id)
        if end is not None and begun.wall > end.commit.time:
            zombie = end.commit.incarnation != begun.incarnation and begun.incarnation in case.gone
            if not zombie:
                yield case.wrong(Rule.BEGUN_AFTER, begun.value)
            case.verdict.counts["begun by a zombie"] += zombie


def _explained(case: Case) -> Iterator[Violation]:
    """Every attempt is the recorded one, or failed, or has a fault that explains it."""
    ends = case.told.end_of
    for attempt in case.attempts:
        begun = attempt.begun
        end = ends.get(begun.activity_id)
        if end is not None and end.value == begun.value:
            continue
        gone = case.gone.get(begun.incarnation)
        if attempt.outcome == "failed":
            case.verdict.counts["attempts that failed"] += 1
        elif begun.activity_id in case.told.abandoned:
            case.verdict.counts["attempts interrupted by a cancel"] += 1
        elif gone is not None and begun.wall <= gone:
            case.verdict.window.append(attempt)
        else:
            yield case.wrong(Rule.RAN_AGAIN, f"{begun.value}: {attempt.outcome}")


def _fenced(case: Case) -> Iterator[Violation]:
    owner: dict[int, str] = {}
    for commit in case.told.commits:
        if owner.setdefault(commit.fence, commit.incarnation) != commit.incarnation:
            yield case.wrong(Rule.FENCE, f"two incarnations under fence {commit.fence}")
    done: set[str] = set()
    for before, after in pairwise(case.told.commits):
        if after.fence < before.fence:
            yield case.wrong(Rule.FENCE, f"{after.fence} after {before.fence}")
        if after.incarnation != before.incarnation:
            done.add(before.incarnation)
            case.verdict.counts["changes of owner in a history"] += 1
        if after.incarnation in done:
            yield case.wrong(Rule.FENCE, f"{after.incarnation} committed again after another owner")
    for commit in case.told.commits:
        dead = case.dead.get(commit.incarnation)
        if dead is not None and commit.time > dead:
            yield case.wrong(
                Rule.DEAD_COMMIT, f"{commit.incarnation}, {(commit.time - dead) / 1e6:.3f} s late"
            )


def _undone(case: Case) -> Iterator[Violation]:
    told = case.told
    if not told.endings:
        return
    due: list[str] = []
    if told.endings[0] in ("failed", "cancelled"):
        due = [id for id in told.to_undo if id.startswith("reserve:")][::-1]
    by_undoing = {event.id: event.compensates for event, _ in told.scheduled.values() if event.compensates}
    first_begun: list[str] = []
    for attempt in case.attempts:
        undoes = by_undoing.get(attempt.begun.activity_id)
        if undoes is not None and undoes not in first_begun:
            first_begun.append(undoes)
    ended = [by_undoing[one.id] for one in told.recorded if one.id in by_undoing]
    for where, found in (("asked for", told.undone), ("begun", first_begun), ("recorded", ended)):
        if sorted(found) != sorted(due):
            yield case.wrong(Rule.NOT_UNDONE, f"{where}: {found}, completed: {due}")
        elif list(found) != due:
            yield case.wrong(Rule.UNDO_ORDER, f"{where}: {found}, completed: {due}")


def _cancelled(case: Case) -> Iterator[Violation]:
    places = Counter((event.stream, event.sequence) for event in case.told.cancels)
    ids = Counter(event.message_id for event in case.told.cancels if event.message_id)
    if any(n > 1 for n in (*places.values(), *ids.values())):
        yield case.wrong(Rule.CANCEL_TWICE, str(places))
    asked = [op for op in case.evidence.ops if op.what == "cancel" and op.key == case.key]
    accepted = sum(op.outcome == "ok" for op in asked)
    if len(case.told.cancels) > len(asked):
        yield case.wrong(Rule.CANCEL_TWICE, f"{len(asked)} asked for, {len(case.told.cancels)} recorded")
    # Any other instance may have ended before its cancel reached it.
    if case.key in case.evidence.must_cancel and accepted and not case.told.cancels:
        yield case.wrong(Rule.CANCEL_LOST, f"{accepted} accepted")


RULES: tuple[Callable[[Case], Iterator[Violation]], ...] = (
    _ends,
    _recorded_once,
    _proven,
    _echoed,
    _begun,
    _explained,
    _fenced,
    _undone,
    _cancelled,
)


# --- the whole run


def _told(evidence: Evidence) -> Iterator[Violation]:
    for op in evidence.ops:
        if op.what != "result" or op.outcome == "unknown":
            continue
        told = tell(evidence.histories.get(op.key, ()))
        if not told.commits and op.key in evidence.summaries:
            told.endings.append(evidence.summaries[op.key].status)
        holds = told.result if op.outcome == "ok" else (told.endings or [""])[-1]
        if op.told != holds or (op.outcome == "ok") != ("completed" in told.endings):
            yield Violation(Rule.TOLD_WRONG, "/".join(op.key), f"told {op.told!r}, history: {holds!r}")


def _left(evidence: Evidence) -> Iterator[Violation]:
    for where, number in evidence.left.items():
        if number:
            yield Violation(Rule.LEFT, where, str(number))
    for key, summary in evidence.summaries.items():
        if summary.owner and not summary.owner_alive:
            yield Violation(Rule.DEAD_OWNER, "/".join(key), summary.owner)


def recoveries(evidence: Evidence) -> Iterator[tuple[float, bool]]:
    """Seconds from each kill to the next owner's first sign of life, for each instance that it hit, and whether nothing
    else was wrong in between."""
    done = attempts(evidence.lines)
    fallen = {
        life.incarnation: fault.begin
        for fault in evidence.faults
        if fault.what == "kill"
        for life in evidence.lives
        if life.pid == fault.pid and life.kind == "taken"
    }
    for key, history in evidence.histories.items():
        for before, after in pairwise(history):
            killed = fallen.get(before.incarnation)
            if killed is None or after.incarnation == before.incarnation or after.time < killed:
                continue
            begun = [a.begun.wall for a in done.get(key, ()) if a.begun.incarnation == after.incarnation]
            alive = min([after.time, *begun])
            others = [f for f in evidence.faults if f.what != "term" and f.begin != killed]
            yield (alive - killed) / 1e6, not any(f.begin < alive and f.end > killed for f in others)


def vacuous(evidence: Evidence, verdict: Verdict, *wanted: str) -> list[str]:
    """Why a run without violations proves nothing: faults that did not fire, or hit nothing."""
    fired = Counter(fault.what for fault in evidence.faults)
    reasons = [f"no {what} was done" for what in wanted if not fired[what]]  # type: ignore[index]
    if not evidence.histories:
        reasons.append("no instance was run")
    if {"kill", "pause"} & set(wanted) and not verdict.counts["changes of owner in a history"]:
        reasons.append("no instance changed its owner")
    if "kill" in wanted and not verdict.recoveries and not verdict.mixed_recoveries:
        reasons.append("no kill hit an instance at work")
    reasons.extend(
        f"the pause of {fault.pid} did not cost it its lease"
        for fault in evidence.faults
        if fault.what == "pause" and not _cost_the_lease(evidence, fault)
    )
    return reasons


def _cost_the_lease(evidence: Evidence, pause: Fault) -> bool:
    if any(fault.what == "kill" and fault.pid == pause.pid for fault in evidence.faults):
        return True
    return any(
        life.kind == "lost" and life.pid == pause.pid and life.wall >= pause.end for life in evidence.lives
    )
