"""Our own pull loop for one durable consumer. Hands messages out; never creates, configures or names consumers.

nats-py's `fetch(n > 1)` stalls, and a pull in flight does not survive a reconnect.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque

from romancy_nats.errors import PermissionDeniedError, ServerError, ServerUnavailableError, StreamMissingError
from romancy_nats.jetstream.connection import Connection, error_code
from romancy_nats.jetstream.delivered import ACK_PREFIX, Delivered
from romancy_nats.jetstream.link import Subscription
from romancy_nats.jetstream.replies import Msg

_log = logging.getLogger("romancy.pull")

_CONSUMER_MISSING = 10014
_STREAM_MISSING = 10059
_REFUSED_WAIT = 0.25
_LOOKUP_TIMEOUT = 2.0


class Pull:
    """Messages of one durable pull consumer. Use one per consumer and call `close` at the end."""

    def __init__(
        self,
        connection: Connection,
        stream: str,
        consumer: str,
        *,
        expires: float = 30.0,
        idle_heartbeat: float = 5.0,
    ) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._name = f"{stream}.{consumer}"
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._name}"
        self._expires = expires
        # The server refuses a heartbeat that is not well below `expires`.
        self._heartbeat = min(idle_heartbeat, expires / 3)
        self._inbox = connection.new_inbox()
        self._subscription: Subscription | None = None
        self._buffer: deque[Delivered] = deque()
        self._credit = 0
        self._heard = 0.0
        self._not_before = 0.0
        self._failure: ServerError | None = None
        self._nobody = False
        self._closed = False
        self._waiters: set[asyncio.Future[None]] = set()
        connection.on_reconnect.append(self._reconnected)
        connection.on_denied.append(self._denied)

    async def pull(self, most: int) -> list[Delivered]:
        """One message at least and `most` at most, or none after `expires`. Cancelling it loses nothing.

        Raises StreamMissingError when stream or consumer is gone, PermissionDeniedError.
        """
        end = self._loop.time() + self._expires
        while not self._closed:
            self._ask(most)
            if self._buffer:
                return [self._buffer.popleft() for _ in range(min(most, len(self._buffer)))]
            if self._subscription is None and self._connection.connected:
                self._subscription = await self._connection.subscribe(self._inbox, self._hear)
                continue
            await self._check()
            now = self._loop.time()
            if now >= end:
                break
            await self._wait(min(end, self._next_look(now)) - now)
        return []

    async def close(self) -> None:
        """Give back what was not handed out, also what is still on its way."""
        self._closed = True
        self._connection.on_reconnect.remove(self._reconnected)
        self._connection.on_denied.remove(self._denied)
        self._wake()
        try:
            if self._subscription is not None:
                subscription, self._subscription = self._subscription, None
                await subscription.drain()
        finally:
            # Only now: while the pull is open the server hands them straight back, into an inbox that goes away.
            while self._buffer:
                self._buffer.popleft().nak()

    # --- asking

    def _ask(self, most: int) -> None:
        now = self._loop.time()
        if self._credit and now - self._heard > 2.5 * self._heartbeat:
            self._credit = 0  # two heartbeats missed: the server forgot the pull
        have = len(self._buffer) + self._credit
        # Asking only when half is missing keeps the pulls waiting at the server few (it allows 512).
        if self._subscription is None or most < 1 or 2 * have > most or now < self._not_before:
            return
        if not self._connection.connected:
            return
        request = {
            "batch": most - have,
            "expires": int(self._expires * 1e9),
            "idle_heartbeat": int(self._heartbeat * 1e9),
        }
        self._connection.publish(self._subject, json.dumps(request).encode(), None, self._inbox)
        self._credit += most - have
        self._heard = now

    def _next_look(self, now: float) -> float:
        if now < self._not_before:
            return self._not_before
        return self._heard + 2.5 * self._heartbeat + 0.01 if self._credit else now + self._heartbeat

    async def _wait(self, seconds: float) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.add(waiter)
        timer = self._loop.call_later(max(seconds, 0.0), self._wake)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _check(self) -> None:
        if self._nobody:
            self._nobody = False
            await self._look_up()
        failure, self._failure = self._failure, None
        if failure is None and self._subscription is not None:
            failure = self._subscription.denied
        if failure is not None:
            raise failure

    async def _look_up(self) -> None:
        # Nobody listens while a leader is elected, and for ever when the consumer is gone.
        try:
            reply = await self._connection.call(
                f"$JS.API.CONSUMER.INFO.{self._name}", timeout=_LOOKUP_TIMEOUT
            )
        except (ServerUnavailableError, PermissionDeniedError):
            return
        if error_code(reply) in (_CONSUMER_MISSING, _STREAM_MISSING):
            raise self._missing()

    def _missing(self) -> StreamMissingError:
        return StreamMissingError(
            f"stream or consumer {self._name} does not exist, or was deleted; apply the streams again"
        )

    # --- hearing

    def _hear(self, msg: Msg) -> None:
        self._heard = self._loop.time()
        if not msg.reply.startswith(ACK_PREFIX):
            self._hear_status(msg)
            return
        delivered = Delivered(self._connection, msg)
        self._credit = max(0, self._credit - 1)
        self._buffer.append(delivered)
        if self._waiters:
            self._wake()

    def _hear_status(self, msg: Msg) -> None:
        if msg.status == 100:
            return
        # Statuses do not say which pull they end, but how much of it is left.
        left = msg.headers.get("Nats-Pending-Messages")
        self._credit = max(0, self._credit - int(left)) if left is not None else 0
        text = msg.headers.get("Description", "")
        if msg.status == 503:
            self._nobody = True
        elif msg.status == 409 and text.lower().startswith("consumer deleted"):
            self._failure = self._missing()
        if msg.status not in (404, 408) and text.lower() != "batch completed":
            self._not_before = self._heard + _REFUSED_WAIT
            _log.debug("pull of %s ended: %s %s", self._name, msg.status, text)
        self._wake()

    def _reconnected(self) -> None:
        self._credit = 0
        self._wake()

    def _denied(self, subject: str, error: PermissionDeniedError) -> None:
        if subject == self._subject.lower():
            self._credit = 0
            self._not_before = self._loop.time() + _REFUSED_WAIT
            self._failure = error
            self._wake()
