"""The work queues as one process uses them: pull, answer, publish, park. The consumer's rules are in `stream`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from romancy_nats.core.headers import TRUNCATED, dead_letter_headers, message_headers, starts
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.messages.envelope import Message
from romancy_nats.ports import DeadLetter, Delivery, QueueKind, Refusal, Refused, Source, WriteReply
from romancy_nats.testing.memory.process import Answer, Process
from romancy_nats.testing.memory.pulling import MemoryDelivery, Puller
from romancy_nats.testing.memory.stream import StoredMessage, Stream


class MemoryQueues:
    """Implements `ports.Queues` for one process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._server = process.server
        self._pullers: dict[tuple[QueueKind, str], Puller] = {}

    async def pull(self, kind: QueueKind, workflow: str, most: int) -> Sequence[Delivery]:
        await self._process.boundary()
        puller = self._pullers.get((kind, workflow))
        if puller is None:
            consumer = self._server.consumer(kind, workflow)
            puller = self._pullers[kind, workflow] = Puller(self._process, consumer)
        await puller.arrived(most)
        await self._process.boundary()
        return puller.take(most)

    async def stop_pulling(self) -> None:
        for puller in self._pullers.values():
            puller.close()
        self._pullers.clear()

    async def fetch(self, source: Source) -> Delivery | None:
        stream = self._server.streams.get(source.stream)
        message = await self._process.ask(lambda: stream.messages.get(source.sequence) if stream else None)
        return None if stream is None or message is None else self._read_only(stream, message)

    def _read_only(self, stream: Stream, message: StoredMessage) -> MemoryDelivery:
        return MemoryDelivery(self._process, stream, message, None, 1)

    async def start(self, workflow: str, data: bytes, headers: Mapping[str, str]) -> WriteReply:
        return await self._publish(self._server.start_stream, workflow, "", data, headers)

    async def send(self, message: Message) -> WriteReply:
        headers = message_headers(message.key, message.kind, message.message_id, message.headers)
        stream = self._server.messages_stream
        return await self._publish(stream, message.key.workflow, message.key.id, message.data, headers)

    async def park(self, letter: DeadLetter) -> WriteReply:
        headers = dead_letter_headers(letter.headers, letter.reason, *letter.source, letter.id)
        data = letter.data
        if _size(data, headers) > self._server.max_payload:
            headers[TRUNCATED] = str(len(data))
            data = data[: max(0, self._server.max_payload - _size(b"", headers))]
        return await self._publish(self._server.dead_stream, letter.workflow, "", data, headers)

    async def _publish(
        self, stream: Stream, workflow: str, id: str, data: bytes, headers: Mapping[str, str]
    ) -> WriteReply:
        if (size := _size(data, headers)) > self._server.max_payload:
            return Refused(
                Refusal.TOO_LARGE, f"a message of {size:,} bytes, the limit is {self._server.max_payload:,}"
            )

        def effect(answer: Answer) -> None:
            answer(stream.publish(workflow, id, data, headers))

        return await self._process.write(effect)

    async def waiting_start(self, key: InstanceKey) -> Delivery | None:
        stream = self._server.start_stream
        # From a replica, which may not have it yet.
        found = await self._process.ask(
            lambda: _waiting(stream, key, self._server.micros(self._process.replica_cutoff()))
        )
        return None if found is None else self._read_only(stream, found)

    async def start_at(self, sequence: int) -> Delivery | None:
        stream = self._server.start_stream
        found = await self._process.ask(lambda: stream.messages.get(sequence))
        return None if found is None else self._read_only(stream, found)

    async def stored_starts(self, workflow: str | None = None) -> AsyncIterator[Delivery]:
        stream = self._server.start_stream
        until = self._server.micros(self._process.replica_cutoff())
        found = await self._process.ask(lambda: list(stream.messages.values()))
        for message in found:
            if message.time <= until and workflow in (None, message.workflow):
                yield self._read_only(stream, message)


def _names(message: StoredMessage, stream: str, key: InstanceKey) -> bool:
    return message.workflow == key.workflow and starts(message.headers, stream, message.sequence, key)


def _waiting(stream: Stream, key: InstanceKey, until: int) -> StoredMessage | None:
    named = (message for message in stream.messages.values() if _names(message, stream.name, key))
    return next((message for message in named if message.time <= until), None)


def _size(data: bytes, headers: Mapping[str, str]) -> int:
    return (
        len(data) + 12 + sum(len(name.encode()) + len(value.encode()) + 4 for name, value in headers.items())
    )
