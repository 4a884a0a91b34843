"""One message that a consumer handed to us, and the answers to it. Does not pull."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from romancy_nats.errors import ConnectionLostError, PayloadError

if TYPE_CHECKING:
    from romancy_nats.jetstream.connection import Connection
    from romancy_nats.jetstream.replies import Msg

ACK_PREFIX = "$JS.ACK."
_SHORT_FORM = 9


class Delivered:
    """A message to be answered once. A lost answer means redelivery, so answers are dropped while disconnected."""

    __slots__ = (
        "_connection",
        "_reply",
        "data",
        "deliveries",
        "headers",
        "sequence",
        "stream",
        "subject",
        "time",
    )

    def __init__(self, connection: Connection, msg: Msg) -> None:
        self._connection = connection
        self._reply = msg.reply
        self.subject = msg.subject
        self.headers = msg.headers
        self.data = msg.data
        tokens = msg.reply.split(".")
        # $JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<deliveries>.<sequence>.<…>.<ns>.<pending>[.<random>]
        start = 2 if len(tokens) == _SHORT_FORM else 4
        try:
            self.stream = tokens[start]
            self.deliveries = int(tokens[start + 2])
            self.sequence = int(tokens[start + 3])
            self.time = int(tokens[start + 5])
        except (IndexError, ValueError) as error:
            raise PayloadError(f"not the reply subject of a consumer: {msg.reply}") from error

    def ack(self) -> None:
        """Done with it. Any delivery's ack acks the message."""
        self._answer(b"+ACK")

    def nak(self, delay: float = 0.0) -> None:
        """Deliver it again, to anyone, after `delay` seconds."""
        self._answer(b"-NAK " + json.dumps({"delay": int(delay * 1e9)}).encode() if delay > 0 else b"-NAK")

    def in_progress(self) -> None:
        """Still at work: restart the ack wait."""
        self._answer(b"+WPI")

    async def acked(self, timeout: float = 5.0) -> None:
        """Ack, and wait until the server knows. Raises ServerUnavailableError."""
        await self._connection.call(self._reply, b"+ACK", timeout=timeout)

    def _answer(self, word: bytes) -> None:
        with contextlib.suppress(ConnectionLostError):
            self._connection.publish(self._reply, word)

    def __repr__(self) -> str:
        return f"<Delivered {self.stream}:{self.sequence} {self.subject} deliveries={self.deliveries}>"
