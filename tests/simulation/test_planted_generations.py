"""The checker's own test for `ctx.recur`: a clean run, one thing in it spoiled, and the rule that has to see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from romancy_nats.core.events import (
    ActivityCompleted,
    Event,
    MessageReceived,
    WorkflowCompleted,
    WorkflowRecurred,
    WorkflowStarted,
)
from romancy_nats.ports import Source
from romancy_nats.testing.memory import Faults
from tests.simulation.schedule import Finished, Plan, run
from tests.simulation.spoiling import each, shard_of
from tests.simulation.waits import AT_THE_WAIT, Sending

RECURS: list[Any] = [
    ["act", "work", "a", "ok", 0.1],
    ["receive", "a", None],
    ["recur", 0.0, None],
    ["act", "work", "b", "ok", 0.1],
    ["receive", "a", None],
    ["recur", 0.1, ["act", "plain", "broken off", "ok", 5.0]],
    ["act", "plain", "c", "ok", 0.1],
]
SENDINGS = [Sending("message", "a", None, AT_THE_WAIT, delay) for delay in (1.0, 2.0)]


def _plan() -> Plan:
    faults = Faults(seed=1, latency=0.01)
    return Plan(1, faults, 1, 1, [RECURS], [None], sendings=[SENDINGS], scheduled=False)


def _uncleared(done: Finished) -> None:
    """One history of an earlier generation is there all the same."""
    commits = shard_of(done).commits
    commits.update({place: stored for place, (stored, _) in commits.cleared.items() if place.generation == 1})


def _cleared(done: Finished, time: float) -> None:
    commits = shard_of(done).commits
    commits.cleared = {place: (stored, time) for place, (stored, _) in commits.cleared.items()}


def _in_both(done: Finished) -> None:
    """The message of the first generation is in the second one as well."""
    messages: list[Event] = []
    each(MessageReceived, lambda e: messages.append(e) or [e], 0)(done)
    each(ActivityCompleted, lambda e: [*messages, e], 1)(done)


def _same_result(done: Finished) -> None:
    """The second generation takes the result of the first one, which has the same id."""
    results: list[bytes] = []
    each(ActivityCompleted, lambda e: results.append(e.result) or [e], 0)(done)
    each(ActivityCompleted, lambda e: [e._replace(result=results[0])], 1)(done)


def _acked_early(done: Finished) -> None:
    """The message of the second generation, when only the first one had begun."""
    seen: list[Source] = []
    each(MessageReceived, lambda e: seen.append(Source(e.stream, e.sequence)) or [e], 1)(done)
    done.evidence.removed[seen[0]] = done.evidence.published[seen[0]]


PLANTS: dict[str, tuple[Callable[[Finished], None], str]] = {
    "another input": (each(WorkflowStarted, lambda e: [e._replace(input=b"")], 1), "than `recur` was given"),
    "another inheritance": (each(WorkflowStarted, lambda e: [e._replace(carried=b"")], 1), "something else"),
    "begun twice": (each(WorkflowStarted, lambda e: [e, e], 2), "generation 2 was not started exactly once"),
    "goes on after its end": (
        each(WorkflowRecurred, lambda e: [WorkflowCompleted(b"\xa1x")], 0),
        "began after",
    ),
    "no reason to go on": (each(WorkflowRecurred, lambda e: [], 1), "began after"),
    "old history stays": (_uncleared, "the ledger still holds"),
    "cleared too soon": (lambda d: _cleared(d, 0.0), "while it was the last one"),
    "message lost": (each(MessageReceived, lambda e: [], 0), "0 times in its history"),
    "message in two generations": (_in_both, "in its history twice"),
    "result of another generation": (_same_result, "belongs to no attempt"),
    "result lost": (each(ActivityCompleted, lambda e: [], 1), "does not replay"),
    "message acked early": (_acked_early, "(L5)"),
}


def test_unspoiled_it_is_clean() -> None:
    report = run(_plan())
    assert not report.violations
    assert report.reached["WorkflowRecurred"] == 2
    assert report.reached["MessageReceived"] == 2
    assert report.reached["ActivityAbandoned"] == 1


@pytest.mark.parametrize("name", PLANTS)
def test_what_is_planted_is_found(name: str) -> None:
    plant, seen = PLANTS[name]
    violations = run(_plan(), plant).violations
    assert any(seen in violation for violation in violations), violations
