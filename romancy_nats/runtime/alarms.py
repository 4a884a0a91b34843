"""The local timers of an owned instance (L8), never early by the wall clock, and what a rest has to promise."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from romancy_nats.core.state import WorkflowState
from romancy_nats.core.times import NEVER
from romancy_nats.ports import Clock

_MICROSECONDS = 1_000_000


def next_due(state: WorkflowState) -> int:
    """When the earliest timer or retry is due, 0 for none. From the state: alarms may be over, or never set."""
    dues = [timer.due for timer in state.timers.values()]
    dues += [pending.retry_at for pending in state.activities.values() if pending.retry_at]
    earliest = min(dues, default=0)
    return earliest if earliest < NEVER else 0


def idle(state: WorkflowState) -> bool:
    """Whether every pending activity waits for a later attempt: one that was held back (L10) does not."""
    return all(pending.retry_at for pending in state.activities.values())


class Alarms:
    """Calls back when something is due. Due times are µs since the epoch."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due: dict[str, int] = {}
        self._calls: dict[str, Callable[[str], None]] = {}
        self._handles: dict[str, asyncio.TimerHandle] = {}

    def set(self, id: str, due: int, call: Callable[[str], None]) -> None:
        """Call `call(id)` at `due`, or at once when that has passed."""
        self.cancel(id)
        if due >= NEVER:
            return
        self._due[id] = due
        self._calls[id] = call
        self._schedule(id)

    def cancel(self, id: str) -> None:
        """No longer."""
        handle = self._handles.pop(id, None)
        if handle is not None:
            handle.cancel()
        self._due.pop(id, None)
        self._calls.pop(id, None)

    def clear(self) -> None:
        """None of them any longer."""
        for id in list(self._due):
            self.cancel(id)

    def __contains__(self, id: str) -> bool:
        return id in self._due

    def _schedule(self, id: str) -> None:
        wait = self._due[id] / _MICROSECONDS - self._clock.now()
        self._handles[id] = asyncio.get_running_loop().call_later(max(0.0, wait), self._ring, id)

    def _ring(self, id: str) -> None:
        if self._due[id] > self._clock.now() * _MICROSECONDS:
            # The loop's clock and the wall clock need not agree; a timer is never early (L8).
            self._schedule(id)
            return
        call = self._calls[id]
        self.cancel(id)
        call(id)
