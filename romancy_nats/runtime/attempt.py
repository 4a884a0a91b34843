"""One attempt of an activity: its context, its task or thread, its limits. Says once how it ended; decides nothing."""

from __future__ import annotations

import asyncio
import inspect
import types
from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from romancy_nats.core.error_text import is_one_of
from romancy_nats.errors import ActivityTimeoutError, ConfigurationError
from romancy_nats.runtime.activity_context import ActivityContext, enter_attempt
from romancy_nats.runtime.threads import ThreadCall

if TYPE_CHECKING:
    from romancy_nats.core.activity import Activity
    from romancy_nats.runtime.workshop import Workshop

_PLAIN = frozenset({type(None), bool, int, float, str, bytes, list, dict, tuple})
MOST_NESTED = 16
"""So many awaitables that return awaitables are awaited; a longer chain may be one that never ends."""

Ended = Callable[[object, BaseException | None], None]


class Attempt:
    """One attempt. `began` is called when it runs, `ended` once with its result or its error, neither if given up."""

    __slots__ = (
        "_activity",
        "_beat_at",
        "_began",
        "_call",
        "_ended",
        "_error",
        "_limit",
        "_patience",
        "_silence",
        "_task",
        "_workshop",
        "context",
        "over",
        "scope",
    )

    def __init__(
        self,
        workshop: Workshop,
        activity: Activity[..., Any],
        context: ActivityContext,
        began: Callable[[], None],
        ended: Ended,
    ) -> None:
        self._workshop = workshop
        self._activity = activity
        self._began = began
        self._ended = ended
        self._task: asyncio.Task[None] | None = None
        self._call: ThreadCall | None = None
        self._limit: asyncio.TimerHandle | None = None
        self._silence: asyncio.TimerHandle | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._beat_at = 0.0
        self._error: BaseException | None = None
        self.context = context
        self.over = False
        """Whether it has ended or was given up: what it returns or raises from now on does not count."""
        self.scope = workshop.scope()
        """The context variables of this attempt, as clean as on another worker."""
        self.scope.run(enter_attempt, context)

    def begin(
        self, fn: Callable[..., object], is_async: bool, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        """Call the function: an async one in a task, any other in a thread once there is a place for it."""
        if is_async:
            self._run(partial(fn, *args, **kwargs) if args or kwargs else fn)
            self._begin_limits()
            return
        work = partial(self.scope.run, fn, *args, **kwargs)
        self._call = ThreadCall(self.context, work, self._begin_limits, self._thread_ended)
        self._workshop.threads.begin(self._call, self._activity.name, self._activity.max_threads)

    def give_up(self) -> None:
        """Its end no longer counts: interrupt async code, raise the flag that a thread looks at."""
        if not self.over:
            self._finish()
        self._error = None
        if self._patience is not None:
            self._patience.cancel()
        self._interrupt()
        if self._task is not None:
            self._workshop.watch(self._task, self.context)

    def _run(self, call: Callable[[], object]) -> None:
        self._task = self._workshop.start(self._await(call), self.scope, self.context)

    async def _await(self, call: Callable[[], object]) -> None:
        """What is returned decides: an awaitable is awaited."""
        try:
            value = call()
            for _ in range(MOST_NESTED):
                if not is_awaitable(value):
                    break
                value = await cast("Awaitable[object]", value)
            else:
                raise ConfigurationError(
                    f"activity {self._activity.name!r} returned an awaitable that gives another one, and so on; "
                    "return the value"
                )
        except BaseException as error:  # noqa: BLE001 - the boundary: whatever an activity raises is its failure, not the worker's
            if is_one_of(error, (CancelledError, GeneratorExit)) and self._workshop.is_ending():
                # Cancelled with everything else: that says nothing about the activity.
                self.over = True
            self._end(None, error)
        else:
            self._end(value, None)

    def _thread_ended(self, value: object, error: BaseException | None) -> None:
        self._call = None
        if error is None and is_awaitable(value) and not self.over:
            self._run(lambda: value)
            return
        self.scope.run(self._end, value, error)

    def _end(self, value: object, error: BaseException | None) -> None:
        if self.over:
            # Where it was interrupted is worth knowing.
            if self._error is not None and error is not None:
                self._error.__cause__ = error
            return
        self._finish()
        self._ended(value, error)

    def _finish(self) -> None:
        self.over = True
        for timer in (self._limit, self._silence):
            if timer is not None:
                timer.cancel()
        self._limit = self._silence = None
        self.context.watch(None)

    # --- limits

    def _begin_limits(self) -> None:
        """It runs from now on: its time limit and its silence count."""
        self._began()
        loop, limit, silence = self._workshop.loop, self._activity.timeout, self._activity.heartbeat
        if limit is not None:
            self._limit = loop.call_later(limit, self._time_out, limit, "")
        if silence is not None:
            self._beaten()
            self.context.watch(self._beaten)
            self._silence = loop.call_later(silence, self._look)

    def _beaten(self) -> None:
        """A heartbeat, from whichever thread."""
        self._beat_at = self._workshop.clock.monotonic()

    def _look(self) -> None:
        """Whether it has been silent for too long."""
        silence = self._activity.heartbeat or 0.0
        left = self._beat_at + silence - self._workshop.clock.monotonic()
        if left <= 0:
            self._time_out(silence, "heartbeat")
        else:
            self._silence = self._workshop.loop.call_later(left, self._look)

    def _time_out(self, limit: float, kind: str) -> None:
        if self.over:
            return
        self._finish()
        name = self._activity.name
        self._error = ActivityTimeoutError(name, limit, kind) if kind else ActivityTimeoutError(name, limit)
        self._interrupt()
        if self._task is None:
            self._say_timed_out()
            return
        # The next attempt is not to run beside the clean-up of this one, but does not wait for it for ever.
        self._task.add_done_callback(self._cleaned_up)
        self._patience = self._workshop.loop.call_later(self._workshop.tidying, self._leave_behind)

    def _interrupt(self) -> None:
        self.context.cancel()
        if self._task is not None:
            self._task.cancel()
        elif self._call is not None:
            self._workshop.threads.give_up(self._call)
            self._call = None

    def _cleaned_up(self, task: asyncio.Task[None]) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._say_timed_out()

    def _leave_behind(self) -> None:
        if self._task is not None:
            self._workshop.leave_behind(self._task, self.context)
        self._say_timed_out()

    def _say_timed_out(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            self._ended(None, error)


def is_awaitable(value: object) -> bool:
    """Whether `await` takes it, by its real class; never raises."""
    cls = type(value)
    if cls in _PLAIN:
        return False
    if cls is types.CoroutineType:
        return True
    if cls is types.GeneratorType:
        code = cast("types.GeneratorType[Any, Any, Any]", value).gi_code
        return bool(code.co_flags & inspect.CO_ITERABLE_COROUTINE)
    mro: tuple[type, ...] = type.__dict__["__mro__"].__get__(cls)
    return any("__await__" in type.__dict__["__dict__"].__get__(parent) for parent in mro)
