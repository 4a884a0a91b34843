"""From a published event to a message for each instance that waits for it; then the event is acknowledged (design §5)."""

from __future__ import annotations

import asyncio
import logging

import anyio
import msgpack

from romancy_nats.core.headers import GENERATION, WAIT
from romancy_nats.core.waits import EVENT
from romancy_nats.errors import RomancyError, ServerUnavailableError
from romancy_nats.ports import DeadLetter, Event, Message, PublishedEvent, Refused, Registration, World

_log = logging.getLogger("romancy.worker")
_MOST = 64
_AT_ONCE = 256


class Dispatcher:
    """Dispatches events for the whole namespace; every worker runs one, the consumer shares the events among them."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            events = await self._world.events.pull(_MOST)
            async with anyio.create_task_group() as group:
                for published in events:
                    group.start_soon(self._dispatch_guarded, published)

    async def _dispatch_guarded(self, published: PublishedEvent) -> None:
        try:
            await self._dispatch(published)
        except ServerUnavailableError:
            published.nak(0.5)
        except RomancyError:
            _log.exception("dispatching event %s failed; it will be tried again", published.source)
            published.nak(5.0)

    async def _dispatch(self, published: PublishedEvent) -> None:
        event = published.event
        if event is None:
            await self._park(published)
            return
        data = encode_event(event)
        told: list[asyncio.Task[bool]] = []
        limit = asyncio.Semaphore(_AT_ONCE)
        good = True
        async with asyncio.TaskGroup() as group:
            async for registration in self._world.events.matching(published):
                await limit.acquire()
                told.append(group.create_task(self._tell(registration, published, data, limit)))
                if len(told) % _AT_ONCE == 0:
                    published.in_progress()
        good = all(task.result() for task in told)
        if good:
            published.ack()
        else:
            published.nak(1.0)

    async def _tell(
        self, registration: Registration, published: PublishedEvent, data: bytes, limit: asyncio.Semaphore
    ) -> bool:
        try:
            message = Message(
                registration.key,
                EVENT,
                data,
                # The same for every dispatch of this event to this wait, so that a repeated one is one message.
                f"{published.source.sequence}:{registration.generation}:{registration.wait}",
                {WAIT: registration.wait, GENERATION: str(registration.generation)},
            )
            return isinstance(await self._world.queues.send(message), int)
        finally:
            limit.release()

    async def _park(self, published: PublishedEvent) -> None:
        letter = DeadLetter("_events", published.reason, b"", {}, published.source)
        reply = await self._world.queues.park(letter)
        if isinstance(reply, int | Refused):
            published.ack()
        else:
            published.nak(1.0)


def encode_event(event: Event) -> bytes:
    """An event as the message to a waiting instance carries it."""
    return msgpack.packb(tuple(getattr(event, name) for name in _FIELDS))


def decode_event(data: bytes) -> Event:
    """Raises ValueError or TypeError when it is none."""
    return Event(*msgpack.unpackb(data))


_FIELDS = ("id", "type", "source", "data", "key", "time", "extensions")
