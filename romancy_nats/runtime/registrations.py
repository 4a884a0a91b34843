"""The effects of waiting for events: registrations written after the commit, finished before the rest (L5)."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from romancy_nats.core.events import WaitStarted
from romancy_nats.core.headers import GENERATION, WAIT
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.waits import EVENT
from romancy_nats.errors import RomancyError
from romancy_nats.ports import Delivery, Refusal, Refused, World, WriteReply
from romancy_nats.runtime.dispatcher import decode_event
from romancy_nats.runtime.part import Part

if TYPE_CHECKING:
    from romancy_nats.runtime.instance import Instance

_log = logging.getLogger("romancy.worker")
_PAUSE = 0.1
_LONGEST_PAUSE = 5.0


class Registrations(Part):
    """Registers and unregisters the event waits of one owned instance, in the order of its commands."""

    def __init__(self, instance: Instance) -> None:
        super().__init__(instance)
        self._todo: list[tuple[WaitStarted, bool]] = []
        self._task: asyncio.Task[None] | None = None
        self.registered: dict[str, WaitStarted] = {}

    def begin(self, started: WaitStarted) -> None:
        """Register, unless it is there already: its place in the stream decides which events it hears."""
        if started.kind == EVENT and started.id not in self.registered:
            self._add(started, register=True)

    def known(self, started: WaitStarted) -> None:
        """The server has acknowledged this registration before."""
        if started.kind == EVENT:
            self.registered[started.id] = started

    def end(self, id: str) -> None:
        """Remove a registration."""
        started = self.registered.get(id)
        if started is not None:
            self._add(started, register=False)

    def end_all(self) -> None:
        """Remove what is left when the instance has ended otherwise than by its own code."""
        for id in list(self.registered):
            self.end(id)

    def forget(self, started: WaitStarted) -> None:
        """Remove a registration that an earlier owner may have left."""
        if started.kind == EVENT:
            self._add(started, register=False)

    def _add(self, started: WaitStarted, *, register: bool) -> None:
        if register:
            self.registered[started.id] = started
        else:
            self.registered.pop(started.id, None)
        self._todo.append((started, register))
        if self._task is None or self._task.done():
            self._task = self._instance.spawn(self._run(self._instance))

    async def done(self) -> None:
        """Return when the server has acknowledged all of it, or the memory is gone."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    async def _run(self, instance: Instance) -> None:
        pause = _PAUSE
        while self._todo and not instance.dropped:
            started, register = self._todo[0]
            trouble = await self._carry_out(started, register=register)
            if not trouble:
                del self._todo[0]
                pause = _PAUSE
                continue
            if pause >= 1.0:
                _log.warning("%r: %s of %s: %s", instance.key, _verb(register), started.name, trouble)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _carry_out(self, started: WaitStarted, *, register: bool) -> str:
        """Why it is not done yet, or "" when it is."""
        instance = self._instance
        events = instance.owner.world.events
        place = (instance.key, instance.record.generation, started.id, started.name)
        key = started.key if started.keyed else None
        reply: WriteReply
        try:
            reply = await (events.register(*place, key) if register else events.unregister(*place, key))
        except RomancyError as error:
            return str(error)
        if reply is None:
            return "the server did not answer"
        # Refused as stale it is registered: the first registration counts, a later one would miss events.
        if isinstance(reply, Refused) and not (register and reply.why is Refusal.STALE):
            return str(reply)
        return ""


async def forget_stray(world: World, key: InstanceKey, delivery: Delivery) -> None:
    """Remove the registration behind an event that nobody waits for: a write that landed after its wait was over."""
    wait, generation = delivery.headers.get(WAIT, ""), delivery.headers.get(GENERATION, "")
    if not wait or not generation.isdecimal():
        return
    try:
        event = decode_event(delivery.data)
    except (ValueError, TypeError):
        return
    for event_key in {None, event.key}:
        # Unanswered or not: the next event for it tries again.
        await world.events.unregister(key, int(generation), wait, event.type, event_key)


def _verb(register: bool) -> str:
    return "registering a wait" if register else "ending a wait"
