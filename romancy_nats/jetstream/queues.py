"""The work queues on JetStream: pulling, publishing, parking. Knows no meaning of what is in a message."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from romancy_nats.core.headers import TRUNCATED, dead_letter_headers, message_headers, starts
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.messages.envelope import Message
from romancy_nats.jetstream import stored
from romancy_nats.jetstream.connection import Connection
from romancy_nats.jetstream.delivered import Delivered
from romancy_nats.jetstream.pull import Pull
from romancy_nats.jetstream.stored import Stored
from romancy_nats.jetstream.subjects import Subjects
from romancy_nats.jetstream.writes import ack_prefix, size, write
from romancy_nats.ports import DeadLetter, Delivery, QueueKind, Refusal, Refused, Source, WriteReply

SCAN_PAGE = 200


class _Answerable(Protocol):
    def ack(self) -> None: ...
    def nak(self, delay: float = 0.0) -> None: ...
    def in_progress(self) -> None: ...


class _Unanswerable:
    """The answers of a message that somebody else holds (L6)."""

    def ack(self) -> None: ...
    def nak(self, delay: float = 0.0) -> None: ...
    def in_progress(self) -> None: ...


_SILENT = _Unanswerable()


class Handed:
    """Implements `ports.Delivery`."""

    __slots__ = ("_answers", "data", "deliveries", "headers", "id", "source", "time", "workflow")

    def __init__(
        self, message: Delivered | Stored, source: Source, workflow: str, id: str, deliveries: int, time: int
    ) -> None:
        self._answers: _Answerable = message if isinstance(message, Delivered) else _SILENT
        self.source = source
        self.workflow = workflow
        self.id = id
        self.headers: Mapping[str, str] = message.headers
        self.data = message.data
        self.deliveries = deliveries
        self.time = time

    def ack(self) -> None:
        """Done with it."""
        self._answers.ack()

    def nak(self, delay: float = 0.0) -> None:
        """Deliver it again, after `delay` seconds."""
        self._answers.nak(delay)

    def in_progress(self) -> None:
        """Still at work."""
        self._answers.in_progress()

    def __repr__(self) -> str:
        return f"<Handed {self.source.stream}:{self.source.sequence} {self.workflow}/{self.id}>"


class JetStreamQueues:
    """Implements `ports.Queues`. Call `stop_pulling` at the end."""

    def __init__(self, connection: Connection, subjects: Subjects, patience: float = 0.0) -> None:
        self._connection = connection
        self._patience = patience
        self._subjects = subjects
        self._streams = {
            QueueKind.START: subjects.start_stream,
            QueueKind.MESSAGE: subjects.messages_stream,
            QueueKind.DUE: subjects.timers_stream,
        }
        self._prefixes = {
            stream: ack_prefix(stream)
            for stream in (subjects.start_stream, subjects.messages_stream, subjects.dead_stream)
        }
        self._pulls: dict[tuple[QueueKind, str], Pull] = {}

    async def stop_pulling(self) -> None:
        """Hear nothing more, then give back what was pulled and not handed out; after the last `pull`."""
        pulls = list(self._pulls.values())
        self._pulls.clear()
        for pull in pulls:
            await pull.close()

    # --- reading

    async def pull(self, kind: QueueKind, workflow: str, most: int) -> Sequence[Delivery]:
        """Wait for messages: one at least, or none after a while. Cancelling it loses nothing."""
        pull = self._pulls.get((kind, workflow))
        if pull is None:
            consumer = self._subjects.consumer(kind.value, workflow)
            pull = self._pulls[kind, workflow] = Pull(self._connection, self._streams[kind], consumer)
        return [self._delivery(kind, workflow, one) for one in await pull.pull(most)]

    def _delivery(self, kind: QueueKind, workflow: str, one: Delivered) -> Handed:
        key = None if kind is QueueKind.START else self._subjects.read_target(one.subject)
        source = Source(one.stream, one.sequence)
        return Handed(one, source, workflow, "" if key is None else key.id, one.deliveries, one.time // 1000)

    async def fetch(self, source: Source) -> Delivery | None:
        """A message by its place, as a forward names it; its answers do nothing, the forwarder gives them (L6)."""
        if source.stream not in self._streams.values():
            return None  # a forward is from outside this process: it may not name any stream
        found = await stored.at(self._connection, source.stream, source.sequence)
        return None if found is None else self._found(source.stream, found)

    def _found(self, stream: str, found: Stored) -> Handed:
        source = Source(stream, found.sequence)
        if stream == self._subjects.start_stream:
            return Handed(found, source, self._subjects.read_workflow(found.subject), "", 1, found.time)
        key = self._subjects.read_target(found.subject)
        if key is None:
            return Handed(found, source, self._subjects.read_workflow(found.subject), "", 1, found.time)
        return Handed(found, source, key.workflow, key.id, 1, found.time)

    async def start_at(self, sequence: int) -> Delivery | None:
        """The start at that place of its stream, from the leader; None when it is acknowledged."""
        return await self.fetch(Source(self._subjects.start_stream, sequence))

    async def waiting_start(self, key: InstanceKey) -> Delivery | None:
        """The start of this instance that nobody claimed yet, if there is one (a scan: rare, slow)."""
        stream = self._subjects.start_stream
        async for found in self.stored_starts(key.workflow):
            if starts(found.headers, stream, found.source.sequence, key):
                return found
        return None

    async def stored_starts(self, workflow: str | None = None) -> AsyncIterator[Delivery]:
        """The starts of one workflow, or of all, that nobody acknowledged, oldest first."""
        stream = self._subjects.start_stream
        subject = self._subjects.starts if workflow is None else self._subjects.start(workflow)
        sequence = 1
        while True:
            request = {
                "batch": SCAN_PAGE,
                "seq": sequence,
                "next_by_subj": subject,
                "max_bytes": self._connection.max_payload * 8,
            }
            page = await stored.page(self._connection, stream, request, self._patience)
            for found in page:
                delivery = self._found(stream, found)
                if delivery.workflow:
                    yield delivery
            if not page or page[-1].headers.get("Nats-Num-Pending") == "0":
                return
            sequence = page[-1].sequence + 1

    # --- writing

    async def start(self, workflow: str, data: bytes, headers: Mapping[str, str]) -> WriteReply:
        """Publish a start."""
        return await self._write(
            self._subjects.start_stream, self._subjects.start(workflow), data, dict(headers)
        )

    async def send(self, message: Message) -> WriteReply:
        """Publish a message to an instance."""
        headers = message_headers(message.key, message.kind, message.message_id, message.headers)
        subject = self._subjects.message(message.key)
        return await self._write(self._subjects.messages_stream, subject, message.data, headers)

    async def park(self, letter: DeadLetter) -> WriteReply:
        """Write a dead letter, once per source."""
        headers = dead_letter_headers(letter.headers, letter.reason, *letter.source, letter.id)
        stream, subject = self._subjects.dead_stream, self._subjects.dead(letter.workflow)
        reply = await self._write(stream, subject, letter.data, headers)
        if isinstance(reply, Refused) and reply.why is Refusal.TOO_LARGE:
            # It filled a message before the reason was added: better cut than pulled again for ever.
            headers[TRUNCATED] = str(len(letter.data))
            room = max(0, self._connection.max_payload - size(b"", headers))
            reply = await self._write(stream, subject, letter.data[:room], headers)
        return reply

    async def _write(self, stream: str, subject: str, data: bytes, headers: dict[str, str]) -> WriteReply:
        return await write(self._connection, subject, data, headers, self._prefixes[stream])
