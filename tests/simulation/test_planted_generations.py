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
from tests.simulation.spoiling import rewrite_generation, shard_of
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


def _each(generation: int, kind: type, then: Callable[[Any], list[Event]]) -> Callable[[Finished], None]:
    """Replace each event of that kind in one generation by others."""

    def events_of(event: Event) -> list[Event]:
        return then(event) if isinstance(event, kind) else [event]

    def plant(done: Finished) -> None:
        rewrite_generation(done, generation, lambda c: [e for event in c.events for e in events_of(event)])

    return plant


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
    _each(0, MessageReceived, lambda e: messages.append(e) or [e])(done)
    _each(1, ActivityCompleted, lambda e: [*messages, e])(done)


def _same_result(done: Finished) -> None:
    """The second generation takes the result of the first one, which has the same id."""
    results: list[bytes] = []
    _each(0, ActivityCompleted, lambda e: results.append(e.result) or [e])(done)
    _each(1, ActivityCompleted, lambda e: [e._replace(result=results[0])])(done)


def _acked_early(done: Finished) -> None:
    """The message of the second generation, when only the first one had begun."""
    seen: list[Source] = []
    _each(1, MessageReceived, lambda e: seen.append(Source(e.stream, e.sequence)) or [e])(done)
    done.evidence.removed[seen[0]] = done.evidence.published[seen[0]]


PLANTS: dict[str, tuple[Callable[[Finished], None], str]] = {
    "another input": (_each(1, WorkflowStarted, lambda e: [e._replace(input=b"")]), "than `recur` was given"),
    "another inheritance": (_each(1, WorkflowStarted, lambda e: [e._replace(carried=b"")]), "something else"),
    "begun twice": (_each(2, WorkflowStarted, lambda e: [e, e]), "generation 2 was not started exactly once"),
    "goes on after its end": (
        _each(0, WorkflowRecurred, lambda e: [WorkflowCompleted(b"\xa1x")]),
        "began after",
    ),
    "no reason to go on": (_each(1, WorkflowRecurred, lambda e: []), "began after"),
    "old history stays": (_uncleared, "the ledger still holds"),
    "cleared too soon": (lambda d: _cleared(d, 0.0), "while it was the last one"),
    "message lost": (_each(0, MessageReceived, lambda e: []), "0 times in its history"),
    "message in two generations": (_in_both, "in its history twice"),
    "result of another generation": (_same_result, "belongs to no attempt"),
    "result lost": (_each(1, ActivityCompleted, lambda e: []), "does not replay"),
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
