"""One nats-py client kept alive: connect, publish, subscribe, reconnect. Knows nothing of requests or JetStream."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg as NatsMsg
from nats.aio.subscription import Subscription as NatsSubscription
from nats.errors import (
    BadSubscriptionError,
    ConnectionClosedError,
    ConnectionDrainingError,
    MaxPayloadError,
    OutboundBufferLimitError,
)
from nats.errors import Error as NatsError

from romancy_nats.errors import (
    ConfigurationError,
    ConnectionLostError,
    PayloadTooLargeError,
    PermissionDeniedError,
    ServerUnavailableError,
)
from romancy_nats.jetstream.credentials import Credentials, login_options, redacted, servers
from romancy_nats.jetstream.driving import advance
from romancy_nats.jetstream.replies import Msg

_log = logging.getLogger("romancy.connection")

_DENIED = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"')
_NOT_CONNECTED = (OutboundBufferLimitError, ConnectionClosedError, ConnectionDrainingError)

PING_INTERVAL = 10
RECONNECT_WAIT = 0.2


class Listener(Protocol):
    """Whoever uses a link hears of its fate."""

    def went_down(self) -> None: ...
    def came_up(self) -> None: ...
    def was_denied(self, what: str, subject: str) -> None:
        """`what` is publish or subscription; `subject` is in lower case, as nats-py gives it."""
        ...


class Subscription:
    """A core subscription, kept over reconnects. `denied` is set when the server refused it."""

    __slots__ = ("_handler", "_link", "_queue", "_raw", "denied", "subject")

    def __init__(self, link: Link, subject: str, queue: str, handler: Callable[[Msg], None]) -> None:
        self.subject = subject
        self.denied: PermissionDeniedError | None = None
        self._link = link
        self._queue = queue
        self._handler = handler
        self._raw: NatsSubscription | None = None

    async def attach(self, client: NatsClient) -> None:
        """Tell the server. No limit on what waits here: handlers never block, and credit bounds the rest."""
        self._raw = await client.subscribe(  # pyright: ignore[reportUnknownMemberType]
            self.subject, self._queue, cb=self._hear, pending_msgs_limit=0, pending_bytes_limit=0
        )

    async def _hear(self, msg: NatsMsg) -> None:
        self._handler(Msg(msg.subject, msg.reply, msg.data, msg.headers))

    def close(self) -> None:
        """Stop hearing, at once. Messages on their way are lost."""
        raw, self._raw = self._raw, None
        self._link.forget(self)
        if raw is not None:
            self._link.keep(advance(_leave(raw)))

    async def drain(self) -> None:
        """Stop hearing, after the handler had everything that the server sent before it knew."""
        if not self._link.connected:
            self.close()
            return
        raw, self._raw = self._raw, None
        self._link.forget(self)
        if raw is not None:
            # In a task of its own: nats-py stops reading when a cancelled flush is answered later.
            await asyncio.shield(self._link.run(_drain(raw)))


async def _leave(raw: NatsSubscription) -> None:
    # A closed connection has no subscriptions.
    with contextlib.suppress(ConnectionClosedError, ConnectionDrainingError, BadSubscriptionError):
        await raw.unsubscribe()


async def _drain(raw: NatsSubscription) -> None:
    try:
        await raw.drain()  # type: ignore[no-untyped-call]
    except (NatsError, OSError):
        await _leave(raw)


class Link:
    """Owns the client and replaces it when nats-py closes it for good (an expired login, a protocol error)."""

    def __init__(
        self, url: str, name: str, credentials: Credentials, inbox_prefix: str, listener: Listener
    ) -> None:
        self._url = url
        self._name = name
        self._credentials = credentials
        self._inbox_prefix = inbox_prefix
        self._listener = listener
        self._opening = True
        self._closing = False
        self._last_error: Exception | None = None
        self._client = NatsClient()
        self._subscriptions: dict[Subscription, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Without secrets."""
        return redacted(self._url)

    @property
    def connected(self) -> bool:
        return self._client.is_connected

    @property
    def max_payload(self) -> int:
        return self._client.max_payload

    @property
    def server_version(self) -> str:
        """As the server spells it; empty when it says nothing."""
        # nats-py's own reading of it refuses what is no semantic version.
        told = getattr(self._client.connected_server_version, "_server_version", "")
        return str(told).removesuffix("0.0.0-unknown")

    async def open(self, timeout: float) -> None:
        """Connect. Servers that are not up yet are tried again until `timeout`; a refused login is final."""
        try:
            async with asyncio.timeout(timeout):
                await self._connect(self._client)
        except TimeoutError as error:
            why = f" ({self._last_error})" if self._last_error is not None else ""
            raise ServerUnavailableError(
                f"no NATS server answered at {self.url} within {timeout:g} s{why}; "
                "check that it runs and that the address is right"
            ) from error
        except (NatsError, ValueError) as error:
            raise ConfigurationError(f"cannot connect to {self.url}: {error}") from error
        except ImportError as error:
            raise ConfigurationError("nkeys and .creds files need: pip install 'nats-py[nkeys]'") from error
        self._opening = False

    async def close(self) -> None:
        """Send what waits, then disconnect. Bounded."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        try:
            async with asyncio.timeout(5):
                await asyncio.gather(*self._tasks, return_exceptions=True)
                await self._client.close()
        except (NatsError, OSError, AssertionError) as error:
            # nats-py asserts that connect got far enough, which a refused URL does not.
            _log.debug("closing the connection: %s", error)

    def publish(self, subject: str, payload: bytes, headers: dict[str, str] | None, reply: str) -> None:
        """Hand a message to the socket. Raises ConnectionLostError when there is none."""
        try:
            rest = advance(self._client.publish(subject, payload, reply, headers))
        except _NOT_CONNECTED as error:
            raise ConnectionLostError(
                f"not connected to {self.url}; the message was not sent, send it again once it is"
            ) from error
        except MaxPayloadError as error:
            raise PayloadTooLargeError(f"the message to {subject}", len(payload), self.max_payload) from error
        if rest is not None:
            self.keep(rest)

    async def subscribe(self, subject: str, handler: Callable[[Msg], None], queue: str = "") -> Subscription:
        """Hear a subject until `close`, over reconnects. The handler runs on the loop and must not block."""
        subscription = Subscription(self, subject, queue, handler)
        try:
            await subscription.attach(self._client)
        except _NOT_CONNECTED as error:
            raise ConnectionLostError(f"not connected to {self.url}; cannot subscribe") from error
        self._subscriptions[subscription] = None
        return subscription

    def forget(self, subscription: Subscription) -> None:
        """The subscription was closed."""
        self._subscriptions.pop(subscription, None)

    def keep(self, work: Coroutine[Any, Any, None] | None) -> None:
        """Finish `work` in a task that ends with the link at the latest."""
        if work is not None:
            _ = self.run(work)

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """The same, with the task."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("sending to %s failed: %s", self.url, error)

    async def _connect(self, client: NatsClient) -> None:
        options: dict[str, Any] = {
            "name": self._name,
            "inbox_prefix": self._inbox_prefix,
            "error_cb": self._on_error,
            "disconnected_cb": self._on_disconnected,
            "reconnected_cb": self._on_reconnected,
            "closed_cb": self._on_closed,
            "reconnect_time_wait": RECONNECT_WAIT,
            "max_reconnect_attempts": -1,
            "ping_interval": PING_INTERVAL,
            "max_outstanding_pings": 2,
            "pending_size": -1,  # fail at once while disconnected, instead of writing later (L3)
            "skip_subject_validation": True,
        }
        await client.connect(servers(self._url), **options, **login_options(self._credentials))

    async def _on_error(self, error: Exception) -> None:
        text = str(error)
        found = _DENIED.search(text)
        if found is not None:
            self._deny(found[1], found[2])
        elif self._opening and "authorization" in text.lower():
            raise PermissionDeniedError(
                f"{self.url} refused the login ({text}); check user, password, token or credentials file"
            )
        elif isinstance(error, (NatsError, OSError, UnicodeError)):
            self._last_error = error
            _log.debug("connection to %s: %s", self.url, error)
        else:
            _log.error("a message handler failed; this is a bug", exc_info=error)

    def _deny(self, what: str, subject: str) -> None:
        if what == "subscription":
            for subscription in self._subscriptions:
                if subscription.subject.lower() == subject:
                    subscription.denied = denied(what, subscription.subject)
        self._listener.was_denied(what, subject)

    async def _on_disconnected(self) -> None:
        if not self._closing and not self._opening:
            _log.warning("lost the connection to %s; reconnecting", self.url)
            self._listener.went_down()

    async def _on_reconnected(self) -> None:
        _log.info("connected again to %s", self.url)
        self._listener.came_up()

    async def _on_closed(self) -> None:
        if not self._closing and not self._opening:
            self.keep(self._revive())

    async def _revive(self) -> None:
        # nats-py gives up for good on most -ERR lines, whatever max_reconnect_attempts says.
        _log.warning("the server ended the connection to %s: %s", self.url, self._client.last_error)
        await asyncio.sleep(RECONNECT_WAIT)
        client = NatsClient()
        try:
            await self._connect(client)
        except BaseException:
            await client.close()
            raise
        for subscription in list(self._subscriptions):
            await subscription.attach(client)
        self._client = client
        await self._on_reconnected()


def denied(what: str, subject: str) -> PermissionDeniedError:
    """The error for a publish or subscription that the server refused."""
    verb = "publish to" if what == "publish" else "subscribe to"
    return PermissionDeniedError(
        f"the server denies these credentials to {verb} {subject}; add it to the user's permissions"
    )
