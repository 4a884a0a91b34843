"""Events and registrations in memory, on one sequence; replicas that lag, and the barrier against them."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from romancy_nats.core.cloudevents import Event, read_event, write_event
from romancy_nats.core.headers import MESSAGE_ID
from romancy_nats.core.ids import InstanceKey, encode_token
from romancy_nats.errors import PayloadError, ServerUnavailableError
from romancy_nats.ports import Delivery, PublishedEvent, Refusal, Refused, Registration, WriteReply
from romancy_nats.testing.memory.process import Answer, Effect, Process
from romancy_nats.testing.memory.pulling import Puller
from romancy_nats.testing.memory.revisions import Revisions
from romancy_nats.testing.memory.stream import UNLIMITED, Consumer, Stream

if TYPE_CHECKING:
    from romancy_nats.testing.memory.store import MemoryServer

DISPATCHER = "dispatch"
_TRIES = 50
_PAUSE = 0.1
_REMEMBERED = 60_000_000
"""µs for which a removed registration is kept for replicas that lag."""


class Heard(NamedTuple):
    """What a registration is for: a type, and a key or any."""

    type: str
    key: str | None


class StoredWait(NamedTuple):
    """A registration as the stream holds it. Times are µs since the epoch; `removed` is 0 while it is there."""

    sequence: int
    time: int
    removed: int = 0


class EventLog:
    """The stream of events and registrations."""

    def __init__(self, server: MemoryServer, name: str) -> None:
        self._server = server
        self.stream = Stream(server, name)
        self.waits: dict[Heard, dict[Registration, StoredWait]] = {}
        self._revisions = Revisions(server)

    @property
    def consumer(self) -> Consumer:
        return self.stream.consumer(DISPATCHER, UNLIMITED)

    def register(self, registration: Registration, heard: Heard, answer: Answer) -> None:
        store = partial(self._store, registration, heard)
        self._revisions.propose(_subject(registration, heard), 0, None, store, answer)

    def _store(self, registration: Registration, heard: Heard) -> int:
        self.stream.sequence += 1
        sequence = self.stream.sequence
        self._revisions.last[_subject(registration, heard)] = sequence
        self.waits.setdefault(heard, {})[registration] = StoredWait(sequence, self._server.micros())
        return sequence

    def unregister(self, registration: Registration, heard: Heard, answer: Answer) -> None:
        self._revisions.last.pop(_subject(registration, heard), None)
        now = self._server.micros()
        waits = self.waits.get(heard, {})
        for one, wait in list(waits.items()):
            if wait.removed and wait.removed < now - _REMEMBERED:
                del waits[one]
        if (found := waits.get(registration)) is not None and not found.removed:
            waits[registration] = found._replace(removed=now)
        answer(1)

    def all_matching(self, kinds: Sequence[Heard], before: int, cutoff: int) -> list[Registration]:
        return [one for kind in kinds for one in self.matching(kind, before, cutoff)]

    def matching(self, heard: Heard, before: int, cutoff: int) -> list[Registration]:
        """In the order of their registration, as a replica sees it that has got to the cutoff."""
        rows = [
            (wait.sequence, registration)
            for registration, wait in self.waits.get(heard, {}).items()
            if wait.sequence < before and wait.time <= cutoff and not 0 < wait.removed <= cutoff
        ]
        return [registration for _, registration in sorted(rows, key=lambda row: row[0])]


def _subject(registration: Registration, heard: Heard) -> str:
    key, generation, wait = registration
    return f"{heard!r} {key.token} {generation} {wait}"


class MemoryPublished:
    """Implements `ports.PublishedEvent`. Its type is the `id` that the stream keeps beside it."""

    __slots__ = ("_delivery", "data", "deliveries", "event", "headers", "reason", "source", "time")

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self.source = delivery.source
        self.data = delivery.data
        self.headers = delivery.headers
        self.deliveries = delivery.deliveries
        self.time = delivery.time
        self.event: Event | None = None
        self.reason = ""
        default_id = f"{delivery.source.stream}:{delivery.source.sequence}"
        try:
            self.event = read_event(delivery.id, delivery.headers, delivery.data, default_id)
        except PayloadError as error:
            self.reason = str(error)

    def ack(self) -> None:
        self._delivery.ack()

    def nak(self, delay: float = 0.0) -> None:
        self._delivery.nak(delay)

    def in_progress(self) -> None:
        self._delivery.in_progress()


class MemoryEvents:
    """Implements `ports.Events` for one process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._server = process.server
        self._log = process.server.events
        self._puller: Puller | None = None

    # --- writing

    async def publish(self, event: Event, message_id: str) -> WriteReply:
        headers, body = write_event(event)
        if message_id:
            headers[MESSAGE_ID] = f"{encode_token(event.type)}:{encode_token(message_id)}"
        size = len(body) + sum(len(name) + len(value) + 4 for name, value in headers.items()) + 12
        if size > self._server.max_payload:
            return Refused(
                Refusal.TOO_LARGE, f"a message of {size:,} bytes, the limit is {self._server.max_payload:,}"
            )

        def effect(answer: Answer) -> None:
            answer(self._log.stream.publish(DISPATCHER, event.type, body, headers))

        return await self._process.write(effect)

    async def register(
        self, key: InstanceKey, generation: int, wait: str, type: str, event_key: str | None
    ) -> WriteReply:
        registration = Registration(key, generation, wait)
        effect: Effect = partial(self._log.register, registration, Heard(type, event_key))
        reply = await self._process.write(effect)
        if isinstance(reply, Refused) and reply.why is Refusal.STALE and ":" not in reply.text:
            return None  # another write of it is in flight (L3)
        return reply

    async def unregister(
        self, key: InstanceKey, generation: int, wait: str, type: str, event_key: str | None
    ) -> WriteReply:
        registration = Registration(key, generation, wait)
        return await self._process.write(partial(self._log.unregister, registration, Heard(type, event_key)))

    # --- dispatching

    async def pull(self, most: int) -> Sequence[PublishedEvent]:
        await self._process.boundary()
        if self._puller is None:
            self._puller = Puller(self._process, self._log.consumer)
        await self._puller.arrived(most)
        await self._process.boundary()
        return [MemoryPublished(one) for one in self._puller.take(most)]

    async def stop_pulling(self) -> None:
        puller, self._puller = self._puller, None
        if puller is not None:
            for delivery in puller.take(sys.maxsize):
                delivery.nak()

    async def matching(self, published: PublishedEvent) -> AsyncIterator[Registration]:
        event = published.event
        if event is None:
            return
        for registration in await self._complete(published, event):
            yield registration

    async def _complete(self, published: PublishedEvent, event: Event) -> list[Registration]:
        """What a replica says that has got as far as the event itself; one that has not is asked again."""
        kinds = [Heard(event.type, None)] + ([Heard(event.type, event.key)] if event.key is not None else [])
        stored_at = published.time if isinstance(published, MemoryPublished) else 0
        place = published.source.sequence
        for _ in range(_TRIES):
            cutoff = self._server.micros(self._process.replica_cutoff())
            found = await self._process.ask(partial(self._log.all_matching, kinds, place, cutoff))
            if cutoff >= stored_at:
                return found
            await self._process.sleep(_PAUSE)
        raise ServerUnavailableError("the replicas lag behind the event; ask again")
