"""What the attempts of one worker share: threads, tasks, resources, replacements of activities. Runs no activity."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from romancy_nats.core.activity import is_async_callable
from romancy_nats.core.error_text import shown
from romancy_nats.core.limits import Limits
from romancy_nats.ports import Chance, Clock
from romancy_nats.runtime.threads import Threads
from romancy_nats.runtime.tuning import Tuning

_log = logging.getLogger("romancy.activity")

LONGEST_TIDYING = 5.0
"""Seconds that an async attempt may go on after its interruption before it is left behind."""


class Workshop:
    """What the attempts of one worker share. `open` once the worker runs, `close` when it has ended."""

    def __init__(self, tuning: Tuning, clock: Clock, chance: Chance) -> None:
        self.tuning = tuning
        self.clock = clock
        self.chance = chance
        self.tidying = LONGEST_TIDYING
        self.state: object = None
        self.may_begin: Callable[[], bool] = lambda: True
        self.limits: Callable[[], Limits] = Limits
        self.threads = Threads(clock, tuning.threads)
        self._overrides: dict[str, tuple[Callable[..., object], bool]] = {}
        self._variables = contextvars.copy_context()
        self._worker: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: dict[asyncio.Task[None], object] = {}
        self._reported: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """The running task is the worker: attempts begin with its context variables, and end with it."""
        self._worker = asyncio.current_task()
        self._variables = contextvars.copy_context()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop of the worker."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def replace(self, overrides: Mapping[str, Callable[..., object]]) -> None:
        """Call these functions in place of the activities of these names."""
        self._overrides |= {name: (fn, is_async_callable(fn)) for name, fn in overrides.items()}

    def function(
        self, name: str, fn: Callable[..., object], is_async: bool
    ) -> tuple[Callable[..., object], bool]:
        """What is to be called for an activity, and whether on the loop."""
        return self._overrides.get(name) or (fn, is_async)

    def scope(self) -> contextvars.Context:
        """The context variables with which an attempt begins: those of the worker."""
        return self._variables.copy()

    def is_ending(self) -> bool:
        """Whether the worker is being cancelled, and whatever runs with it."""
        worker = self._worker
        return worker is not None and (worker.done() or worker.cancelling() > 0)

    def start(
        self, work: Coroutine[Any, Any, None], scope: contextvars.Context, what: object
    ) -> asyncio.Task[None]:
        """Run async code of an attempt in a task of its own."""
        task = self.loop.create_task(work, context=scope)
        self._tasks[task] = what
        task.add_done_callback(self._task_ended)
        return task

    def watch(self, task: asyncio.Task[None], what: object) -> None:
        """Say so if a task that was interrupted does not end."""
        if not task.done() and not self.loop.is_closed():
            self.loop.call_later(self.tidying, self.leave_behind, task, what)

    def leave_behind(self, task: asyncio.Task[None], what: object) -> None:
        """Nobody waits for this task any longer."""
        if not task.done() and task not in self._reported:
            self._reported.add(task)
            _log.warning(
                "%s was interrupted, but still runs after %.1f s; its end does not count. An activity lets "
                "CancelledError through once it has tidied up",
                what,
                self.tidying,
            )

    async def close(self) -> None:
        """End what still runs: interrupt it, wait for a moment, and leave behind what does not end."""
        self.threads.close()
        left = [task for task in self._tasks if not task.done()]
        if not left:
            return
        for task in left:
            task.cancel()
        try:
            await asyncio.wait(left, timeout=min(self.tidying, max(1.0, self.tuning.grace)))
        finally:
            self._forget(task for task in left if not task.done())

    def _forget(self, left: Iterable[asyncio.Task[None]]) -> None:
        for task in left:
            _log.warning("%s does not end; the worker ends without it", self._tasks.get(task, "an activity"))
            # asyncio.run would wait for it for ever.
            asyncio._unregister_task(task)
            setattr(task, "_log_destroy_pending", False)  # noqa: B010

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        self._reported.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a defect around an activity: %s", shown(error), exc_info=error)
