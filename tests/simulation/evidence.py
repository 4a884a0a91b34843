"""What the server saw and does not keep: when messages went, how long leases lived, when stopped processes went on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from romancy_nats.core.commit import Commit
from romancy_nats.core.headers import ORIGIN_SEQUENCE, ORIGIN_STREAM
from romancy_nats.ports import Source
from romancy_nats.testing.memory import MemoryServer, MemoryWorld
from romancy_nats.testing.memory.stream import StoredMessage, Stream
from tests.simulation.kept import Kept
from tests.simulation.record import Ledgerbook


@dataclass(slots=True)
class Life:
    """One life of a lease key, in virtual time. `label` is the process that took it."""

    incarnation: str
    label: str
    began: float
    ended: float = float("inf")


class Watched(dict[Any, Any]):
    """A dict of the server that tells what comes and what goes."""

    def __init__(
        self, old: dict[Any, Any], came: Callable[[Any, Any], None], went: Callable[[Any, Any], None]
    ) -> None:
        super().__init__(old)
        self._came = came
        self._went = went

    def __setitem__(self, key: Any, value: Any) -> None:
        if key not in self:
            self._came(key, value)
        super().__setitem__(key, value)

    def pop(self, key: Any, *default: Any) -> Any:
        if key in self:
            self._went(key, self[key])
        return super().pop(key, *default)


@dataclass(slots=True)
class Evidence:
    """Watches a server from outside; nothing here changes what happens."""

    server: MemoryServer
    kept: Kept
    published: dict[Source, float] = field(default_factory=dict[Source, float])
    messages: dict[Source, StoredMessage] = field(default_factory=dict[Source, StoredMessage])
    removed: dict[Source, float] = field(default_factory=dict[Source, float])
    purged: set[Source] = field(default_factory=set[Source])
    letters: dict[Source, float] = field(default_factory=dict[Source, float])
    lives: list[Life] = field(default_factory=list[Life])
    thaws: set[tuple[str, float]] = field(default_factory=set[tuple[str, float]])

    def watch(self) -> None:
        """From now on."""
        self.kept.watch()
        for stream in (self.server.start_stream, self.server.messages_stream, self.server.timers_stream):
            self._watch_stream(stream)
        events = self.server.events.stream
        events.messages = Watched(events.messages, self.kept.published, self.kept.acked)
        dead = self.server.dead_stream
        dead.messages = Watched(dead.messages, self._parked, lambda _sequence, _message: None)
        leases = self.server.leases
        leases.keys = Watched(leases.keys, self._lease_began, self._lease_ended)

    def _watch_stream(self, stream: Stream) -> None:
        def came(sequence: int, message: Any) -> None:
            self.published[Source(stream.name, sequence)] = self._now()
            self.messages[Source(stream.name, sequence)] = message

        def went(sequence: int, _: Any) -> None:
            self.removed[Source(stream.name, sequence)] = self._now()

        stream.messages = Watched(stream.messages, came, went)

    def watch_process(self, world: MemoryWorld) -> None:
        """Its pauses too."""
        pause = world.process.pause

        def paused(seconds: float) -> None:
            self.thaws.add((world.name, self._now() + seconds))
            pause(seconds)

        world.process.pause = paused  # type: ignore[method-assign]

    def _parked(self, _: int, letter: StoredMessage) -> None:
        headers = letter.headers
        source = Source(headers[ORIGIN_STREAM], int(headers[ORIGIN_SEQUENCE]))
        self.letters.setdefault(source, self._now())

    def purge(self) -> int:
        """Somebody empties the queues of what histories hold already: only the sweeper finds those instances."""
        gone = 0
        for shard in self.server.shards:
            for place, stored in shard.commits.items():
                for event in Commit.decode(stored.data).events if place.n == 1 else ():
                    source = Source(getattr(event, "stream", ""), getattr(event, "sequence", 0))
                    stream = self.server.streams.get(source.stream)
                    if stream is not None and source.sequence in stream.messages:
                        self.purged.add(source)
                        stream.remove(source.sequence)
                        gone += 1
        return gone

    def _now(self) -> float:
        return self.server.loop.time()

    def _lease_began(self, incarnation: str, key: Any) -> None:
        self.lives.append(Life(incarnation, key.label, self._now()))

    def _lease_ended(self, incarnation: str, _: Any) -> None:
        for life in self.lives:
            if life.incarnation == incarnation and life.ended == float("inf"):
                life.ended = self._now()

    # --- what a checker asks

    def alive(self, incarnation: str, time: float) -> bool:
        """Whether its key was there."""
        return any(life.incarnation == incarnation and life.began <= time < life.ended for life in self.lives)

    def process_alive(self, process: str, time: float) -> bool:
        """Whether any key of that process was there (or went at that very instant)."""
        return any(life.label == process and life.began <= time <= life.ended for life in self.lives)

    def thawed(self, process: str, time: float) -> bool:
        """Whether it went on just then after a pause."""
        return (process, time) in self.thaws

    def parked(self, source: Source, time: float) -> bool:
        """Whether a dead letter was written for it by then."""
        return source in self.letters and self.letters[source] <= time


def trace(server: MemoryServer, book: Ledgerbook, evidence: Evidence) -> str:
    """One line for all that a run did: each record and commit byte for byte, attempts, messages, leases, all times."""
    digest = hashlib.sha256()
    for shard in server.shards:
        digest.update(repr((shard.records, shard.commits)).encode())
    attempts = [
        (a.id, a.activity_id, a.number, a.process, a.began, a.ended, a.value, a.error) for a in book.attempts
    ]
    kept = evidence.kept
    seen = (
        kept.events,
        kept.registered,
        server.archived,
        evidence.published,
        evidence.removed,
        evidence.letters,
        evidence.lives,
        sorted(evidence.thaws),
    )
    boundaries = [(world.name, world.boundaries, world.crashed) for world in server.worlds]
    digest.update(repr((attempts, seen, boundaries, server.loop.time())).encode())
    return digest.hexdigest()
