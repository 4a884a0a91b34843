"""The checker's own test for what waits: a clean run, one thing in it spoiled, and the rule that has to see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import pytest

from romancy_nats.core.commit import Commit
from romancy_nats.core.events import (
    EventReceived,
    MessageReceived,
    Skipped,
    TimerCancelled,
    TimerFired,
    TimerStarted,
    UpdateAnswered,
    WaitEnded,
)
from romancy_nats.core.headers import KIND
from romancy_nats.core.record import InstanceRecord, InstanceStatus
from romancy_nats.testing.memory import Faults
from tests.simulation.schedule import NEVER, Finished, Plan, run
from tests.simulation.spoiling import each, rewrite, shard_of, told
from tests.simulation.waits import AT_THE_WAIT, Sending

WAITS: list[Any] = [
    ["serve"],
    ["wait", "news", "i0", 30.0],
    ["receive", "a", None],
    ["receive", "a", None],
    ["sleep", 4.0],
]
SENDINGS = [
    Sending("event", "news", "i0", AT_THE_WAIT, 1.0),
    Sending("message", "a", None, AT_THE_WAIT, 1.0),
    Sending("message", "a", None, AT_THE_WAIT, 2.0),
    Sending("update", "put", None, 1, 3.0, seconds=0.5),
]


def _plan(archive_after: float) -> Plan:
    faults = Faults(seed=1, latency=0.01)
    plan = Plan(1, faults, 1, 1, [WAITS], [None], sendings=[SENDINGS], scheduled=False)
    plan.archive_after = archive_after
    return plan


def _unsent(done: Finished) -> None:
    messages = done.evidence.messages
    for source in [source for source, message in messages.items() if message.headers.get(KIND) == "event"]:
        del messages[source]
        done.evidence.removed.pop(source)


def _registered(done: Finished, **changed: float) -> None:
    (one,) = done.evidence.kept.registered
    for name, value in changed.items():
        setattr(one, name, value)


def _after_its_end(done: Finished) -> None:
    """The event moves behind the end of the wait that it answered."""

    def moved(_: int, commit: Commit) -> list[Any]:
        late = [e for e in commit.events if isinstance(e, EventReceived)]
        return [
            each
            for e in commit.events
            if e not in late
            for each in ([e, *late] if isinstance(e, WaitEnded) else [e])
        ]

    rewrite(done, moved)


def _swap_orders(done: Finished) -> None:
    orders = iter([2, 1])
    each(MessageReceived, lambda e: [e._replace(order=next(orders))])(done)


def _versions(done: Finished, fits: Callable[[InstanceRecord], bool], **changed: Any) -> None:
    (versions,) = shard_of(done).records.values()
    for n, stored in enumerate(versions):
        record = InstanceRecord.decode(stored.data)
        if fits(record):
            versions[n] = stored._replace(data=replace(record, **changed).encode())


def _resting(record: InstanceRecord) -> bool:
    return record.status in (InstanceStatus.WAITING_FOR_EVENT, InstanceStatus.WAITING_FOR_TIMER)


def _early(done: Finished) -> None:
    """All timers due an hour later than they were fired."""
    each(TimerStarted, lambda e: [e._replace(due=e.due + 3_600_000_000)])(done)


def _another_archive(done: Finished) -> None:
    """Only its first commit is there."""
    for place, data in done.server.archived.items():
        done.server.archived[place] = msgpack.packb(msgpack.unpackb(data)[:1])


def _uncleared(done: Finished) -> None:
    for shard in done.server.shards:
        commits: Any = shard.commits
        commits.cleared = {place: (stored, 0.0) for place, (stored, _) in commits.cleared.items()}


def _reread(done: Finished) -> None:
    assert done.told[0].reread is not None
    done.told[0].reread.pop()


def _answered_otherwise(done: Finished) -> None:
    (said,) = [said for said in done.told[0].said if said.kind == "update"]
    said.answer = "put something else"


LIVE, MOVED = NEVER, 1.0
PLANTS: dict[str, tuple[float, Callable[[Finished], None], str]] = {
    "event not sent": (LIVE, _unsent, "was not sent to"),
    "event doubled": (LIVE, each(EventReceived, lambda e: [e, e]), "heard an event twice"),
    "event after its wait": (LIVE, _after_its_end, "timeout XOR event"),
    "event before its registration": (LIVE, lambda d: _registered(d, sequence=99), "which is not for it"),
    "registered after the rest": (LIVE, lambda d: _registered(d, time=99.0), "not registered (L5)"),
    "registration left": (LIVE, lambda d: _registered(d, removed=float("inf")), "is still registered"),
    "unregistered too soon": (LIVE, lambda d: _registered(d, removed=0.0), "before its end"),
    "timer fired and stopped": (
        LIVE,
        each(TimerFired, lambda e: [e, TimerCancelled(e.id)]),
        "both fired and was stopped",
    ),
    "timer early": (LIVE, _early, "was stored 3"),
    "nothing promised": (LIVE, lambda d: _versions(d, _resting, next_due=0), "and a timer is due"),
    "message lost": (LIVE, each(MessageReceived, lambda e: []), "0 times in its history"),
    "message doubled": (LIVE, each(MessageReceived, lambda e: [e, e]), "2 times in its history"),
    "messages out of order": (LIVE, _swap_orders, "came after the later"),
    "update unanswered": (LIVE, each(UpdateAnswered, lambda e: []), "answered 0 times"),
    "update answered twice": (LIVE, each(UpdateAnswered, lambda e: [e, e]), "answered 2 times"),
    "update answered otherwise": (LIVE, _answered_otherwise, "not what its history says"),
    "update told as refused": (
        LIVE,
        each(UpdateAnswered, lambda e: [e._replace(rejected=True)]),
        "the caller was told",
    ),
    "archived while it lives": (MOVED, lambda d: _versions(d, _resting, archived=[1]), "archived although"),
    "archive lost": (MOVED, lambda d: d.server.archived.clear(), "the archive holds 0 commits"),
    "archive of another": (MOVED, _another_archive, "the archive holds 1 commits"),
    "cleared too soon": (MOVED, _uncleared, "when no archive had it"),
    "never archived": (MOVED, lambda d: _versions(d, lambda r: r.sealed, sealed=False), "never left"),
    "told less when all is over": (MOVED, _reread, "reads otherwise"),
    "another end when all is over": (
        MOVED,
        lambda d: _versions(d, lambda r: r.sealed, status=InstanceStatus.FAILED),
        "and then failed",
    ),
    "never told": (MOVED, lambda d: told(d, outcome="WorkflowFailedError"), "the client was told"),
}


@pytest.mark.parametrize("archive_after", [LIVE, MOVED])
def test_unspoiled_it_is_clean(archive_after: float) -> None:
    report = run(_plan(archive_after))
    assert not report.violations
    assert report.reached["EventReceived"] == 1
    assert report.reached["MessageReceived"] == 2
    assert report.reached["read from the archive"] == (archive_after == MOVED)


@pytest.mark.parametrize("name", PLANTS)
def test_what_is_planted_is_found(name: str) -> None:
    archive_after, plant, seen = PLANTS[name]
    violations = run(_plan(archive_after), plant).violations
    assert any(seen in violation for violation in violations), violations


SKIPS: list[Any] = [["wait", "news", "i0", 30.0]]
MISFITTING = [
    Sending("event", "news", "i0", AT_THE_WAIT, 1.0, misfit=True),
    Sending("event", "news", "i0", AT_THE_WAIT, 2.0),
]
SKIPPED: dict[str, tuple[Callable[[Finished], None], str]] = {
    "copy lost": (lambda d: d.evidence.letters.clear(), "was skipped, and no copy"),
    "copy of what was not skipped": (each(Skipped, lambda e: []), "was not skipped, and is parked"),
}


def _skipping() -> Plan:
    faults = Faults(seed=1, latency=0.01)
    return Plan(1, faults, 1, 1, [SKIPS], [None], sendings=[MISFITTING], scheduled=False)


def test_unspoiled_a_misfit_is_clean() -> None:
    report = run(_skipping())
    assert not report.violations
    assert report.reached["Skipped"] == 1


@pytest.mark.parametrize("name", SKIPPED)
def test_what_is_planted_in_misfits_is_found(name: str) -> None:
    plant, seen = SKIPPED[name]
    violations = run(_skipping(), plant).violations
    assert any(seen in violation for violation in violations), violations
