"""The work queues as one process uses them: pull, answer, publish, park. The consumer's rules are in `stream`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from romancy_nats.core.ids import InstanceKey
from romancy_nats.ports import DeadLetter, Delivery, Message, QueueKind, Refusal, Refused, Source, WriteReply
from romancy_nats.testing.memory.process import Answer, Process
from romancy_nats.testing.memory.pulling import MemoryDelivery, Puller
from romancy_nats.testing.memory.stream import MESSAGE_ID, StoredMessage, Stream

INSTANCE_ID = "Romancy-Instance-Id"
KIND = "Romancy-Kind"
REASON = "Romancy-Reason"
ORIGIN_STREAM = "Romancy-Origin-Stream"
ORIGIN_SEQUENCE = "Romancy-Origin-Sequence"
ORIGIN_MESSAGE_ID = "Romancy-Origin-Msg-Id"
TRUNCATED = "Romancy-Truncated"
LONGEST_REASON = 2000


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

    async def fetch(self, source: Source) -> Delivery | None:
        stream = self._server.streams.get(source.stream)
        message = await self._process.ask(lambda: stream.messages.get(source.sequence) if stream else None)
        return None if stream is None or message is None else self._read_only(stream, message)

    def _read_only(self, stream: Stream, message: StoredMessage) -> MemoryDelivery:
        return MemoryDelivery(self._process, stream, message, None, 1)

    async def start(self, workflow: str, data: bytes, headers: Mapping[str, str]) -> WriteReply:
        return await self._publish(self._server.start_stream, workflow, "", data, headers)

    async def send(self, message: Message) -> WriteReply:
        headers = {**(message.headers or {}), KIND: message.kind}
        if message.message_id:
            headers[MESSAGE_ID] = message.message_id
        stream = self._server.messages_stream
        return await self._publish(stream, message.key.workflow, message.key.id, message.data, headers)

    async def park(self, letter: DeadLetter) -> WriteReply:
        headers = _kept(letter.headers) | {
            MESSAGE_ID: f"{letter.source.stream}:{letter.source.sequence}",
            REASON: letter.reason[:LONGEST_REASON],
            ORIGIN_STREAM: letter.source.stream,
            ORIGIN_SEQUENCE: str(letter.source.sequence),
        }
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
        found = await self._process.ask(lambda: _first(stream, lambda message: _names(message, key)))
        return None if found is None else self._read_only(stream, found)


def _names(message: StoredMessage, key: InstanceKey) -> bool:
    return message.workflow == key.workflow and message.headers.get(INSTANCE_ID) == key.id


def _first(stream: Stream, wanted: Callable[[StoredMessage], bool]) -> StoredMessage | None:
    return next(filter(wanted, stream.messages.values()), None)


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of a parked message, without those that the server would act upon."""
    kept = {name: value for name, value in headers.items() if not name.lower().startswith("nats-")}
    if MESSAGE_ID in headers:
        kept[ORIGIN_MESSAGE_ID] = headers[MESSAGE_ID]
    return kept


def _size(data: bytes, headers: Mapping[str, str]) -> int:
    return (
        len(data) + 12 + sum(len(name.encode()) + len(value.encode()) + 4 for name, value in headers.items())
    )
