"""The checker of the order example finds every kind of violation. Planted ones only; the demo itself runs elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "01_orders"))

from check import Fault, Verdict, check
from entry import Entry, Kind

from romancy_nats.core.commit import Commit
from romancy_nats.core.events import (
    ActivityCompleted,
    ActivityFailed,
    ActivityScheduled,
    CompensationBegun,
    Event,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowFailed,
    WorkflowStarted,
)

A, B = 1, 2
COMPENSATED_BY = {"reserve": "release", "charge": "refund"}


class Tale:
    """A history and a record that grow side by side, one tick at a time."""

    def __init__(self) -> None:
        self.history: list[Commit] = []
        self.entries: list[Entry] = []
        self.now = 100

    def commit(self, *events: Event) -> None:
        self.now += 10
        self.history.append(Commit(f"c{self.now}", "w", 1, self.now, events))

    def line(
        self, activity: str, id: str, kind: Kind, *, attempt: int = 1, pid: int = A, key: str = ""
    ) -> None:
        self.now += 10
        self.entries.append(
            Entry("o", activity, id, attempt, pid, kind, self.now, self.now / 1e6, key or f"w/o/{id}")
        )

    def ran(self, activity: str, id: str, *, attempt: int = 1, pid: int = A) -> None:
        self.line(activity, id, "begin", attempt=attempt, pid=pid)
        self.line(activity, id, "end", attempt=attempt, pid=pid)

    def check(self, expected: str = "completed", deaths: dict[int, int] | None = None) -> Verdict:
        return check(
            {"o": expected},
            {"o": self.history},
            self.entries,
            deaths=deaths or {},
            compensated_by=COMPENSATED_BY,
        )


def scheduled(id: str, compensates: str = "") -> ActivityScheduled:
    return ActivityScheduled(id, id.partition(":")[0], b"", compensates)


def undo(name: str, undone: str) -> ActivityScheduled:
    return ActivityScheduled(f"compensate:{undone}", name, b"", undone)


def done(id: str, attempt: int = 1) -> ActivityCompleted:
    return ActivityCompleted(id, attempt, b"")


def begun() -> Tale:
    """Two activities are done and recorded."""
    tale = Tale()
    tale.commit(WorkflowStarted("w", b"", ""), scheduled("reserve:1"))
    tale.ran("reserve", "reserve:1")
    tale.commit(done("reserve:1"), scheduled("charge:1"))
    tale.ran("charge", "charge:1")
    return tale


def completed() -> Tale:
    tale = begun()
    tale.commit(done("charge:1"), WorkflowCompleted(b""))
    return tale


def compensated(
    order: Sequence[tuple[str, str]] = (("refund", "charge:1"), ("release", "reserve:1")),
) -> Tale:
    tale = begun()
    ending: list[Event] = [done("charge:1"), CompensationBegun("WorkflowFailed")]
    for name, undone in order:
        tale.commit(*ending, undo(name, undone))
        tale.ran(name, f"compensate:{undone}")
        ending = [done(f"compensate:{undone}")]
    tale.commit(*ending, WorkflowFailed(b""))
    return tale


def faults(verdict: Verdict) -> set[Fault]:
    return {violation.fault for violation in verdict.violations}


def test_what_is_right_is_found_right() -> None:
    for tale, ending in ((completed(), "completed"), (compensated(), "failed")):
        verdict = tale.check(ending)
        assert verdict.violations == []
        assert verdict.ended_once == 1
        assert verdict.window == []


def test_a_missing_order() -> None:
    verdict = check({"o": "completed"}, {}, [], deaths={}, compensated_by={})
    assert faults(verdict) == {Fault.MISSING_ORDER}
    assert verdict.ended_once == 0


def test_an_order_that_nobody_placed() -> None:
    verdict = check({}, {"o": completed().history}, [], deaths={}, compensated_by={})
    assert faults(verdict) == {Fault.UNKNOWN_ORDER}


def test_a_missing_end() -> None:
    tale = begun()
    tale.commit(done("charge:1"))
    verdict = tale.check()
    assert Fault.MISSING_END in faults(verdict)
    assert verdict.ended_once == 0


def test_a_double_end() -> None:
    for again in (WorkflowCompleted(b""), WorkflowCancelled("")):
        tale = completed()
        tale.commit(again)
        verdict = tale.check()
        assert Fault.DOUBLE_END in faults(verdict)
        assert verdict.ended_once == 0


def test_a_history_that_goes_on_after_its_end() -> None:
    tale = completed()
    tale.commit(scheduled("invoice:1"))
    assert faults(tale.check()) == {Fault.DOUBLE_END}


def test_a_wrong_end() -> None:
    assert faults(completed().check("cancelled")) == {Fault.WRONG_END}


def test_two_results_of_one_activity() -> None:
    tale = begun()
    tale.commit(done("charge:1"), done("charge:1"), WorkflowCompleted(b""))
    assert faults(tale.check()) == {Fault.TWO_RESULTS}


def test_a_result_of_an_attempt_that_never_ended() -> None:
    tale = completed()
    tale.entries = [e for e in tale.entries if (e.activity_id, e.kind) != ("charge:1", "end")]
    assert Fault.UNENDED_RESULT in faults(tale.check())


def test_a_result_of_an_attempt_that_never_was() -> None:
    tale = begun()
    tale.commit(done("charge:1", attempt=2), WorkflowCompleted(b""))
    assert Fault.UNENDED_RESULT in faults(tale.check())


def test_a_result_recorded_before_its_attempt_ended() -> None:
    tale = Tale()
    tale.commit(WorkflowStarted("w", b"", ""), scheduled("charge:1"))
    tale.line("charge", "charge:1", "begin")
    tale.commit(done("charge:1"), WorkflowCompleted(b""))
    tale.line("charge", "charge:1", "end")
    assert Fault.UNENDED_RESULT in faults(tale.check())


def test_an_activity_begun_before_its_command_was_recorded() -> None:
    tale = Tale()
    tale.ran("charge", "charge:1")
    tale.commit(WorkflowStarted("w", b"", ""), scheduled("charge:1"))
    tale.commit(done("charge:1"), WorkflowCompleted(b""))
    assert faults(tale.check()) == {Fault.EFFECT_BEFORE_COMMIT}
    tale = completed()
    tale.ran("bonus", "bonus:1")
    assert faults(tale.check()) == {Fault.EFFECT_BEFORE_COMMIT}


def test_an_activity_begun_after_its_recorded_result_even_by_a_killed_worker() -> None:
    tale = completed()
    tale.ran("reserve", "reserve:1", pid=B)
    assert faults(tale.check()) == {Fault.BEGUN_AFTER_RESULT}
    assert faults(tale.check(deaths={B: 10_000})) == {Fault.BEGUN_AFTER_RESULT}


def interrupted_by_a_kill(*, finished: bool) -> tuple[Tale, int]:
    tale = begun()
    if not finished:
        tale.entries.pop()
    death = tale.now
    tale.ran("charge", "charge:1", pid=B)
    tale.commit(done("charge:1"), WorkflowCompleted(b""))
    return tale, death


def test_what_was_in_flight_at_the_kill_may_run_again_and_is_counted() -> None:
    for finished in (False, True):
        tale, death = interrupted_by_a_kill(finished=finished)
        verdict = tale.check(deaths={A: death})
        assert verdict.violations == []
        assert [attempt.outcome for attempt in verdict.window] == ["end" if finished else None]


def test_an_activity_that_ran_again_although_nobody_was_killed() -> None:
    tale, death = interrupted_by_a_kill(finished=True)
    assert faults(tale.check()) == {Fault.RAN_AGAIN}
    assert faults(tale.check(deaths={B: death})) == {Fault.RAN_AGAIN}


def test_a_failed_attempt_may_be_followed_by_another() -> None:
    tale = Tale()
    tale.commit(WorkflowStarted("w", b"", ""), scheduled("charge:1"))
    tale.line("charge", "charge:1", "begin")
    tale.line("charge", "charge:1", "failed")
    tale.ran("charge", "charge:1", attempt=2)
    tale.commit(done("charge:1", attempt=2), WorkflowCompleted(b""))
    verdict = tale.check()
    assert verdict.violations == []
    assert verdict.retried == 1


def test_an_attempt_interrupted_by_a_cancel_only_in_a_cancelled_order() -> None:
    for ending, found in ((WorkflowCancelled(""), set[Fault]()), (WorkflowCompleted(b""), {Fault.RAN_AGAIN})):
        tale = Tale()
        tale.commit(WorkflowStarted("w", b"", ""), scheduled("invoice:1"))
        tale.line("invoice", "invoice:1", "begin")
        tale.line("invoice", "invoice:1", "interrupted")
        tale.commit(ending)
        cancelled = isinstance(ending, WorkflowCancelled)
        assert faults(tale.check("cancelled" if cancelled else "completed")) == found


def test_idempotency_keys() -> None:
    tale = completed()
    tale.entries = [e._replace(idempotency_key="same") for e in tale.entries]
    assert faults(tale.check()) == {Fault.MIXED_KEYS}
    tale = completed()
    tale.entries[-1] = tale.entries[-1]._replace(idempotency_key="other")
    assert faults(tale.check()) == {Fault.MIXED_KEYS}


def test_a_compensation_is_missing() -> None:
    assert faults(compensated([("refund", "charge:1")]).check("failed")) == {Fault.COMPENSATION_MISSING}


def test_a_compensation_is_in_the_history_but_did_not_run() -> None:
    tale = compensated()
    tale.entries = [e for e in tale.entries if e.activity != "release"]
    assert faults(tale.check("failed")) == {Fault.COMPENSATION_MISSING, Fault.UNENDED_RESULT}


def test_a_compensation_was_asked_for_and_never_completed() -> None:
    tale = begun()
    tale.commit(done("charge:1"), CompensationBegun("WorkflowFailed"), undo("refund", "charge:1"))
    tale.ran("refund", "compensate:charge:1")
    tale.commit(done("compensate:charge:1"), undo("release", "reserve:1"))
    tale.line("release", "compensate:reserve:1", "begin")
    tale.line("release", "compensate:reserve:1", "failed")
    tale.commit(ActivityFailed("compensate:reserve:1", 1, b""), WorkflowFailed(b""))
    assert faults(tale.check("failed")) == {Fault.COMPENSATION_MISSING}


def test_compensations_in_the_wrong_order() -> None:
    tale = compensated([("release", "reserve:1"), ("refund", "charge:1")])
    assert faults(tale.check("failed")) == {Fault.COMPENSATION_ORDER}


def test_compensations_that_really_ran_in_another_order_than_recorded() -> None:
    tale = compensated()
    undoing = [e for e in tale.entries if e.activity in ("refund", "release")]
    others = [e for e in tale.entries if e not in undoing]
    tale.entries = [*others, *undoing[2:], *undoing[:2]]
    assert faults(tale.check("failed")) == {Fault.COMPENSATION_ORDER}


def test_a_compensation_too_many() -> None:
    tale = begun()
    tale.entries = tale.entries[:2]
    tale.commit(ActivityFailed("charge:1", 1, b""), CompensationBegun(""), undo("refund", "charge:1"))
    tale.ran("refund", "compensate:charge:1")
    tale.commit(done("compensate:charge:1"), undo("release", "reserve:1"))
    tale.ran("release", "compensate:reserve:1")
    tale.commit(done("compensate:reserve:1"), WorkflowFailed(b""))
    assert faults(tale.check("failed")) == {Fault.COMPENSATION_EXTRA}


def test_a_compensation_of_a_completed_order() -> None:
    tale = begun()
    tale.commit(done("charge:1"), undo("refund", "charge:1"))
    tale.ran("refund", "compensate:charge:1")
    tale.commit(done("compensate:charge:1"), WorkflowCompleted(b""))
    assert faults(tale.check()) == {Fault.COMPENSATION_EXTRA}


def test_a_compensation_that_no_history_knows() -> None:
    tale = completed()
    tale.ran("refund", "compensate:charge:1")
    assert faults(tale.check()) == {Fault.COMPENSATION_EXTRA, Fault.EFFECT_BEFORE_COMMIT}
