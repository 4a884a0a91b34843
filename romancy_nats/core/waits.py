"""Waits of one generation: for events, and for messages in its mailbox. Who resolves them and what is left unread.

Nothing here knows how an event or a message travels; the engine delivers, workflow code waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from romancy_nats.core.cloudevents import check_wait
from romancy_nats.core.events import Command, EventReceived, MessageReceived, Skipped, WaitEnded, WaitStarted
from romancy_nats.core.eviction import refuse_call
from romancy_nats.core.ids import InstanceKey, check_text

Invalid = Literal["skip", "raise"]
"""What becomes of data that does not fit the model that workflow code asked for."""

EVENT = "event"
MESSAGE = "message"


@dataclass(slots=True, eq=False)
class Wait:
    """One open wait. `unread` is there when it is a stream: what arrived and was not read yet."""

    started: WaitStarted
    stream: bool = False
    future: asyncio.Future[EventReceived | MessageReceived] | None = None
    unread: deque[EventReceived] = field(default_factory=deque[EventReceived])


class Waits:
    """The open waits, in the order in which they were issued, and the messages that nobody received yet."""

    def __init__(
        self,
        of: InstanceKey,
        emit: Callable[[Command], None],
        future: Callable[[], asyncio.Future[EventReceived | MessageReceived]],
    ) -> None:
        self._of = of
        self._emit = emit
        self._future = future
        self._count = 0
        self.open: dict[str, Wait] = {}
        self.unread: dict[str, deque[MessageReceived]] = {}
        self.orders: dict[str, int] = {}
        self.skipped: dict[tuple[str, int], EventReceived | MessageReceived] = {}
        """What did not fit, by its place, until the server has the copy of it."""
        self.skips = 0

    def close(self) -> None:
        """The code is evicted: nothing is to refer to whom it belonged."""
        self._emit = refuse_call
        self.open.clear()

    # --- events

    def start(self, kind: str, type: str, key: str | None = None, *, stream: bool = False) -> Wait:
        """Begin to wait; from the commit of this command on, nothing that fits is missed. Raises InvalidNameError."""
        if kind == EVENT:
            check_wait(type, key, self._of)
        else:
            check_text(type, "a channel")
        self._count += 1
        started = WaitStarted(f"{kind}:{self._count}", kind, type, key or "", key is not None)
        wait = Wait(started, stream)
        self.open[started.id] = wait
        self._emit(started)
        return wait

    def end(self, wait: Wait) -> None:
        """Wait no longer; a second time does nothing."""
        if self.open.pop(wait.started.id, None) is not None:
            self._emit(WaitEnded(wait.started.id))

    async def answer(self, wait: Wait) -> EventReceived | MessageReceived:
        """What the wait is answered with; a stream gives its oldest unread event first."""
        if wait.unread:
            return wait.unread.popleft()
        wait.future = future = self._future()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._give_back(future.result())
            raise
        finally:
            wait.future = None

    def _give_back(self, answer: EventReceived | MessageReceived) -> None:
        """Whoever waited was cancelled in the step that answered it: a message goes to the next, or stays unread."""
        if isinstance(answer, MessageReceived) and not self._hand(answer):
            self.unread.setdefault(answer.channel, deque()).appendleft(answer)

    def event(self, event: EventReceived) -> None:
        """An event for a wait. One that is over already is moot."""
        wait = self.open.get(event.wait)
        if wait is None:
            return
        if wait.future is not None and not wait.future.done():
            wait.future.set_result(event)
        elif wait.stream:
            wait.unread.append(event)

    def skip(self, wait: Wait | None, answer: EventReceived | MessageReceived, reason: str) -> None:
        """What came does not fit: a copy of it is parked once this is recorded."""
        self.skips += 1
        self.skipped[answer.stream, answer.sequence] = answer
        waiting = "" if wait is None else wait.started.id
        self._emit(Skipped(waiting, answer.stream, answer.sequence, reason))

    # --- messages

    def take(self, channel: str) -> MessageReceived | None:
        """The oldest unread message of a channel."""
        unread = self.unread.get(check_text(channel, "a channel"))
        if not unread:
            return None
        message = unread.popleft()
        if not unread:
            del self.unread[channel]
        return message

    def message(self, message: MessageReceived) -> None:
        """A message arrived: to whoever waited first for its channel, else kept until it is received."""
        if message.order:
            self.orders[message.sender] = message.order
        if not self._hand(message):
            self.unread.setdefault(message.channel, deque()).append(message)

    def _hand(self, message: MessageReceived) -> bool:
        for wait in self.open.values():
            started = wait.started
            if started.kind != MESSAGE or started.name != message.channel:
                continue
            if wait.future is not None and not wait.future.done():
                wait.future.set_result(message)
                return True
        return False

    def out_of_order(self, sender: str, order: int) -> bool:
        """Whether an earlier message of the same sender has not arrived yet."""
        return order > self.orders.get(sender, 0) + 1
