"""What an owned instance has under way: attempts, timers, registrations. Begun only after their commit (L2)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from romancy_nats.core.events import (
    ActivityAbandoned,
    ActivityAttemptFailed,
    ActivityScheduled,
    Event,
    Skipped,
    TimerCancelled,
    TimerFired,
    TimerStarted,
    UpdateAnswered,
    WaitEnded,
    WaitStarted,
)
from romancy_nats.runtime.alarms import Alarms
from romancy_nats.runtime.attempts import Attempts
from romancy_nats.runtime.part import Part
from romancy_nats.runtime.registrations import Registrations
from romancy_nats.runtime.skipped import SkippedAnswers

if TYPE_CHECKING:
    from romancy_nats.runtime.instance import Instance

_MICROSECONDS = 1_000_000
_RETRY = "retry:"
_BEGUN_AT_ONCE = 100
"""Activities that begin in one pass of the loop: thousands at once would hold up the renewal of the lease (L10)."""


class Effects(Part):
    """The effects of one instance."""

    def __init__(self, instance: Instance) -> None:
        super().__init__(instance)
        self.attempts: dict[str, Attempts] = {}
        self.alarms = Alarms(instance.owner.world.clock)
        self.registrations = Registrations(instance)
        self.skipped = SkippedAnswers(instance)
        self._waiting: deque[str] = deque()
        self._next_begin: asyncio.Handle | None = None

    def carry_out(self, batch: Sequence[Event]) -> None:
        """Begin what a commit asked for."""
        begun = 0
        for event in batch:
            if isinstance(event, ActivityScheduled):
                begun += 1
                if begun <= _BEGUN_AT_ONCE:
                    self.begin(event.id)
                else:
                    self._begin_soon(event.id)
            elif isinstance(event, ActivityAbandoned):
                self.give_up(event.id)
            elif isinstance(event, TimerStarted):
                self.arm(event.id)
            elif isinstance(event, TimerCancelled):
                self.alarms.cancel(event.id)
            elif isinstance(event, ActivityAttemptFailed):
                if event.retry_at and event.id in self._instance.execution.state.activities:
                    self._retry_later(event.id, event.retry_at)
            else:
                self._tell_others(event)

    def _tell_others(self, event: Event) -> None:
        if isinstance(event, WaitStarted):
            self.registrations.begin(event)
        elif isinstance(event, WaitEnded):
            self.registrations.end(event.id)
        elif isinstance(event, Skipped):
            self.skipped.begin(event)
        elif isinstance(event, UpdateAnswered):
            self._instance.owner.update_answered(self._instance, event)

    def begin(self, id: str) -> None:
        """Begin the attempts of a scheduled activity, or wait for the time of its next one."""
        instance = self._instance
        pending = instance.execution.state.activities.get(id)
        if pending is None or instance.stopping or not instance.owner.lease.valid():
            return
        if pending.retry_at > instance.owner.world.clock.now() * _MICROSECONDS:
            self._retry_later(id, pending.retry_at)
            return
        generation = instance.record.generation
        attempts = Attempts(instance.owner.workshop, instance.key, generation, pending, instance)
        self.attempts[id] = attempts
        pending.retry_at = 0
        attempts.begin()

    def begin_all(self, ids: Iterable[str]) -> None:
        """Begin these, so many in one pass of the loop, and none of those that waited for theirs before."""
        self._waiting = deque(ids)
        if self._next_begin is not None:
            self._next_begin.cancel()
        self._begin_more()

    def _begin_soon(self, id: str) -> None:
        self._waiting.append(id)
        if self._next_begin is None:
            self._next_begin = asyncio.get_running_loop().call_soon(self._instance.bounded, self._begin_more)

    def _begin_more(self) -> None:
        self._next_begin = None
        if self._instance.stalled is not None:
            self._waiting.clear()
        for _ in range(min(_BEGUN_AT_ONCE, len(self._waiting))):
            self.begin(self._waiting.popleft())
        if self._waiting:
            self._next_begin = asyncio.get_running_loop().call_soon(self._instance.bounded, self._begin_more)

    def give_up(self, id: str) -> None:
        """Nobody wants its result any more."""
        attempts = self.attempts.pop(id, None)
        if attempts is not None:
            attempts.give_up()

    def arm(self, id: str) -> None:
        """Start a local timer."""
        timer = self._instance.execution.state.timers.get(id)
        if timer is not None and not self._instance.stopping:
            self.alarms.set(id, timer.due, lambda id: self._instance.bounded(self._fired, id))

    def _fired(self, id: str) -> None:
        timer = self._instance.execution.state.timers.get(id)
        if timer is not None:
            # Its time has come, even if somebody sets the clock back before the commit is made (L8).
            self._instance.last_time = max(self._instance.last_time, timer.due)
            self._instance.give(TimerFired(id))

    def _retry_later(self, id: str, due: int) -> None:
        if not self._instance.stopping:
            self.alarms.set(_RETRY + id, due, lambda _: self._instance.bounded(self.begin, id))

    def fire_due(self, now: int) -> None:
        """Let everything fire that is due by the server's clock, which woke the instance (L8)."""
        instance = self._instance
        instance.last_time = max(instance.last_time, now)
        for id, timer in list(instance.execution.state.timers.items()):
            if timer.due <= now:
                self.alarms.cancel(id)
                instance.expect(TimerFired(id))
        for pending in instance.execution.state.activities.values():
            pending.retry_at = 0 if pending.retry_at <= now else pending.retry_at

    def stop(self) -> None:
        """Give up all attempts and timers."""
        self._waiting.clear()
        for attempts in list(self.attempts.values()):
            attempts.give_up()
        self.attempts.clear()
        self.alarms.clear()
