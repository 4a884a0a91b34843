"""The effects of waiting for events: registrations written after the commit, finished before the rest (L5)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from romancy_nats.core.events import WaitStarted
from romancy_nats.core.waits import EVENT
from romancy_nats.errors import ServerUnavailableError
from romancy_nats.ports import Refused

if TYPE_CHECKING:
    from romancy_nats.runtime.instance import Instance

_PAUSE = 0.2


class Registrations:
    """Registers and unregisters the event waits of one owned instance, in the order of its commands."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
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
            self._task = self._instance.owner.spawn(self._run())

    async def done(self) -> None:
        """Return when the server has acknowledged all of it."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while self._todo and not self._instance.dropped:
            started, register = self._todo[0]
            if await (self._register(started) if register else self._unregister(started)):
                del self._todo[0]
            else:
                await asyncio.sleep(_PAUSE)

    async def _register(self, started: WaitStarted) -> bool:
        instance = self._instance
        key = started.key if started.keyed else None
        events = instance.owner.world.events
        reply = await events.register(instance.key, instance.record.generation, started.id, started.type, key)
        # Refused means that it is registered: the first registration counts, a later one would miss events.
        return reply is not None

    async def _unregister(self, started: WaitStarted) -> bool:
        instance = self._instance
        key = started.key if started.keyed else None
        try:
            reply = await instance.owner.world.events.unregister(
                instance.key, instance.record.generation, started.id, started.type, key
            )
        except ServerUnavailableError:
            return False
        return isinstance(reply, int | Refused)
