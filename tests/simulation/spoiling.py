"""Ways to spoil the data of a finished run, for the checker's own tests. Knows no rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from romancy_nats.core.commit import Commit
from romancy_nats.core.events import Event
from tests.simulation.schedule import Finished


def shard_of(done: Finished) -> Any:
    """The shard that holds the one instance of a run."""
    return next(shard for shard in done.server.shards if shard.records)


def rewrite(done: Finished, change: Callable[[int, Commit], Sequence[Event]]) -> None:
    """Other events in each of its commits."""
    commits = shard_of(done).commits
    for place, stored in list(commits.items()):
        commits[place] = _rewritten(stored, lambda commit, n=place.n: change(n, commit))


def rewrite_generation(done: Finished, generation: int, change: Callable[[Commit], Sequence[Event]]) -> None:
    """Other events in each commit of one generation, in the ledger or cleared from it."""
    commits = shard_of(done).commits
    for place, stored in list(commits.items()):
        if place.generation == generation:
            commits[place] = _rewritten(stored, change)
    for place, (stored, time) in commits.cleared.items():
        if place.generation == generation:
            commits.cleared[place] = (_rewritten(stored, change), time)


def _rewritten(stored: Any, change: Callable[[Commit], Sequence[Event]]) -> Any:
    commit = Commit.decode(stored.data)
    return stored._replace(data=replace(commit, events=tuple(change(commit))).encode())


def each(
    kind: type, then: Callable[[Any], list[Event]], generation: int | None = None
) -> Callable[[Finished], None]:
    """Replace each event of that kind by others; in one generation, if it is given."""

    def changed(commit: Commit) -> list[Event]:
        return [e for event in commit.events for e in (then(event) if isinstance(event, kind) else [event])]

    def plant(done: Finished) -> None:
        if generation is None:
            rewrite(done, lambda _, commit: changed(commit))
        else:
            rewrite_generation(done, generation, changed)

    return plant


def told(done: Finished, **changed: Any) -> None:
    """Its user was told something else."""
    for name, value in changed.items():
        setattr(done.told[0], name, value)
