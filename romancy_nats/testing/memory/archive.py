"""The archive in memory, and the last steps of an ended instance. Decides nothing about when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import msgpack

from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.record import InstanceRecord
from romancy_nats.errors import RetentionError
from romancy_nats.ports import WriteReply
from romancy_nats.testing.memory.ledger import Place, Shard, StoredCommit
from romancy_nats.testing.memory.process import Answer, Effect, Process


class MemoryArchive:
    """Implements `ports.Archive` for one process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._server = process.server

    async def store(
        self, key: InstanceKey, generation: int, commits: Sequence[bytes]
    ) -> Sequence[int] | None:
        data = msgpack.packb(list(commits))

        def effect(answer: Answer) -> None:
            place = self._server.number()
            self._server.archived[place] = data
            answer(place)

        reply = await self._process.write(effect)
        return [reply] if isinstance(reply, int) else None

    async def read(self, places: Sequence[int]) -> list[bytes]:
        found = await self._process.ask(lambda: [self._server.archived.get(place) for place in places])
        commits: list[bytes] = []
        for data in found:
            if data is None:
                raise RetentionError("this history has left the archive: its retention has passed")
            commits += cast("list[bytes]", msgpack.unpackb(data))
        return commits

    async def clear(self, key: InstanceKey, generation: int) -> bool:
        return await self._clear(key, lambda place, _: place.generation == generation)

    async def clear_before(self, key: InstanceKey, revision: int) -> bool:
        return await self._clear(key, lambda _, stored: stored.sequence < revision)

    async def _clear(self, key: InstanceKey, goes: Callable[[Place, StoredCommit], bool]) -> bool:
        shard = self._shard(key)

        def effect(answer: Answer) -> None:
            mine = [(place, stored) for place, stored in shard.commits.items() if place.token == key.token]
            for place, stored in mine:
                if goes(place, stored):
                    del shard.commits[place]
            answer(1)

        return isinstance(await self._process.write(effect), int)

    async def seal(self, key: InstanceKey, record: InstanceRecord, expected: int, ttl: float) -> WriteReply:
        shard = self._shard(key)
        effect: Effect = partial(shard.put_record, key, record.encode(), expected, self._process.name)
        reply = await self._process.write(effect)
        if isinstance(reply, int):
            self._server.after(ttl, shard.expire_record, key.token, reply)
        return reply

    def _shard(self, key: InstanceKey) -> Shard:
        return self._server.shards[key.shard(len(self._server.shards))]
