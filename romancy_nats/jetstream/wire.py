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


class CoreWire:
    """Implements `ports.Wire`."""

    def __init__(
        self, connection: Connection, subjects: Subjects, shards: int, inbox_prefix: str = "_INBOX"
    ) -> None:
        self._connection = connection
        self._subjects = subjects
        self._shards = shards
        # Clients may have inboxes of their own, `_INBOX_<name>`; nothing else is ever written to.
        self._inbox = re.compile(rf"{re.escape(inbox_prefix)}[A-Za-z0-9_-]*(\.[A-Za-z0-9_=-]+)+")

    def is_inbox(self, subject: str) -> bool:
        """Whether a reply subject that came in a message may be written to."""
        return self._inbox.fullmatch(subject) is not None

    async def serve(self, incarnation: str, answer: Answerer) -> Callable[[], Awaitable[None]]:
        """Answer what others ask this incarnation, until the returned function is called."""
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

        subscription = await self._connection.subscribe(self._subjects.worker(incarnation), hear)

        async def stop() -> None:
            subscription.close()
            for task in at_work:
                task.cancel()
            await asyncio.gather(*at_work, return_exceptions=True)

        return stop

    async def _reply(self, msg: Msg, answer: Answerer) -> None:
        self.notify(msg.reply, await answer(msg.data))

    async def ask(self, incarnation: str, question: bytes, timeout: float) -> bytes | None:
        """Ask a worker; None when nobody answers."""
        try:
            subject = self._subjects.worker(incarnation)
            return (await self._connection.call(subject, question, timeout=timeout, patient=False)).data
        except (ServerUnavailableError, PermissionDeniedError, PayloadTooLargeError) as error:
            _log.debug("worker %s does not answer: %s", incarnation, error)
            return None

    def notify(self, inbox: str, data: bytes) -> None:
        """Tell a waiting client something; best effort. Subjects that are not inboxes are ignored."""
        if not self.is_inbox(inbox):
            return
        try:
            self._connection.publish(inbox, data)
        except (ConnectionLostError, PayloadTooLargeError) as error:
            _log.debug("notice not sent: %s", error)

    def expect(self, notice: Callable[[bytes], None]) -> tuple[str, Callable[[], None]]:
        """An inbox for one notice, and a function that gives it up; b"" after a reconnect, which may have lost one."""

        def hear(reply: Reply | None) -> None:
            notice(b"" if reply is None else reply.data)

        inbox = self._connection.inbox(hear)
        return inbox.subject, inbox.close

    async def follow(
        self, key: InstanceKey, seen: Callable[[int, int], None]
    ) -> Callable[[], Awaitable[None]]:
        """Call `seen(generation, n)` for each new commit of an instance; best effort (read to be sure)."""

        def hear(msg: Msg) -> None:
            place = self._subjects.read_commit(msg.subject)
            if place is not None:
                seen(place.generation, place.n)

        live = self._subjects.live(key.shard(self._shards), key)
        subscription = await self._connection.subscribe(live, hear)

        async def stop() -> None:
            subscription.close()

        return stop
