"""Events and the registrations of those who wait for them, on one stream: its order decides who hears what.

Knows nothing of messages to instances; matching a registration is all it does with an event.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from romancy_nats.core.cloudevents import Event, read_event, write_event
from romancy_nats.core.headers import MESSAGE_ID
from romancy_nats.core.ids import InstanceKey, encode_token
from romancy_nats.errors import PayloadError, ServerUnavailableError
from romancy_nats.jetstream import stored
from romancy_nats.jetstream.connection import Connection
from romancy_nats.jetstream.delivered import Delivered
from romancy_nats.jetstream.pull import Pull
from romancy_nats.jetstream.purging import purge
from romancy_nats.jetstream.stored import Stored, TooManyMatchesError
from romancy_nats.jetstream.subjects import DISPATCHER, Subjects
from romancy_nats.jetstream.writes import EXPECTED, TTL, ack_prefix, write
from romancy_nats.ports import PublishedEvent, Refusal, Refused, Registration, Source, WriteReply

PAGE = 1000
_TRIES = 50
_PAUSE = 0.02
_LONGEST_PAUSE = 0.2
_KEPT = "never"
"""A registration outlives the age limit of its stream."""


class Dispatched:
    """Implements `ports.PublishedEvent`. An ack within 50 ms of a server's kill may be lost: it comes again."""

    __slots__ = ("_message", "data", "deliveries", "event", "headers", "reason", "source", "subject")

    def __init__(self, message: Delivered, type: str | None) -> None:
        self._message = message
        self.source = Source(message.stream, message.sequence)
        self.data = message.data
        self.headers = message.headers
        self.deliveries = message.deliveries
        self.subject = message.subject
        self.event: Event | None = None
        self.reason = ""
        if type is None:
            self.reason = f"the subject {message.subject!r} names no event type"
            return
        default_id = f"{message.stream}:{message.sequence}"
        try:
            self.event = read_event(type, message.headers, message.data, default_id)
        except PayloadError as error:
            self.reason = str(error)

    def ack(self) -> None:
        """Done with it."""
        self._message.ack()

    def nak(self, delay: float = 0.0) -> None:
        """Deliver it again, after `delay` seconds."""
        self._message.nak(delay)

    def in_progress(self) -> None:
        """Still at work."""
        self._message.in_progress()

    def __repr__(self) -> str:
        return f"<Dispatched {self.source.stream}:{self.source.sequence} {self.subject}>"


class JetStreamEvents:
    """Implements `ports.Events`. Call `stop_pulling` at the end."""

    def __init__(self, connection: Connection, subjects: Subjects) -> None:
        self._connection = connection
        self._subjects = subjects
        self._stream = subjects.events_stream
        self._prefix = ack_prefix(self._stream)
        self._pull: Pull | None = None

    # --- writing

    async def publish(self, event: Event, message_id: str) -> WriteReply:
        """Publish an event; the message id makes a second time harmless. Raises PayloadError, InvalidNameError."""
        headers, body = write_event(event)
        if message_id:
            # Deduplicated per stream: an id counts for its type only.
            headers[MESSAGE_ID] = f"{encode_token(event.type)}:{encode_token(message_id)}"
        return await write(self._connection, self._subjects.event(event.type), body, headers, self._prefix)

    async def register(
        self, key: InstanceKey, generation: int, wait: str, type: str, event_key: str | None
    ) -> WriteReply:
        """Register a wait, once; refused when it is registered already. `event_key` None hears every key."""
        subject = self._subjects.wait(type, event_key, key, generation, wait)
        reply = await write(self._connection, subject, b"", {EXPECTED: "0", TTL: _KEPT}, self._prefix)
        if isinstance(reply, Refused) and reply.why is Refusal.STALE and ":" not in reply.text:
            # 10164 names no sequence: another write is in flight, and what becomes of it is unknown (L3).
            return None
        return reply

    async def unregister(
        self, key: InstanceKey, generation: int, wait: str, type: str, event_key: str | None
    ) -> WriteReply:
        """Remove a registration; harmless when it is gone."""
        subject = self._subjects.wait(type, event_key, key, generation, wait)
        return await purge(self._connection, self._stream, subject)

    # --- dispatching

    async def pull(self, most: int) -> Sequence[PublishedEvent]:
        """Wait for events to dispatch: one at least, or none after a while. Cancelling it loses nothing."""
        if self._pull is None:
            self._pull = Pull(self._connection, self._stream, DISPATCHER)
        found = await self._pull.pull(most)
        return [Dispatched(one, self._subjects.read_event(one.subject)) for one in found]

    async def stop_pulling(self) -> None:
        """Hear nothing more, then give back what was pulled and not handed out; after the last `pull`."""
        pull, self._pull = self._pull, None
        if pull is not None:
            await pull.close()

    async def matching(self, published: PublishedEvent) -> AsyncIterator[Registration]:
        """Who registered before this event was stored, complete. Raises ServerUnavailableError."""
        event, place = published.event, published.source.sequence
        if event is None:
            return
        filters = [self._subjects.waits(event.type, None)]
        if event.key is not None:
            filters.append(self._subjects.waits(event.type, event.key))
        subject = published.subject if isinstance(published, Dispatched) else self._subjects.event(event.type)
        try:
            found = await self._at_once(filters, subject, place)
        except TooManyMatchesError:
            for one in filters:
                async for registration in self._in_pages(one, place):
                    yield registration
            return
        for stored_wait in found:
            if (registration_read := self._read(stored_wait, place)) is not None:
                yield registration_read

    async def _at_once(self, filters: Sequence[str], subject: str, place: int) -> list[Stored]:
        """One answer of one replica with the event's own subject in it: one that has not got so far is asked again."""
        request = {"multi_last": [*filters, subject]}
        pause = _PAUSE
        for _ in range(_TRIES):
            found = await stored.several(self._connection, self._stream, request)
            if any(one.sequence >= place and not self._is_wait(one) for one in found):
                return found
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)
        raise ServerUnavailableError(
            f"the replicas of {self._stream} lag behind sequence {place}; is the cluster whole?"
        )

    async def _in_pages(self, filter_subject: str, place: int) -> AsyncIterator[Registration]:
        """Any number of them. A replica that shows a message has everything before it, for it stores in order;
        that nothing follows the last one is for the leader to say."""
        sequence = 1
        while True:
            request = {"batch": PAGE, "seq": sequence, "next_by_subj": filter_subject}
            page = await stored.several(self._connection, self._stream, request)
            if not page and (following := await self._following(filter_subject, sequence, place)) is not None:
                page = [following]
            if not page:
                return
            for one in page:
                if one.sequence >= place:
                    return
                if (registration := self._read(one, place)) is not None:
                    yield registration
            sequence = page[-1].sequence + 1

    async def _following(self, filter_subject: str, sequence: int, place: int) -> Stored | None:
        if await stored.at(self._connection, self._stream, place) is None:
            # A leader without the event itself has just been elected, and is not that far yet.
            raise ServerUnavailableError(f"{self._stream} has no message {place} just now")
        return await stored.next_on(self._connection, self._stream, filter_subject, sequence)

    def _is_wait(self, one: Stored) -> bool:
        return one.subject.startswith(self._subjects.wait_prefix)

    def _read(self, one: Stored, place: int) -> Registration | None:
        if one.sequence >= place or not self._is_wait(one):
            return None
        read = self._subjects.read_wait(one.subject)
        return None if read is None else Registration(*read)
