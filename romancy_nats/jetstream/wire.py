"""Ephemeral messages over core NATS: forwards, notices, announcements of commits. Nothing here is stored or certain."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable

from romancy_nats.core.ids import InstanceKey
from romancy_nats.errors import (
    ConnectionLostError,
    PayloadTooLargeError,
    PermissionDeniedError,
    ServerUnavailableError,
)
from romancy_nats.jetstream.connection import Connection
from romancy_nats.jetstream.replies import Msg, Reply
from romancy_nats.jetstream.subjects import Subjects
from romancy_nats.ports import Answerer

_log = logging.getLogger("romancy.wire")
_WORKERS = "workers"
"""The queue group that shares the questions to a workflow."""


class CoreWire:
    """Implements `ports.Wire`."""

    def __init__(self, connection: Connection, subjects: Subjects, shards: Callable[[], int]) -> None:
        self._connection = connection
        self._subjects = subjects
        self._shards = shards
        # Inboxes of other programs, `_INBOX` or `_INBOX_<name>`, and our own; nothing else is ever written to.
        prefixes = f"_INBOX|{re.escape(connection.inbox_prefix)}"
        self._inbox = re.compile(rf"(?:{prefixes})[A-Za-z0-9_-]*(\.[A-Za-z0-9_=-]+)+")

    def is_inbox(self, subject: str) -> bool:
        """Whether a reply subject that came in a message may be written to."""
        return self._inbox.fullmatch(subject) is not None

    async def serve(
        self, name: str, answer: Answerer, *, shared: bool = False
    ) -> Callable[[], Awaitable[None]]:
        """Answer what others ask this incarnation, or with `shared` this workflow; until the function is called."""
        at_work: set[asyncio.Task[None]] = set()

        def ended(task: asyncio.Task[None]) -> None:
            at_work.discard(task)
            # No answer is an answer: the forwarder naks, and nothing is lost (L6).
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.error("cannot answer what another worker asked", exc_info=error)

        def hear(msg: Msg) -> None:
            if not self.is_inbox(msg.reply):
                return
            task = asyncio.get_running_loop().create_task(self._reply(msg, answer))
            at_work.add(task)
            task.add_done_callback(ended)

        queue = _WORKERS if shared else ""
        subscription = await self._connection.subscribe(self._place(name, shared=shared), hear, queue)

        async def stop() -> None:
            subscription.close()
            for task in at_work:
                task.cancel()
            await asyncio.gather(*at_work, return_exceptions=True)

        return stop

    def _place(self, name: str, *, shared: bool) -> str:
        return self._subjects.query(name) if shared else self._subjects.worker(name)

    async def _reply(self, msg: Msg, answer: Answerer) -> None:
        self.notify(msg.reply, await answer(msg.data))

    async def served(self, workflow: str, timeout: float) -> bool | None:
        """Whether somebody answers questions to this workflow just now; None when that cannot be told in time."""
        try:
            # Every worker answers this one at once: it cannot be read.
            return await self._connection.heard(self._place(workflow, shared=True), b"", timeout)
        except (ServerUnavailableError, PermissionDeniedError):
            return None

    async def ask(self, name: str, question: bytes, timeout: float, *, shared: bool = False) -> bytes | None:
        """Ask an incarnation, or with `shared` one of those who serve a workflow; None when nobody answers."""
        try:
            subject = self._place(name, shared=shared)
            return (await self._connection.call(subject, question, timeout=timeout, patient=False)).data
        except (ServerUnavailableError, PermissionDeniedError, PayloadTooLargeError) as error:
            _log.debug("%s does not answer: %s", name, error)
            return None

    def notify(self, inbox: str, data: bytes) -> None:
        """Tell a waiting client something; best effort. Subjects that are not inboxes are ignored."""
        if self.is_inbox(inbox):
            self._tell(inbox, data)

    def announce(self, key: InstanceKey, data: bytes) -> None:
        """Tell whoever follows this instance how it gets on; best effort."""
        self._tell(self._subjects.progress(key), data)

    def _tell(self, subject: str, data: bytes) -> None:
        try:
            self._connection.publish(subject, data)
        except (ConnectionLostError, PayloadTooLargeError) as error:
            _log.debug("notice not sent: %s", error)

    def expect(self, notice: Callable[[bytes], None]) -> tuple[str, Callable[[], None]]:
        """An inbox for one notice, and a function that gives it up; b"" after a reconnect, which may have lost one."""

        def hear(reply: Reply | None) -> None:
            notice(b"" if reply is None else reply.data)

        inbox = self._connection.inbox(hear)
        return inbox.subject, inbox.close

    async def follow(
        self,
        key: InstanceKey,
        seen: Callable[[int, int], None],
        heard: Callable[[bytes], None] | None = None,
    ) -> Callable[[], Awaitable[None]]:
        """Call `seen(generation, n)` for each new commit of an instance, `heard` for each announcement; best effort."""

        def hear(msg: Msg) -> None:
            place = self._subjects.read_commit(msg.subject)
            if place is not None:
                seen(place.generation, place.n)

        live = self._subjects.live(key.shard(self._shards()), key)
        subscriptions = [await self._connection.subscribe(live, hear)]
        if heard is not None:
            tell = heard
            progress = self._subjects.progress(key)
            subscriptions.append(await self._connection.subscribe(progress, lambda msg: tell(msg.data)))

        async def stop() -> None:
            for subscription in subscriptions:
                subscription.close()

        return stop
