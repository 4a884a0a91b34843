"""A connection to NATS as this package uses it: publish, request, subscribe. No streams, no domain words.

Requests share one inbox and one sweep for deadlines: about half the CPU of nats-py's own.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import cast

from romancy_nats.errors import (
    ConnectionLostError,
    JetStreamDisabledError,
    PermissionDeniedError,
    ServerTooOldError,
    ServerUnavailableError,
)
from romancy_nats.jetstream.credentials import Credentials
from romancy_nats.jetstream.driving import uninterrupted
from romancy_nats.jetstream.link import Link, Subscription, denied
from romancy_nats.jetstream.mux import Done, Mux
from romancy_nats.jetstream.replies import Msg, Reply
from romancy_nats.jetstream.server_version import check_api_level, check_version

_log = logging.getLogger("romancy.connection")
SWEEP_INTERVAL = 0.25
RETRY_WAIT = 0.1
_META_UNAVAILABLE = 10008


def ends_batch(reply: Reply) -> bool:
    """Whether this is the last reply of a Direct Get for several messages."""
    return bool(reply.status)


class Inbox:
    """An address that hears answers until `close`, and None after each reconnect."""

    __slots__ = ("_mux", "subject")

    def __init__(self, mux: Mux, subject: str) -> None:
        self._mux = mux
        self.subject = subject

    def close(self) -> None:
        """Stop hearing."""
        self._mux.forget(self.subject)


class Connection:
    """Use `Connection.open`. All callbacks run on the loop and must not block."""

    def __init__(self, url: str, name: str, credentials: Credentials, inbox_prefix: str) -> None:
        self.on_reconnect: list[Callable[[], None]] = []
        self.on_denied: list[Callable[[str, PermissionDeniedError], None]] = []
        """Called with the subject in lower case when the server denied a publish to it."""
        self._loop = asyncio.get_running_loop()
        self.inbox_prefix = inbox_prefix
        """Where answers to this connection arrive; a reply subject under it may be written to."""
        self._inbox = f"{inbox_prefix}.{secrets.token_hex(8)}"
        self._inboxes = 0
        self._mux = Mux(self._inbox, self._later)
        self._link = Link(url, name, credentials, inbox_prefix, self)
        self._up = asyncio.Event()
        self._sweep: asyncio.TimerHandle | None = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: str,
        *,
        name: str = "romancy",
        credentials: Credentials | None = None,
        inbox_prefix: str = "_INBOX",
        timeout: float = 5.0,
    ) -> AsyncGenerator[Connection]:
        """Connect and check the server; `url` may name several, separated by commas."""
        connection = cls(url, name, credentials or Credentials(), inbox_prefix)
        try:
            await connection._open(timeout)
            yield connection
        finally:
            connection._mux.give_up_all()
            await uninterrupted(connection._close())

    async def _open(self, timeout: float) -> None:
        await self._link.open(timeout)
        check_version(self.server_version, f"the NATS server at {self.url}")
        async with _deadline(timeout, self.url):
            await self._link.subscribe(self._mux.wildcard, self._answer)
            await self._check_jetstream()

    async def _close(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        await self._link.close()

    # --- what it is

    @property
    def url(self) -> str:
        """Where it connects to, without secrets."""
        return self._link.url

    @property
    def connected(self) -> bool:
        """Whether there is a connection just now."""
        return self._link.connected

    @property
    def max_payload(self) -> int:
        """The largest message in bytes, headers included."""
        return self._link.max_payload

    @property
    def server_version(self) -> str:
        """Of the server that it is connected to, as that spells it."""
        return self._link.server_version

    def __repr__(self) -> str:
        return f"<Connection {self.url} {'connected' if self.connected else 'disconnected'}>"

    async def ready(self) -> None:
        """Wait until there is a connection."""
        while not self._link.connected:
            self._up.clear()
            await self._up.wait()

    # --- sending

    def publish(
        self, subject: str, payload: bytes, headers: dict[str, str] | None = None, reply: str = ""
    ) -> None:
        """Send and forget. Raises ConnectionLostError when disconnected, PayloadTooLargeError."""
        self._link.publish(subject, payload, headers, reply)

    def request(
        self,
        subject: str,
        payload: bytes,
        headers: dict[str, str] | None,
        done: Done,
        timeout: float = 5.0,
    ) -> None:
        """Send; `done` gets the answer, or None: unanswered, so unknown (L3). Raises PayloadTooLargeError."""
        inbox = self._mux.open(subject, done, self._loop.time() + timeout)
        try:
            self._link.publish(subject, payload, headers, inbox)
        except ConnectionLostError:
            self._mux.forget(inbox)
            self._loop.call_soon(done, None)
            return
        except BaseException:
            self._mux.forget(inbox)
            raise
        if self._sweep is None:
            self._sweep = self._loop.call_later(SWEEP_INTERVAL, self._sweep_late)

    async def call(
        self,
        subject: str,
        payload: bytes = b"",
        headers: dict[str, str] | None = None,
        timeout: float = 5.0,
        *,
        patient: bool = True,
    ) -> Reply:
        """Send and wait. What surely did not arrive (disconnected, nobody listens) is sent again until `timeout`.

        Raises ServerUnavailableError when unanswered: it may or may not have been done. With `patient=False`
        the first such refusal raises as well.
        """
        end = self._loop.time() + timeout
        async with _deadline(timeout, f"{subject} at {self.url}"):
            while True:
                if patient:
                    await self.ready()
                reply = await self._ask(subject, payload, headers, end - self._loop.time())
                if not reply.no_responders:
                    return reply
                if not patient:
                    raise ServerUnavailableError(f"nobody answers {subject} at {self.url}")
                await asyncio.sleep(RETRY_WAIT)

    async def heard(self, subject: str, payload: bytes, timeout: float) -> bool:
        """Whether somebody listens on a subject and answers; the server says at once when nobody does.

        Raises ServerUnavailableError when there is no answer in time.
        """
        async with _deadline(timeout, f"{subject} at {self.url}"):
            return not (await self._ask(subject, payload, None, timeout)).no_responders

    async def _ask(
        self, subject: str, payload: bytes, headers: dict[str, str] | None, timeout: float
    ) -> Reply:
        future: asyncio.Future[Reply | None] = self._loop.create_future()

        def done(reply: Reply | None) -> None:
            if not future.done():  # the caller may be gone
                future.set_result(reply)

        self.request(subject, payload, headers, done, timeout)
        reply = await future
        if reply is None:
            raise ServerUnavailableError(
                f"no answer from {subject} at {self.url}; whether it acted is unknown"
            )
        if reply.denied is not None:
            raise reply.denied
        return reply

    async def collect(
        self,
        subject: str,
        payload: bytes,
        stop: Callable[[Reply], bool] = ends_batch,
        timeout: float = 5.0,
    ) -> list[Reply]:
        """Ask for several replies; all of them up to and including the one for which `stop` is true."""
        replies: list[Reply] = []
        ended: asyncio.Future[bool] = self._loop.create_future()

        def hear(reply: Reply | None) -> None:
            if ended.done():
                return
            if reply is None:
                ended.set_result(False)
                return
            replies.append(reply)
            if reply.denied is not None or stop(reply):
                ended.set_result(True)

        inbox = self._mux.last(subject, hear)
        try:
            async with _deadline(timeout, f"{subject} at {self.url}"):
                await self.ready()
                self._link.publish(subject, payload, None, inbox)
                complete = await ended
        finally:
            self._mux.forget(inbox)
        if not complete:
            raise ServerUnavailableError(f"lost the connection to {self.url} while reading from {subject}")
        if (refusal := replies[-1].denied) is not None:
            raise refusal
        return replies

    # --- hearing

    def inbox(self, handler: Done) -> Inbox:
        """An address for answers to messages that others send; None after a reconnect: look whether one was missed."""
        return Inbox(self._mux, self._mux.last("", handler))

    def new_inbox(self) -> str:
        """A fresh inbox subject for a subscription of its own."""
        self._inboxes += 1
        return f"{self._inbox}.own.{self._inboxes}"

    async def subscribe(self, subject: str, handler: Callable[[Msg], None], queue: str = "") -> Subscription:
        """Hear a subject until `close`, over reconnects. Raises ConnectionLostError."""
        return await self._link.subscribe(subject, handler, queue)

    def _later(self, done: Done, reply: Reply | None) -> None:
        self._loop.call_soon(done, reply)

    def _answer(self, msg: Msg) -> None:
        self._mux.deliver(msg.subject, msg.data, msg.headers)

    def _sweep_late(self) -> None:
        self._mux.sweep(self._loop.time())
        again = self._mux.busy
        self._sweep = self._loop.call_later(SWEEP_INTERVAL, self._sweep_late) if again else None

    # --- what the link tells

    def went_down(self) -> None:
        """The connection is gone; nats-py tries again for ever."""
        self._mux.lose()

    def came_up(self) -> None:
        """There is a new connection, perhaps to another server of the cluster."""
        try:
            check_version(self.server_version, f"the NATS server at {self.url}")
        except ServerTooOldError as error:
            _log.error("%s", error)
        self._up.set()
        self._mux.give_up_lost()
        for hook in self.on_reconnect:
            self._loop.call_soon(hook)

    def was_denied(self, what: str, subject: str) -> None:
        """The server said so on the side: the request itself would only time out."""
        heard = False
        if what == "publish":
            heard = self._mux.deny(subject, partial(denied, what))
            for hook in self.on_denied:
                self._loop.call_soon(hook, subject, denied(what, subject))
        elif subject == self._mux.wildcard.lower():
            self._mux.deny_all(denied(what, self._mux.wildcard))
            heard = True
        # Whoever waits for an answer says it in its own words, or does without.
        _log.log(logging.DEBUG if heard else logging.WARNING, "%s: %s", self.url, denied(what, subject))

    # --- what the server must be

    async def _check_jetstream(self) -> None:
        try:
            while True:
                reply = await self._ask("$JS.API.INFO", b"", None, timeout=5.0)
                code = 0 if reply.no_responders else error_code(reply)
                if code != _META_UNAVAILABLE:
                    break
                await asyncio.sleep(RETRY_WAIT)
        except PermissionDeniedError as error:
            if "subscribe" in str(error):
                raise
            # A client that may only start workflows may not ask; its publishes will tell.
            check_api_level(None, self.server_version, f"the NATS server at {self.url}")
            return
        if code or reply.no_responders:
            raise JetStreamDisabledError(
                f"JetStream is not enabled at {self.url} for this account; "
                "run nats-server with -js, or enable it for the account"
            )
        api = cast("dict[str, object]", reply.json().get("api") or {})
        check_api_level(api.get("level", 0), self.server_version, f"the NATS server at {self.url}")


def error_code(reply: Reply) -> int:
    """The `err_code` of an API answer, 0 when it is not an error."""
    error = cast("dict[str, int]", reply.json().get("error") or {})
    return error.get("err_code", 0)


@asynccontextmanager
async def _deadline(seconds: float, what: str) -> AsyncGenerator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise ServerUnavailableError(f"no answer from {what} within {seconds:g} s") from error
