"""Starts of workflows without a consumer, in memory: found, read and removed. Decides nothing about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from functools import partial

from romancy_nats.core.ids import decode_token, encode_token
from romancy_nats.errors import InvalidNameError, ServerUnavailableError
from romancy_nats.ports import Delivery, Source, Unclaimed
from romancy_nats.testing.memory.process import Answer, Process
from romancy_nats.testing.memory.pulling import MemoryDelivery
from romancy_nats.testing.memory.stream import StoredMessage


class MemoryOrphans:
    """Implements `ports.Orphans` for one process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._stream = process.server.start_stream

    async def workflows(self) -> Collection[str]:
        return await self._process.ask(lambda: set(self._stream.consumers))

    async def unclaimed(self) -> Sequence[Unclaimed]:
        return await self._process.ask(self._counted)

    def _counted(self) -> list[Unclaimed]:
        counts = Counter(message.workflow for message in self._stream.messages.values())
        free = (name for name in counts if name not in self._stream.consumers)
        return sorted(Unclaimed(encode_token(name), name, counts[name]) for name in free)

    async def oldest(self, token: str, before: int) -> Delivery | None:
        try:
            workflow = decode_token(token)
        except InvalidNameError:
            return None
        found = await self._process.ask(partial(self._first, workflow))
        if found is None or found.time >= before:
            return None
        return MemoryDelivery(self._process, self._stream, found, None, 1)

    def _first(self, workflow: str) -> StoredMessage | None:
        return next((one for one in self._stream.messages.values() if one.workflow == workflow), None)

    async def remove(self, source: Source) -> None:
        def effect(answer: Answer) -> None:
            self._stream.remove(source.sequence)
            answer(source.sequence)

        if not isinstance(await self._process.write(effect), int):
            raise ServerUnavailableError("the server did not say whether the message is removed; ask again")
