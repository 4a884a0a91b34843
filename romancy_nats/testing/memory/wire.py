"""Ephemeral messages in memory: questions to a worker, notices to an inbox, news of commits. Nothing is stored."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from romancy_nats.core.ids import InstanceKey
from romancy_nats.ports import Answerer
from romancy_nats.testing.memory.process import Process

if TYPE_CHECKING:
    from romancy_nats.testing.memory.store import MemoryServer

_log = logging.getLogger("romancy.wire")

INBOX = "_INBOX."
_INBOXES = re.compile(r"_INBOX[A-Za-z0-9_-]*(\.[A-Za-z0-9_=-]+)+")

Told = Callable[[bytes | None], None]


class Hub:
    """Who listens where."""

    def __init__(self, server: MemoryServer) -> None:
        self.server = server
        self.serving: dict[str, Served] = {}
        self.sharing: dict[str, dict[Served, None]] = {}
        self.inboxes: dict[str, Inbox] = {}
        self.followers: dict[str, dict[Follower, None]] = {}

    def commit(self, token: str, generation: int, n: int) -> None:
        for follower in list(self.followers.get(token, ())):
            follower.tell(generation, n)

    def announce(self, token: str, data: bytes) -> None:
        for follower in list(self.followers.get(token, ())):
            follower.announce(data)

    def asked(self, name: str, *, shared: bool) -> Served | None:
        """Who answers; one of those who share a workflow, in turn."""
        if not shared:
            return self.serving.get(name)
        served = next(iter(sharing := self.sharing.get(name, {})), None)
        if served is not None:
            del sharing[served]
            sharing[served] = None
        return served

    def notice(self, inbox: str, data: bytes) -> None:
        if (found := self.inboxes.get(inbox)) is not None:
            found.tell(data)


class Served:
    """A worker that answers."""

    def __init__(self, process: Process, name: str, answerer: Answerer, *, shared: bool) -> None:
        self._process = process
        self._name = name
        self._answerer = answerer
        self._at_work: dict[asyncio.Task[None], None] = {}
        if shared:
            process.server.hub.sharing.setdefault(name, {})[self] = None
        else:
            process.server.hub.serving[name] = self
        process.subscriptions[self] = None

    def close(self) -> None:
        hub = self._process.server.hub
        hub.sharing.get(self._name, {}).pop(self, None)
        if hub.serving.get(self._name) is self:
            del hub.serving[self._name]
        self._process.subscriptions.pop(self, None)

    def hear(self, question: bytes, told: Told) -> None:
        self._process.here(0, self._begin, question, told)

    def _begin(self, question: bytes, told: Told) -> None:
        process = self._process
        if process.alive_here():
            task = process.spawn(self._answer(question, told))
            self._at_work[task] = None
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._at_work.pop(task, None)
        # No answer is an answer: the forwarder naks, and nothing is lost (L6).
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("cannot answer what another worker asked", exc_info=error)

    async def stop(self) -> None:
        self.close()
        at_work = list(self._at_work)
        for task in at_work:
            task.cancel()
        await asyncio.gather(*at_work, return_exceptions=True)

    async def _answer(self, question: bytes, told: Told) -> None:
        answer = await self._answerer(question)
        self._process.tell(lambda: told(answer), "lost_ask")


class Inbox:
    """A client that waits for one notice."""

    def __init__(self, process: Process, notice: Callable[[bytes], None]) -> None:
        self._process = process
        self._notice = notice
        self.subject = f"{INBOX}{process.name}.{process.server.number()}"
        process.server.hub.inboxes[self.subject] = self
        process.subscriptions[self] = None

    def close(self) -> None:
        self._process.server.hub.inboxes.pop(self.subject, None)
        self._process.subscriptions.pop(self, None)

    def tell(self, data: bytes) -> None:
        self._process.here(0, self._deliver, data)

    def _deliver(self, data: bytes) -> None:
        if self.subject in self._process.server.hub.inboxes and self._process.alive_here():
            self.close()
            self._notice(data)


class Follower:
    """A client that watches an instance."""

    def __init__(
        self,
        process: Process,
        token: str,
        seen: Callable[[int, int], None],
        heard: Callable[[bytes], None] | None,
    ) -> None:
        self._process = process
        self._token = token
        self._seen = seen
        self._heard = heard
        process.server.hub.followers.setdefault(token, {})[self] = None
        process.subscriptions[self] = None

    def close(self) -> None:
        followers = self._process.server.hub.followers.get(self._token, {})
        followers.pop(self, None)
        self._process.subscriptions.pop(self, None)

    async def stop(self) -> None:
        self.close()

    def tell(self, generation: int, n: int) -> None:
        if not self._process.dice.hit("lost_notice"):
            self._process.here(self._process.dice.delay(), self._deliver, generation, n)

    def _deliver(self, generation: int, n: int) -> None:
        if self in self._process.subscriptions and self._process.alive_here():
            self._seen(generation, n)

    def announce(self, data: bytes) -> None:
        if self._heard is not None and not self._process.dice.hit("lost_notice"):
            self._process.here(self._process.dice.delay(), self._announced, self._heard, data)

    def _announced(self, heard: Callable[[bytes], None], data: bytes) -> None:
        if self in self._process.subscriptions and self._process.alive_here():
            heard(data)


class MemoryWire:
    """Implements `ports.Wire` for one process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._hub = process.server.hub

    async def serve(
        self, name: str, answer: Answerer, *, shared: bool = False
    ) -> Callable[[], Awaitable[None]]:
        await self._process.boundary()
        return Served(self._process, name, answer, shared=shared).stop

    async def served(self, workflow: str, timeout: float) -> bool | None:
        process = self._process
        await process.boundary()
        if self._hub.server.down or process.dice.hit("lost_ask"):
            await asyncio.sleep(timeout)
            return None
        return self._hub.asked(workflow, shared=True) is not None

    async def ask(self, name: str, question: bytes, timeout: float, *, shared: bool = False) -> bytes | None:
        process = self._process
        await process.boundary()
        answered: asyncio.Future[bytes | None] = process.loop.create_future()
        told = partial(process.here, 0, _settle, answered)
        way = process.dice.delay()
        if not process.dice.hit("lost_ask"):
            arrive = partial(self._arrive, name, question, told, shared=shared)
            process.server.after(way, arrive)
        try:
            async with asyncio.timeout(timeout):
                answer = await answered
        except TimeoutError:
            answer = None
        await process.boundary()
        return answer

    def _arrive(self, name: str, question: bytes, told: Told, *, shared: bool) -> None:
        if self._hub.server.down:
            return
        served = self._hub.asked(name, shared=shared)
        if served is None:
            told(None)  # no responders: the server says so at once
        else:
            served.hear(question, told)

    def notify(self, inbox: str, data: bytes) -> None:
        if _INBOXES.fullmatch(inbox):
            self._process.tell(partial(self._hub.notice, inbox, data), "lost_notice")

    def announce(self, key: InstanceKey, data: bytes) -> None:
        if self._hub.followers.get(key.token):
            self._process.tell(partial(self._hub.announce, key.token, data), "lost_notice")

    def expect(self, notice: Callable[[bytes], None]) -> tuple[str, Callable[[], None]]:
        inbox = Inbox(self._process, notice)
        if self._process.dead:
            inbox.close()
        return inbox.subject, inbox.close

    async def follow(
        self,
        key: InstanceKey,
        seen: Callable[[int, int], None],
        heard: Callable[[bytes], None] | None = None,
    ) -> Callable[[], Awaitable[None]]:
        await self._process.boundary()
        return Follower(self._process, key.token, seen, heard).stop


def _settle(future: asyncio.Future[bytes | None], answer: bytes | None) -> None:
    if not future.done():
        future.set_result(answer)
