"""The histories of all generations of an instance as one: what they name is told apart, commits are counted through."""

from __future__ import annotations

from dataclasses import dataclass, field

from romancy_nats.core.commit import Commit
from romancy_nats.core.events import (
    ActivityAbandoned,
    ActivityAttemptFailed,
    ActivityCompleted,
    ActivityFailed,
    ActivityScheduled,
    Event,
    EventReceived,
    TimerCancelled,
    TimerFired,
    TimerStarted,
    WaitEnded,
    WaitStarted,
)
from romancy_nats.testing.memory.ledger import Place, StoredCommit

_WITH_AN_ID = (
    ActivityAbandoned
    | ActivityAttemptFailed
    | ActivityCompleted
    | ActivityFailed
    | TimerCancelled
    | TimerFired
    | TimerStarted
    | WaitEnded
    | WaitStarted
)


def named(generation: int, id: str) -> str:
    """An id that counts from 1 in each generation, unlike that of any other generation."""
    return f"{generation}:{id}" if generation and id else id


def renamed(event: Event, generation: int) -> Event:
    """The event with such ids."""
    if isinstance(event, EventReceived):
        return event._replace(wait=named(generation, event.wait))
    if isinstance(event, ActivityScheduled):
        id, undone = named(generation, event.id), named(generation, event.compensates)
        return event._replace(id=id, compensates=undone)
    if isinstance(event, _WITH_AN_ID):
        return event._replace(id=named(generation, event.id))
    return event


def last_words(generation: int, wait: str) -> str:
    """How the message id of an event ends that was sent to a wait, `named` as it is here."""
    return f":{wait}" if generation else f":0:{wait}"


@dataclass(slots=True)
class Histories:
    """The commits of each generation."""

    commits: list[list[tuple[StoredCommit, Commit]]] = field(
        default_factory=list[list[tuple[StoredCommit, Commit]]]
    )
    gaps: list[int] = field(default_factory=list[int])
    """Generations whose history is not whole."""

    def all(self) -> list[tuple[int, StoredCommit, Commit]]:
        """Every commit in its order, with its generation."""
        return [(g, stored, commit) for g, history in enumerate(self.commits) for stored, commit in history]

    def before(self, generation: int) -> int:
        """How many commits there are before a generation."""
        return sum(len(history) for history in self.commits[:generation])


def histories(stored: dict[Place, StoredCommit]) -> Histories:
    """All that was ever stored of one instance, in order."""
    found = Histories()
    for generation in range(max((place.generation for place in stored), default=-1) + 1):
        mine = sorted((place.n, kept) for place, kept in stored.items() if place.generation == generation)
        if [n for n, _ in mine] != list(range(1, len(mine) + 1)) or not mine:
            found.gaps.append(generation)
        found.commits.append([(kept, Commit.decode(kept.data)) for _, kept in mine])
    return found
