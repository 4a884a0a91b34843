# pyright: reportPrivateUsage=false
"""What `call_soon` and `call_later` of the deterministic loop return. No scheduling rule may go in here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import TYPE_CHECKING

from romancy_nats.core.times import micros

_DEADLINES = ("_deadline", "_when")
"""Where anyio's CancelScope and asyncio's Timeout keep theirs."""


class WorkflowHandle(asyncio.Handle):
    """A callback ready to run."""

    __slots__ = ()
    if TYPE_CHECKING:
        _callback: Callable[..., object]
        _context: Context
        _loop: asyncio.AbstractEventLoop
        _source_traceback: None
        _repr: str | None

    # The base class asks the loop for its debug flag at each construction; this is the hot path of every resume.
    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[object, ...],
        loop: asyncio.AbstractEventLoop,
        context: Context | None,
    ) -> None:
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = copy_context() if context is None else context
        self._cancelled = False
        self._source_traceback = None
        self._repr = None


class WorkflowTimer(asyncio.TimerHandle):
    """A durable timer: `number` counts the timers of its loop from 1, `when()` is virtual time."""

    __slots__ = ("number", "position")
    if TYPE_CHECKING:
        _callback: Callable[..., object]
        _context: Context
        _scheduled: bool
        _when: float

    number: int
    position: int

    @property
    def due(self) -> int:
        """When it is due, in µs since the epoch, at most NEVER."""
        return micros(self.when())

    def fall_due(self, when: float) -> None:
        """Be due at another time than the code asked for, and with it the deadline that it is the timer of.

        anyio looks at the clock when a deadline fires, and would wait for the rest of it.
        """
        deadline = getattr(self._callback, "__self__", None)
        for field in _DEADLINES:
            if isinstance(getattr(deadline, field, None), float):
                setattr(deadline, field, when)
        self._when = when

    # Two timers with equal time and callback are equal to asyncio; a list of timers needs identity.
    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)
