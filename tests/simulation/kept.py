"""What ledger, event stream and workers do not keep: cleared commits, registrations, who handled which message."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from romancy_nats.core.cloudevents import read_event
from romancy_nats.core.commit import Commit
from romancy_nats.core.events import Ending, WaitStarted
from romancy_nats.core.ids import InstanceKey
from romancy_nats.ports import Delivery, Registration, Source
from romancy_nats.runtime.engine import Engine
from romancy_nats.testing.memory import MemoryServer
from romancy_nats.testing.memory.events import Heard, StoredWait
from romancy_nats.testing.memory.ledger import Place, StoredCommit
from romancy_nats.testing.memory.process import Answer
from romancy_nats.testing.memory.stream import StoredMessage


@dataclass(slots=True)
class SentEvent:
    """An event on the stream."""

    sequence: int
    type: str
    key: str | None
    time: float
    acked: float = float("inf")


@dataclass(slots=True)
class Registered:
    """A registration as it was stored once."""

    key: InstanceKey
    wait: str
    heard: Heard
    sequence: int
    time: float
    generation: int = 0
    removed: float = float("inf")


@dataclass(slots=True)
class Forward:
    """One worker told another about a message."""

    key: InstanceKey
    began: float
    ended: float = float("inf")


class Commits(dict[Place, StoredCommit]):
    """The commits of a shard, and what was cleared of them."""

    def __init__(
        self, old: dict[Place, StoredCommit], came: Callable[[Place, StoredCommit], None], now: Any
    ) -> None:
        super().__init__(old)
        self._came = came
        self._now = now
        self.cleared: dict[Place, tuple[StoredCommit, float]] = {}

    def __setitem__(self, place: Place, stored: StoredCommit) -> None:
        super().__setitem__(place, stored)
        self._came(place, stored)

    def __delitem__(self, place: Place) -> None:
        self.cleared[place] = (self[place], self._now())
        super().__delitem__(place)


@dataclass(slots=True)
class Kept:
    """Watches a server and its workers from outside; nothing here changes what happens."""

    server: MemoryServer
    events: dict[int, SentEvent] = field(default_factory=dict[int, SentEvent])
    registered: list[Registered] = field(default_factory=list[Registered])
    handled: dict[Source, dict[str, float]] = field(default_factory=dict[Source, dict[str, float]])
    """For each message the processes that handled it, and when each began."""
    forwards: list[Forward] = field(default_factory=list[Forward])
    grown: dict[str, int] = field(default_factory=dict[str, int])
    """How many commits each instance has that somebody looks at, by its token; then what it waits for, and its end."""
    begun: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    ending: set[str] = field(default_factory=set[str])
    news: dict[str, asyncio.Event] = field(default_factory=dict[str, asyncio.Event])

    def watch(self) -> None:
        """From now on."""
        for shard in self.server.shards:
            shard.commits = Commits(shard.commits, self._grew, self._now)
        log: Any = self.server.events
        store, unregister = log._store, log.unregister
        log._store = partial(self._stored, store)
        log.unregister = partial(self._removed, unregister)

    def _now(self) -> float:
        return self.server.loop.time()

    def _grew(self, place: Place, stored: StoredCommit) -> None:
        if (news := self.news.get(place.token)) is None:
            return
        self.grown[place.token] = self.grown.get(place.token, 0) + 1
        for event in Commit.decode(stored.data).events:
            if isinstance(event, WaitStarted):
                self.begun.add((place.token, event.name))
            elif isinstance(event, Ending):
                self.ending.add(place.token)
        news.set()

    def published(self, sequence: int, message: StoredMessage) -> None:
        """An event is on the stream."""
        event = read_event(message.id, message.headers, message.data, "")
        self.events[sequence] = SentEvent(sequence, message.id, event.key, self._now())

    def acked(self, sequence: int, _: StoredMessage) -> None:
        """It was dispatched."""
        self.events[sequence].acked = self._now()

    def _stored(
        self, store: Callable[[Registration, Heard], int], registration: Registration, heard: Heard
    ) -> int:
        sequence = store(registration, heard)
        one = Registered(
            registration.key, registration.wait, heard, sequence, self._now(), registration.generation
        )
        self.registered.append(one)
        return sequence

    def _removed(
        self, unregister: Callable[..., None], registration: Registration, heard: Heard, answer: Answer
    ) -> None:
        there: StoredWait | None = self.server.events.waits.get(heard, {}).get(registration)
        if there is not None and not there.removed:
            for one in self.registered:
                if one.sequence == there.sequence:
                    one.removed = self._now()
        unregister(registration, heard, answer)

    def follow(self, engine: Engine, process: str) -> None:
        """What a worker does with messages."""
        inside: Any = engine
        claims: Any = inside._messages._claims
        handle, forward = engine.handle, claims._forward

        async def handling(delivery: Delivery) -> None:
            if delivery.source.sequence:
                self.handled.setdefault(delivery.source, {}).setdefault(process, self._now())
            await handle(delivery)

        engine.handle = inside._forwards._handle = handling  # type: ignore[method-assign]
        claims._forward = partial(self._forwarding, forward)

    async def _forwarding(
        self, forward: Callable[..., Awaitable[None]], key: InstanceKey, owner: str, delivery: Delivery
    ) -> None:
        one = Forward(key, self._now())
        self.forwards.append(one)
        try:
            await forward(key, owner, delivery)
        finally:
            one.ended = self._now()

    # --- for those who want to be there in the very moment

    def look_at(self, key: InstanceKey) -> None:
        """From now on, for those who wait for its commits."""
        self.news.setdefault(key.token, asyncio.Event())

    async def until(self, key: InstanceKey, there: Callable[[], bool]) -> None:
        """Return when it is so; looks whenever the instance has a new commit."""
        news = self.news[key.token]
        while not there():
            news.clear()
            await news.wait()

    def ring(self, key: InstanceKey) -> None:
        """Let everybody look who waits for commits of it."""
        if (news := self.news.get(key.token)) is not None:
            news.set()
