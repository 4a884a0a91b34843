"""From a published event to a message for each instance that waits for it; then it is acknowledged (L5, L6)."""

from __future__ import annotations

import asyncio
import logging

import msgpack

from romancy_nats.core.cloudevents import Event
from romancy_nats.core.headers import GENERATION, WAIT
from romancy_nats.core.messages.envelope import Message
from romancy_nats.core.waits import EVENT
from romancy_nats.errors import ServerUnavailableError
from romancy_nats.ports import DeadLetter, PublishedEvent, Refusal, Refused, Registration, World

_log = logging.getLogger("romancy.worker")
_MOST = 64
_AT_ONCE = 256

_Line = tuple[str, str | None]


class Dispatcher:
    """Dispatches events for the whole namespace; every worker runs one, the consumer shares the events among them."""

    def __init__(self, world: World, ack_wait: float) -> None:
        self._world = world
        self._every = ack_wait / 3
        self._in_hand: dict[PublishedEvent, None] = {}
        self._last: dict[_Line, asyncio.Task[None]] = {}
        self._room = asyncio.Event()

    async def run(self) -> None:
        """Run until cancelled; what is in hand then is given back."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_in_hand())
            while True:
                room = _MOST - len(self._in_hand)
                if room <= 0:
                    self._room.clear()
                    await self._room.wait()
                    continue
                for published in await self._world.events.pull(room):
                    self._in_hand[published] = None
                    self._line_up(group, published)

    def _line_up(self, group: asyncio.TaskGroup, published: PublishedEvent) -> None:
        """Events of one type and key one after the other, so that who hears them hears them in order; others beside."""
        event = published.event
        line: _Line = ("", None) if event is None else (event.type, event.key)
        task = group.create_task(self._dispatch_guarded(published, self._last.get(line)))
        self._last[line] = task

        def forget(_: asyncio.Task[None]) -> None:
            if self._last.get(line) is task:
                del self._last[line]

        task.add_done_callback(forget)

    async def _keep_in_hand(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            for published in self._in_hand:
                published.in_progress()

    async def _dispatch_guarded(self, published: PublishedEvent, before: asyncio.Task[None] | None) -> None:
        try:
            if before is not None:
                await asyncio.wait([before])
            await self._dispatch(published)
        except asyncio.CancelledError:
            published.nak()
            raise
        except ServerUnavailableError:
            published.nak(0.5)
        except Exception:  # noqa: BLE001 - a loop boundary: one event is not the worker's affair
            _log.exception("dispatching event %s failed; it will be tried again", published.source)
            published.nak(5.0)
        finally:
            self._in_hand.pop(published, None)
            self._room.set()

    async def _dispatch(self, published: PublishedEvent) -> None:
        event = published.event
        if event is None:
            await self._park(published, published.reason)
            return
        data = encode_event(event)
        telling: set[asyncio.Task[str]] = set()
        trouble: list[str] = []
        try:
            async for registration in self._world.events.matching(published):
                if len(telling) >= _AT_ONCE:
                    done, telling = await asyncio.wait(telling, return_when=asyncio.FIRST_COMPLETED)
                    trouble += [text for task in done if (text := task.result())]
                telling.add(asyncio.create_task(self._tell(registration, published, data)))
            if telling:
                done, telling = await asyncio.wait(telling)
                trouble += [text for task in done if (text := task.result())]
        finally:
            for task in telling:
                task.cancel()
        if not trouble:
            published.ack()
        else:
            _log.warning(
                "event %s: %d of its messages not sent (%s)", published.source, len(trouble), trouble[0]
            )
            published.nak(1.0)

    async def _tell(self, registration: Registration, published: PublishedEvent, data: bytes) -> str:
        """Send it to one who waits; why not, or "" when it is sent."""
        message = Message(
            registration.key,
            EVENT,
            data,
            # The same for every dispatch of this event to this wait, so that a repeated one is one message.
            f"{published.source.sequence}:{registration.generation}:{registration.wait}",
            {WAIT: registration.wait, GENERATION: str(registration.generation)},
        )
        reply = await self._world.queues.send(message)
        if isinstance(reply, Refused) and reply.why is Refusal.TOO_LARGE:
            # It filled a message as it came, and will never fit with what we add: say so instead of trying for ever.
            letter = DeadLetter(
                registration.key.workflow,
                f"event {published.source}: {reply.text}",
                published.data,
                published.headers,
                published.source,
                registration.key.id,
            )
            _log.warning("event %s is parked for %r: %s", published.source, registration.key, reply)
            reply = await self._world.queues.park(letter)
        if isinstance(reply, int):
            return ""
        return "unanswered" if reply is None else reply.text

    async def _park(self, published: PublishedEvent, reason: str) -> None:
        letter = DeadLetter("", reason, published.data, published.headers, published.source)
        _log.warning("event %s is parked: %s", published.source, reason)
        if isinstance(await self._world.queues.park(letter), int):
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
