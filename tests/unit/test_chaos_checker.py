"""The checker of runs under faults: a healthy run passes, and every planted violation is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from romancy_nats.core.commit import Commit
from romancy_nats.core.events import (
    ActivityCompleted,
    ActivityScheduled,
    CancelRequested,
    CompensationBegun,
    Event,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowStarted,
)
from tests.chaos.checker import Rule, check, dead_at, gone_at, vacuous
from tests.chaos.evidence import Evidence, Fault, Op, Summary
from tests.chaos.record import Kind, Life, Line
from tests.chaos.told import VALUE

KEY = ("patient", "i1")
SECOND = 1_000_000
A, B, PID = "owner-a", "owner-b", {"owner-a": 11, "owner-b": 22}
KILLED = 4 * SECOND


def commit(id: str, owner: str, fence: int, at: float, *events: Event) -> Commit:
    return Commit(id, owner, fence, int(at * SECOND), events)


def scheduled(id: str, undoes: str = "") -> ActivityScheduled:
    name = "undo" if undoes else id.partition(":")[0]
    return ActivityScheduled(id, name, b"", undoes)


def completed(id: str, value: str, attempt: int = 1) -> ActivityCompleted:
    return ActivityCompleted(id, attempt, VALUE.encode(value))


def line(kind: Kind, id: str, value: str, owner: str, at: float, seen: tuple[str, ...] = ()) -> Line:
    return Line(kind, *KEY, id.partition(":")[0], id, 1, owner, PID[owner], int(at * SECOND), at, value, seen)


def visit(id: str, value: str, owner: str, at: float, *seen: str) -> list[Line]:
    return [line("begin", id, value, owner, at, seen), line("end", id, value, owner, at + 0.1)]


def healthy() -> Evidence:
    """A cancelled saga: A reserves twice and is killed in the third; B takes over, is told to stop, undoes both."""
    history = [
        commit("c1", A, 10, 1, WorkflowStarted("patient", b"", ""), scheduled("reserve:1")),
        commit("c2", A, 10, 2, completed("reserve:1", "r1"), scheduled("reserve:2")),
        commit("c3", A, 10, 3, completed("reserve:2", "r2"), scheduled("touch:1")),
        commit(
            "c4",
            B,
            20,
            7,
            completed("touch:1", "t1b"),
            CancelRequested("enough", "S", 5, "m5"),
            CompensationBegun("WorkflowCancelled"),
            scheduled("compensate:reserve:2", "reserve:2"),
        ),
        commit(
            "c5",
            B,
            30,
            8,
            completed("compensate:reserve:2", "u2"),
            scheduled("compensate:reserve:1", "reserve:1"),
        ),
        commit("c6", B, 30, 9, completed("compensate:reserve:1", "u1"), WorkflowCancelled("enough")),
    ]
    lines = [
        *visit("reserve:1", "r1", A, 1.1),
        *visit("reserve:2", "r2", A, 2.1, "r1"),
        line("begin", "touch:1", "t1a", A, 3.1, ("r1", "r2")),
        *visit("touch:1", "t1b", B, 6.1, "r1", "r2"),
        *visit("compensate:reserve:2", "u2", B, 7.1, "r2"),
        *visit("compensate:reserve:1", "u1", B, 8.1, "r1"),
    ]
    return Evidence(
        ops=[
            Op("start", KEY, "ok"),
            Op("cancel", KEY, "ok"),
            Op("result", KEY, "fail", "cancelled"),
        ],
        histories={KEY: history},
        summaries={KEY: Summary("cancelled")},
        lines=lines,
        lives=[Life("taken", A, PID[A], 0), Life("taken", B, PID[B], 0)],
        faults=[Fault("kill", PID[A], KILLED, KILLED)],
        left={"START": 0},
        must_cancel=frozenset({KEY}),
    )


def rules(evidence: Evidence) -> set[Rule]:
    return {violation.rule for violation in check(evidence).violations}


def test_a_healthy_run_has_no_violations_and_its_faults_are_counted() -> None:
    evidence = healthy()
    verdict = check(evidence)
    assert verdict.violations == []
    assert [attempt.begun.value for attempt in verdict.window] == ["t1a"]
    assert verdict.counts["changes of owner in a history"] == 1
    assert verdict.recoveries == [pytest.approx(2.1)]
    assert vacuous(evidence, verdict, "kill") == []


# --- plants: each takes a healthy run and breaks one thing


def with_history(*commits: Commit) -> Evidence:
    return replace(healthy(), histories={KEY: commits})


def changed(n: int, **fields: object) -> Evidence:
    """Commit n (from 1) with other fields."""
    history = list(healthy().histories[KEY])
    history[n - 1] = replace(history[n - 1], **fields)  # type: ignore[arg-type]
    return with_history(*history)


def events(n: int, edit: Callable[[list[Event]], list[Event]]) -> Evidence:
    return changed(n, events=tuple(edit(list(healthy().histories[KEY][n - 1].events))))


def with_lines(edit: Callable[[Line], list[Line]]) -> Evidence:
    evidence = healthy()
    return replace(evidence, lines=[new for old in evidence.lines for new in edit(old)])


def with_ops(*ops: Op) -> Evidence:
    return replace(healthy(), ops=[Op("start", KEY, "ok"), *ops])


def lost_start() -> Evidence:
    return replace(healthy(), histories={}, summaries={}, lines=())


def dropped_end() -> Evidence:
    return events(6, lambda held: held[:-1])


def doubled_end() -> Evidence:
    return events(6, lambda held: [*held, held[-1]])


def swapped_undo() -> Evidence:
    """The history undoes oldest first."""
    history = list(healthy().histories[KEY])
    c4 = [*history[3].events[:-1], scheduled("compensate:reserve:1", "reserve:1")]
    c5 = [completed("compensate:reserve:1", "u1"), scheduled("compensate:reserve:2", "reserve:2")]
    c6 = [completed("compensate:reserve:2", "u2"), WorkflowCancelled("enough")]
    for n, held in ((3, c4), (4, c5), (5, c6)):
        history[n] = replace(history[n], events=tuple(held))
    return with_history(*history)


def undo_ran_out_of_order() -> Evidence:
    """The history is right; what was done was done in another order."""
    moved = {"compensate:reserve:2": "compensate:reserve:1", "compensate:reserve:1": "compensate:reserve:2"}
    evidence = healthy()
    return replace(
        evidence,
        lines=[x._replace(activity_id=moved.get(x.activity_id, x.activity_id)) for x in evidence.lines],
    )


def undid_what_was_not_done() -> Evidence:
    return with_lines(
        lambda x: (
            [x] if x.value != "u1" else [x, x._replace(activity_id="compensate:touch:1", value=f"x{x.kind}")]
        )
    )


def old_owner_again() -> Evidence:
    history = list(healthy().histories[KEY])
    history[4] = replace(history[4], incarnation=A, fence=10)
    return with_history(*history)


def two_under_one_fence() -> Evidence:
    return changed(5, incarnation="owner-c")


def lease_paused_away() -> Evidence:
    """A is paused past its lease instead of killed, goes on, and commits before it knows."""
    evidence = changed(3, time=int(6.5 * SECOND))
    return replace(
        evidence,
        faults=[Fault("pause", PID[A], int(2.5 * SECOND), int(6.4 * SECOND))],
        lives=[*evidence.lives, Life("lost", A, PID[A], int(6.6 * SECOND))],
    )


def commit_after_its_own_death() -> Evidence:
    return changed(3, time=KILLED + 1)


PLANTS: dict[str, tuple[Callable[[], Evidence], Rule]] = {
    "an acknowledged start vanished": (lost_start, Rule.LOST),
    "an instance nobody started": (lambda: replace(healthy(), ops=[]), Rule.UNKNOWN),
    "no ending": (dropped_end, Rule.NO_END),
    "two endings": (doubled_end, Rule.TWO_ENDS),
    "goes on after its end": (lambda: events(6, lambda held: [held[1], held[0]]), Rule.TWO_ENDS),
    "the record says otherwise": (
        lambda: replace(healthy(), summaries={KEY: Summary("failed")}),
        Rule.STATUS,
    ),
    "a client was told another ending": (
        lambda: with_ops(Op("result", KEY, "fail", "failed")),
        Rule.TOLD_WRONG,
    ),
    "a client was told a result": (lambda: with_ops(Op("result", KEY, "ok", "r2")), Rule.TOLD_WRONG),
    "a result recorded twice": (
        lambda: events(3, lambda held: [held[0], completed("reserve:1", "r1"), held[1]]),
        Rule.RECORDED_TWICE,
    ),
    "scheduled twice": (lambda: events(3, lambda held: [*held, held[1]]), Rule.RECORDED_TWICE),
    "never scheduled": (lambda: events(2, lambda held: held[:1]), Rule.RECORDED_TWICE),
    "a swapped result": (
        lambda: events(2, lambda held: [completed("reserve:1", "r2"), held[1]]),
        Rule.UNPROVEN,
    ),
    "the result of another attempt": (
        lambda: events(2, lambda held: [completed("reserve:1", "r1", 2), held[1]]),
        Rule.UNPROVEN,
    ),
    "a result nobody returned": (
        lambda: with_lines(lambda x: [] if (x.value, x.kind) == ("r2", "end") else [x]),
        Rule.UNPROVEN,
    ),
    "recorded before it ended": (lambda: changed(2, time=int(1.05 * SECOND)), Rule.UNPROVEN),
    "a value out of nowhere": (
        lambda: with_lines(lambda x: [x._replace(seen=("r9",))] if x.value == "r2" else [x]),
        Rule.ECHO,
    ),
    "effect before commit": (lambda: changed(1, time=int(1.15 * SECOND)), Rule.EFFECT_FIRST),
    "effect without a command": (undid_what_was_not_done, Rule.EFFECT_FIRST),
    "the owner ran it again after its result": (
        lambda: replace(healthy(), lines=[*healthy().lines, *visit("reserve:1", "again", A, 2.5)]),
        Rule.BEGUN_AFTER,
    ),
    "ran twice without a fault": (lambda: replace(healthy(), faults=[]), Rule.RAN_AGAIN),
    "ran after its worker was dead": (
        lambda: replace(healthy(), faults=[Fault("kill", PID[A], 3 * SECOND, 3 * SECOND)]),
        Rule.RAN_AGAIN,
    ),
    "an old owner commits again": (old_owner_again, Rule.FENCE),
    "a fence goes back": (lambda: changed(5, fence=15), Rule.FENCE),
    "two owners under one fence": (two_under_one_fence, Rule.FENCE),
    "a commit after a kill": (commit_after_its_own_death, Rule.DEAD_COMMIT),
    "a zombie commits": (lease_paused_away, Rule.DEAD_COMMIT),
    "a compensation is missing": (
        lambda: events(5, lambda held: held[:1]),
        Rule.NOT_UNDONE,
    ),
    "compensated oldest first": (swapped_undo, Rule.UNDO_ORDER),
    "compensations ran oldest first": (undo_ran_out_of_order, Rule.UNDO_ORDER),
    "a lost cancel": (
        lambda: events(4, lambda held: [x for x in held if not isinstance(x, CancelRequested)]),
        Rule.CANCEL_LOST,
    ),
    "a doubled cancel": (
        lambda: events(4, lambda held: [*held[:2], held[1], *held[2:]]),
        Rule.CANCEL_TWICE,
    ),
    "a cancel nobody asked for": (lambda: with_ops(), Rule.CANCEL_TWICE),
    "a message left in a queue": (lambda: replace(healthy(), left={"START": 1}), Rule.LEFT),
    "owned by a dead lease": (
        lambda: replace(healthy(), summaries={KEY: Summary("cancelled", A)}),
        Rule.DEAD_OWNER,
    ),
    "a history that does not replay": (
        lambda: replace(healthy(), replay_errors={KEY: "expected, produced"}),
        Rule.REPLAY,
    ),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_violation_is_found(plant: str) -> None:
    broken, rule = PLANTS[plant]
    assert rule in rules(broken())


def test_every_rule_has_a_plant() -> None:
    assert {rule for _, rule in PLANTS.values()} == set(Rule)


def test_an_unknown_start_may_have_happened_or_not() -> None:
    evidence = healthy()
    unknown = [Op("start", KEY, "unknown"), *evidence.ops[1:]]
    assert check(replace(evidence, ops=unknown)).violations == []
    absent = replace(evidence, ops=unknown[:1], histories={}, summaries={}, lines=())
    assert check(absent).violations == []


def test_a_cancel_before_the_first_claim_leaves_a_record_and_no_history() -> None:
    evidence = replace(healthy(), histories={}, lines=())
    assert check(evidence).violations == []
    assert rules(replace(evidence, ops=[*evidence.ops, Op("result", KEY, "ok", "r2")])) == {Rule.TOLD_WRONG}


def test_a_completed_saga_is_not_undone() -> None:
    history = [
        commit("c1", A, 10, 1, WorkflowStarted("patient", b"", ""), scheduled("reserve:1")),
        commit("c2", A, 10, 2, completed("reserve:1", "r1"), WorkflowCompleted(VALUE.encode("r1"))),
    ]
    evidence = Evidence(
        ops=[Op("start", KEY, "ok"), Op("result", KEY, "ok", "r1")],
        histories={KEY: history},
        summaries={KEY: Summary("completed")},
        lines=visit("reserve:1", "r1", A, 1.1),
        lives=[Life("taken", A, PID[A], 0)],
    )
    assert check(evidence).violations == []


def test_a_recovery_with_another_fault_meanwhile_is_told_apart() -> None:
    evidence = healthy()
    verdict = check(replace(evidence, faults=[*evidence.faults, Fault("server", 9, 5 * SECOND, 6 * SECOND)]))
    assert verdict.recoveries == []
    assert verdict.mixed_recoveries == [pytest.approx(2.1)]


def test_a_pause_past_the_lease_forbids_commits_and_a_shorter_one_does_not() -> None:
    evidence = healthy()
    for seconds, dead in ((3, True), (1, False)):
        paused = replace(evidence, faults=[Fault("pause", PID[A], 0, seconds * SECOND)])
        paused = replace(paused, lives=[Life("taken", A, PID[A], -1)])
        assert (A in dead_at(paused, gone_at(paused))) is dead


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [("server", "no server was done"), ("pause", "no pause was done")],
)
def test_a_run_whose_faults_did_not_fire_proves_nothing(wanted: str, reason: str) -> None:
    evidence = healthy()
    assert reason in vacuous(evidence, check(evidence), wanted)


def test_a_kill_that_hit_nothing_proves_nothing() -> None:
    evidence = replace(healthy(), histories={KEY: [*healthy().histories[KEY]][:3]})
    assert "no kill hit an instance at work" in vacuous(evidence, check(evidence), "kill")


def test_a_pause_that_did_not_cost_the_lease_proves_nothing() -> None:
    evidence = replace(healthy(), faults=[*healthy().faults, Fault("pause", PID[B], 0, SECOND)])
    assert any("did not cost" in reason for reason in vacuous(evidence, check(evidence), "pause"))
