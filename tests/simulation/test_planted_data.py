"""The checker's own test: a clean run, one thing in its data spoiled, and the rule that has to see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from romancy_nats.core.commit import Commit
from romancy_nats.core.events import (
    ActivityCompleted,
    ActivityFailed,
    CancelRequested,
    TimerFired,
    WorkflowCompleted,
    WorkflowFailed,
)
from romancy_nats.core.record import InstanceRecord, InstanceStatus
from romancy_nats.ports import Source
from romancy_nats.testing.memory import Faults
from romancy_nats.testing.memory.stream import StoredMessage
from tests.simulation.evidence import Life
from tests.simulation.schedule import Finished, Plan, run
from tests.simulation.spoiling import each, rewrite, shard_of, told

OK: list[Any] = [
    ["act", "work", "a", "flaky1", 0.1],
    ["par", [["act", "work", "b", "ok", 1.0], ["act", "plain", "c", "ok", 0.1]]],
    ["sleep", 1.0],
]
FAILS: list[Any] = [*OK, ["act", "plain", "d", "fatal", 0.1]]


def _plan(program: list[Any], cancel: float | None = None) -> Plan:
    return Plan(1, Faults(seed=1), 1, 1, [program], [cancel], scheduled=False)


def _record(done: Finished, **changed: Any) -> None:
    """Another version of the record, a second later."""
    (versions,) = shard_of(done).records.values()
    last = versions[-1]
    record = replace(InstanceRecord.decode(last.data), **changed)
    versions.append(last._replace(data=record.encode(), revision=last.revision + 100, time=last.time + 1))


def _swap_results(done: Finished) -> None:
    results = [
        event.result
        for stored in shard_of(done).commits.values()
        for event in Commit.decode(stored.data).events
        if isinstance(event, ActivityCompleted)
    ][::-1]
    each(ActivityCompleted, lambda event: [event._replace(result=results.pop(0))])(done)


def _drop_commit(done: Finished) -> None:
    commits = shard_of(done).commits
    del commits[next(place for place in commits if place.n == 2)]


def _drop_last(done: Finished) -> None:
    commits = shard_of(done).commits
    del commits[max(commits)]


def _double_commit(done: Finished) -> None:
    commits = shard_of(done).commits
    last = max(commits)
    commits[last._replace(n=last.n + 1)] = commits[last]
    _record(done, commits=last.n + 1)


def _swap_commits(done: Finished) -> None:
    commits = shard_of(done).commits
    one, two = sorted(commits)[1:3]
    commits[one], commits[two] = commits[two], commits[one]


def _older_fence(done: Finished) -> None:
    commits = shard_of(done).commits
    last = max(commits)
    commit = Commit.decode(commits[last].data)
    commits[last] = commits[last]._replace(data=replace(commit, fence=0).encode(), fence=0)


def _other_fence(done: Finished) -> None:
    commits = shard_of(done).commits
    last = max(commits)
    commits[last] = commits[last]._replace(fence=commits[last].fence + 1)


def _another_start(done: Finished) -> None:
    """Two starts in one history."""
    rewrite(done, lambda n, commit: [*commit.events, *(commit.events[:1] if n == 1 else ())])


def _attempt(done: Finished, **changed: Any) -> None:
    for name, value in changed.items():
        setattr(done.book.attempts[1], name, value)


def _once_more(done: Finished) -> None:
    """The owner begins an activity again whose result it has stored, before it rests."""
    first, last = done.book.attempts[1], done.book.attempts[-1]
    done.book.attempts.append(replace(first, began=(last.ended or 0.0) - 0.01, number=1))


def _late_message(done: Finished) -> None:
    message = StoredMessage(99, "interpreter", "i0", b"", {}, 0)
    done.server.messages_stream.messages[99] = message


def _dead_letter(done: Finished) -> None:
    letter = StoredMessage(
        1, "interpreter", "", b"", {"Romancy-Origin-Stream": "X", "Romancy-Origin-Sequence": "1"}, 0
    )
    done.server.dead_stream.messages[1] = letter


def _acked_early(done: Finished) -> None:
    source = next(source for source in done.evidence.removed if source.stream.endswith("START"))
    done.evidence.removed[source] = done.book.attempts[-1].began


def _acked_uncommitted(done: Finished) -> None:
    """A cancel went although no history holds it and the instance had not ended."""
    source = Source(done.server.messages_stream.name, 99)
    done.evidence.messages[source] = StoredMessage(
        99, "interpreter", "i0", b"", {"Romancy-Kind": "cancel"}, 0
    )
    done.evidence.published[source] = 0.0
    done.evidence.removed[source] = done.book.attempts[-1].began


def _lease_gone(done: Finished) -> None:
    done.evidence.lives[0].ended = done.book.attempts[1].began - 0.01


def _two_lives(done: Finished) -> None:
    life = done.evidence.lives[0]
    life.ended = 1_000.0
    done.evidence.lives.append(Life(life.incarnation, life.label, 1_100.0))


def _taken_from_the_living(done: Finished) -> None:
    (versions,) = shard_of(done).records.values()
    first = versions[0]
    stolen = replace(InstanceRecord.decode(first.data), owner="thief")
    versions.insert(1, first._replace(data=stolen.encode(), process="thief", time=first.time + 0.05))


PLANTS: dict[str, tuple[list[Any], Callable[[Finished], None], str]] = {
    "commit dropped": (OK, _drop_commit, "gaps"),
    "last commit dropped": (OK, _drop_last, "0 endings"),
    "commit doubled": (OK, _double_commit, "one commit is in its history twice"),
    "commits swapped": (OK, _swap_commits, "time runs backwards"),
    "older fence": (OK, _older_fence, "an older owner wrote"),
    "fenced otherwise": (OK, _other_fence, "fenced on another revision"),
    "started twice": (OK, _another_start, "not started exactly once"),
    "result doubled": (OK, each(ActivityCompleted, lambda e: [e, e]), "has two results"),
    "result invented": (
        OK,
        each(ActivityCompleted, lambda e: [e._replace(result=b"\xa1x")]),
        "belongs to no attempt",
    ),
    "results swapped": (OK, _swap_results, "belongs to no attempt"),
    "result lost": (OK, each(ActivityCompleted, lambda e: []), "does not replay"),
    "ended early": (OK, each(TimerFired, lambda e: [WorkflowCompleted(b"\xa1x"), e]), "2 endings"),
    "ended otherwise": (
        OK,
        each(WorkflowCompleted, lambda e: [WorkflowCompleted(b"\xa1x")]),
        "told the result",
    ),
    "no ending": (OK, each(WorkflowCompleted, lambda e: []), "0 endings"),
    "goes on after the end": (
        OK,
        each(WorkflowCompleted, lambda e: [e, TimerFired("timer:1")]),
        "goes on after",
    ),
    "record still owned": (OK, lambda d: _record(d, owner="somebody"), "still owned"),
    "record not ended": (OK, lambda d: _record(d, status=InstanceStatus.RUNNING), "never ended"),
    "record changed its mind": (OK, lambda d: _record(d, status=InstanceStatus.FAILED), "and then failed"),
    "record ahead": (OK, lambda d: _record(d, commits=99), "the record says 99 commits"),
    "record behind": (OK, lambda d: _record(d, commits=1), "went back from"),
    "record gone": (OK, lambda d: shard_of(d).records.clear(), "there is no record"),
    "compensation missing": (
        FAILS,
        lambda d: rewrite(d, lambda _, c: [e for e in c.events if getattr(e, "compensates", "") != "work:1"]),
        "owed",
    ),
    "compensations reordered": (
        FAILS,
        lambda d: rewrite(
            d,
            lambda _, c: [
                e._replace(compensates={"work:1": "work:2", "work:2": "work:1"}[e.compensates])  # type: ignore[union-attr, call-arg]
                if getattr(e, "compensates", "")
                else e
                for e in c.events
            ],
        ),
        "owed",
    ),
    "compensation not over": (
        FAILS,
        lambda d: rewrite(
            d,
            lambda _, c: [
                e for e in c.events if getattr(e, "id", "") != "compensate:work:1" or hasattr(e, "input")
            ],
        ),
        "ended before its compensations",
    ),
    "compensated although completed": (
        FAILS,
        each(WorkflowFailed, lambda e: [WorkflowCompleted(b"\xa1x")]),
        "compensated all the same",
    ),
    "cancel doubled": (
        OK,
        each(TimerFired, lambda e: [CancelRequested("x", "M", 7), CancelRequested("x", "M", 7), e]),
        "one message is in its history twice",
    ),
    "cancel under two places": (
        OK,
        each(
            TimerFired, lambda e: [CancelRequested("x", "M", 7, "id"), CancelRequested("x", "M", 8, "id"), e]
        ),
        "under two places",
    ),
    "timer early": (OK, lambda d: _early(d), "before it was due"),
    "failed without its attempts": (
        OK,
        each(TimerFired, lambda e: [ActivityFailed("plain:1", 4, b""), e]),
        "was given up after attempts",
    ),
    "one attempt too many": (OK, lambda d: _attempt(d, number=5), "was tried 5 times"),
    "activity nobody asked for": (OK, lambda d: _attempt(d, activity_id="work:9"), "(L2)"),
    "activity before its commit": (OK, lambda d: _attempt(d, began=0.0), "(L2)"),
    "activity once more": (OK, _once_more, "its end was stored at"),
    "activity without a lease": (OK, _lease_gone, "had no lease (L10)"),
    "commit without a lease": (OK, _lease_gone, "whose lease was gone"),
    "lease created twice": (OK, _two_lives, "created a second time"),
    "taken from the living": (OK, _taken_from_the_living, "which lived"),
    "message left": (OK, _late_message, "still holds 1 messages"),
    "dead letter nobody owes": (OK, _dead_letter, "1 dead letters"),
    "start acked early": (OK, _acked_early, "(L5)"),
    "cancel swallowed": (OK, _acked_uncommitted, "(L5)"),
    "never acknowledged": (OK, lambda d: told(d, acknowledged=False), "never acknowledged"),
    "told otherwise": (OK, lambda d: told(d, outcome="WorkflowFailedError"), "the client was told"),
    "told another result": (OK, lambda d: told(d, result="x"), "told the result"),
    "another input": (OK, lambda d: told(d, program=[["fail"]]), "another input"),
}


def _early(done: Finished) -> None:
    shard = shard_of(done)
    for place, stored in list(shard.commits.items()):
        commit = Commit.decode(stored.data)
        if any(isinstance(event, TimerFired) for event in commit.events):
            shard.commits[place] = stored._replace(data=replace(commit, time=commit.time - 500_000).encode())


@pytest.mark.parametrize("program", [OK, FAILS], ids=["completes", "fails"])
def test_unspoiled_it_is_clean(program: list[Any]) -> None:
    assert not run(_plan(program)).violations


@pytest.mark.parametrize("name", PLANTS)
def test_what_is_planted_is_found(name: str) -> None:
    program, plant, seen = PLANTS[name]
    violations = run(_plan(program), plant).violations
    assert any(seen in violation for violation in violations), violations
