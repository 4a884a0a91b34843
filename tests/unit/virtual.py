"""Drives a deterministic loop as an execution does: one step per fired timer, earliest first. No tests here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

from romancy_nats.core.loop import DeterministicLoop, WorkflowTimer

START = 1_700_000_000.0


class Drive:
    """One instance's code: `root` is its root task, `timers` those known outside, `steps` how many were taken."""

    def __init__(
        self, main: Callable[[], Coroutine[Any, Any, Any]], loop: DeterministicLoop | None = None
    ) -> None:
        self.loop = loop or DeterministicLoop()
        self.timers: list[WorkflowTimer] = []
        self.cancelled: list[int] = []
        self.steps = 0
        self.root: asyncio.Task[Any]
        self.step(lambda: setattr(self, "root", self.loop.create_task(main(), context=Context())))

    def step(self, deliver: Callable[[], object] | None = None, now: float = 0.0) -> None:
        self.steps += 1
        self.loop.step(now or max(START, self.loop.time()), deliver)  # type: ignore[arg-type]
        self.timers += self.loop.new_timers
        self.loop.new_timers.clear()
        for timer in self.loop.cancelled_timers:
            self.timers.remove(timer)
            self.cancelled.append(timer.number)
        self.loop.cancelled_timers.clear()

    def to_end(self) -> Any:
        while self.timers and not self.root.done():
            timer = min(self.timers, key=lambda timer: (timer.when(), timer.number))
            self.timers.remove(timer)
            self.step(lambda timer=timer: self.loop.fire(timer), now=timer.when())  # type: ignore[misc]
        assert self.root.done(), "nothing is left to wait for, and yet the root task has not ended"
        return self.root.result()


def run(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """The result of `main`, run to its end and evicted."""
    drive = Drive(main)
    try:
        return drive.to_end()
    finally:
        assert drive.loop.errors == []
        drive.loop.close_all()
