"""What ends the body of a workflow before it returns: a cancel, its time limit, `ctx.recur`. Not what follows then."""

from __future__ import annotations

import asyncio
from typing import NoReturn

from romancy_nats.core.events import CancelRequested
from romancy_nats.core.tasks import RecurredElsewhere


class Recurring(BaseException):
    """Unwinds workflow code that called `ctx.recur`; no `except Exception` of a user holds it up."""


class Interruption:
    """By what the root task of one generation was interrupted: the first counts, and none after the body has ended."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        """The root task, once the workflow is entered."""
        self.cancel: CancelRequested | None = None
        self.timed_out = False
        self.next_input: bytes | None = None
        """What `ctx.recur` gives to the next generation."""
        self.unwinds = False
        """Whether the body has ended: its other tasks are cancelled, then what was done is undone."""
        self._possible = False

    def enter(self, task: asyncio.Task[None]) -> None:
        """This is the root task."""
        self.task = task

    def body_begins(self) -> None:
        """From here on the body can be interrupted."""
        self._possible = True

    def body_ended(self) -> None:
        """From here on neither cancel nor time limit interrupts: what was done is undone to the end."""
        self._possible = False
        self.unwinds = True

    def close(self) -> None:
        """The code is evicted: nothing is to refer to it."""
        self.task = None

    def request_cancel(self, event: CancelRequested) -> None:
        """Somebody asked for the cancel; what ends already is not interrupted, but does not recur."""
        if self.cancel is not None or self.task is None:
            return
        if self._possible:
            self.cancel = event
            self.task.cancel(event.reason)
        elif self.next_input is not None:
            self.cancel = event

    def time_out(self) -> None:
        """The time limit has passed."""
        if self.cancel is None and self._possible and self.task is not None:
            self.timed_out = True
            self.task.cancel("timeout")

    def recur(self, input: bytes) -> NoReturn:
        """End the body, from any task of the workflow, for a next generation with this input."""
        if self._possible:
            self.next_input = input
        if asyncio.current_task() is self.task:
            raise Recurring
        if self._possible and self.task is not None:
            self.task.cancel("recur")
        raise RecurredElsewhere
