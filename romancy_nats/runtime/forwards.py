"""Messages that another worker forwards to this one, because this one owns their instance (L6)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgpack

from romancy_nats.core.ids import InstanceKey
from romancy_nats.errors import ServerUnavailableError
from romancy_nats.ports import Delivery, Source
from romancy_nats.runtime.host import Host


class Forwards:
    """Answers the forwards that reach one worker."""

    def __init__(self, host: Host, handle: Callable[[Delivery], Awaitable[None]]) -> None:
        """`handle` handles a message as one that this worker pulled itself."""
        self._host = host
        self._handle = handle

    async def answer(self, question: bytes) -> bytes:
        """Commit the message at once; answer, once the instance rests, with its number of commits, else with 0."""
        workflow, id, stream, sequence = msgpack.unpackb(question)
        try:
            delivery = await self._host.world.queues.fetch(Source(stream, sequence))
        except ServerUnavailableError:
            delivery = None
        if delivery is None:
            return msgpack.packb(0)
        await self._handle(delivery)
        instance = self._host.instances.get(InstanceKey(workflow, id))
        if instance is None:
            return msgpack.packb(0)
        commits = await asyncio.shield(instance.rested)
        known = (stream, sequence) in instance.execution.state.seen
        return msgpack.packb(commits if known else 0)
