"""Numbers the channel messages of one client, so that each instance sees them once and in the order of their calls."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.messages.channel import channel_message
from romancy_nats.core.messages.envelope import Message
from romancy_nats.core.plain import encode_plain
from romancy_nats.ports import Duplicate

_MOST_REMEMBERED = 10_000


@dataclass(slots=True)
class _Line:
    """The messages to an instance since one start of it: the number of the last that is stored."""

    start: int
    last: int = 0


class Outbox:
    """The channel messages of one sender. `send` publishes a message and returns its sequence once it is durable."""

    def __init__(
        self, sender: str, send: Callable[[Message], Awaitable[int]], max_value: Callable[[], int]
    ) -> None:
        self._sender = sender
        self._send = send
        self._max_value = max_value
        self._lines: OrderedDict[InstanceKey, _Line] = OrderedDict()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def turn(self, id: str) -> asyncio.Lock:
        """The lock to hold around `put`: concurrent sends to an instance keep the order of their calls."""
        return self._turns.setdefault(id, asyncio.Lock())

    async def put(
        self,
        key: InstanceKey,
        start: int,
        channel: str,
        data: object,
        metadata: Mapping[str, Any] | None,
        message_id: str,
    ) -> None:
        """Send one message; returns once it is durable. The caller holds `turn`. Only a stored message counts."""
        body = encode_plain(data, f"the message on {channel!r}", self._max_value())
        line = self._line(key, start)
        order = line.last + 1
        message = channel_message(key, channel, body, self._sender, order, message_id, metadata)
        if not isinstance(await self._send(message), Duplicate):
            line.last = order

    def _line(self, key: InstanceKey, start: int) -> _Line:
        """The numbering for the start (its sequence) that the instance was begun by, 0 while that is not known."""
        line = self._lines.get(key)
        if line is None or (line.start and start and line.start != start):
            # Begun again by another start it knows nothing of what was sent before; begun anew by `recur` it does.
            line = self._lines[key] = _Line(start)
        line.start = start or line.start
        self._lines.move_to_end(key)
        if len(self._lines) > _MOST_REMEMBERED:
            # Beginning again at 1 is harmless: a number that was there before is never early.
            self._lines.popitem(last=False)
        return line
