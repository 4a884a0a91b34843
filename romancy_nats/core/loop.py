# pyright: reportPrivateUsage=false
"""The deterministic asyncio event loop that runs one instance's code: a FIFO of handles and virtual time.

No I/O, no clock, no thread, no knowledge of events or commands. One step runs until nothing is ready any more.
"""

from __future__ import annotations

import asyncio
import math
import sys
from asyncio.events import _get_running_loop, _set_running_loop
from asyncio.tasks import _enter_task, _leave_task, current_task
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from threading import Lock, get_ident
from typing import Any, NoReturn, TypeVar, TypeVarTuple, Unpack, cast

from romancy_nats.core.asyncgens import AsyncGens
from romancy_nats.core.error_text import value_repr
from romancy_nats.core.eviction import ATTEMPTS, Evicted, close_coroutine, refuse
from romancy_nats.core.handles import WorkflowHandle, WorkflowTimer
from romancy_nats.core.orders import AsCompleted, Cancellations, Ready, is_ensuring
from romancy_nats.core.refusals import RefusingLoop, StepViolation, violation
from romancy_nats.core.tasks import WorkflowFuture, WorkflowTask
from romancy_nats.core.times import finite
from romancy_nats.errors import QueryError, StepTooLongError, WorkflowRuleError

__all__ = ["DeterministicLoop", "Evicted", "StepViolation", "WorkflowFuture", "WorkflowTask", "WorkflowTimer"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
# Creation numbers fill the low bits, so small sets iterate in order of creation whatever the seed.
_SEED_SHIFT = 12
_SEED_MASK = (1 << 48) - 1
_stalling = Lock()


class DeterministicLoop(RefusingLoop):
    """Give every instance a `seed` of its own, derived from its id.

    The hash of a future is seed and creation number. asyncio and anyio keep tasks of all loops in global weak sets,
    which would degenerate if the first task of every cached instance had the same hash.
    """

    def __init__(
        self,
        *,
        max_handles: int = 100_000,
        on_error: Callable[[dict[str, object]], None] | None = None,
        on_stalled: Callable[[StepViolation], None] | None = None,
        seed: int = 0,
    ) -> None:
        self.stalled: StepViolation | None = None
        self.errors: list[dict[str, object]] = []
        self.cancelled_timers: list[WorkflowTimer] = []
        self._max_handles = max_handles
        self._on_error = on_error
        self._on_stalled = on_stalled
        self._now = 0.0
        self._thread = 0
        self._dead = False
        self._looking = False
        self._refused = 0
        self._ready: deque[Ready] = deque()
        self._append: Callable[[Ready], None] = self._ready.append
        self._first_order = self._order = (seed & _SEED_MASK) << _SEED_SHIFT
        self._timers = 0
        self._new_timers: list[WorkflowTimer] = []
        self._stale_timers = False
        self._live: list[WorkflowTask[Any]] = []
        self._sweep_at = 8
        self._steps_to_sweep = 0
        self._asyncgens: AsyncGens | None = None
        self._cancellations: Cancellations | None = None
        self._as_completed: AsCompleted | None = None

    # --- driving it

    def step(self, now: float, deliver: Callable[[], None] | None = None) -> None:
        """Run everything that is ready, after `deliver`, at virtual time `now`; time never goes backwards."""
        if self._dead:
            raise RuntimeError("this loop was evicted; make a new one and replay the history into it")
        outside = self._enter()
        try:
            if now > self._now:
                self._now = now
            if deliver is not None:
                deliver()
            self._run_ready()
            self._steps_to_sweep -= 1
            if self._steps_to_sweep < 0:
                self._sweep()
        finally:
            self._leave(*outside)

    def look(self, at: Callable[[], None]) -> bool:
        """Run `at` as a step would, but let it change nothing: what it tries to schedule raises QueryError.

        False says that it woke something before it could be stopped: the memory of this workflow is worth nothing
        any more.
        """
        if self._dead:
            raise RuntimeError("this loop was evicted; make a new one and replay the history into it")
        outside = self._enter()
        append, order, cancelled = self._append, self._order, len(self.cancelled_timers)
        woken: list[Ready] = []

        def refuse(handle: Ready) -> NoReturn:
            woken.append(handle)
            raise _only_looking("wake something up")

        self._append, self._looking = refuse, True
        try:
            at()
        finally:
            self._append, self._looking, self._order = append, False, order
            self._leave(*outside)
        return not woken and len(self.cancelled_timers) == cancelled

    def _enter(self) -> tuple[asyncio.AbstractEventLoop | None, asyncio.Task[Any] | None, Any]:
        outer = _get_running_loop()
        if self._thread or isinstance(outer, DeterministicLoop):
            raise WorkflowRuleError(
                "a step within a step: workflow code may not drive another workflow's code"
            )
        task = None
        if outer is not None:
            task = current_task(outer)
            if task is not None:
                # Python 3.14 knows one current task per thread, not per loop.
                _leave_task(outer, task)
        hooks = sys.get_asyncgen_hooks()
        if self._asyncgens is None:
            self._asyncgens = AsyncGens(self._in_step, self.create_task)
        sys.set_asyncgen_hooks(self._asyncgens.first_iteration, self._asyncgens.finalize)
        _set_running_loop(self)
        self._thread = get_ident()
        return outer, task, hooks

    def _leave(
        self, outer: asyncio.AbstractEventLoop | None, task: asyncio.Task[Any] | None, hooks: Any
    ) -> None:
        self._thread = 0
        _set_running_loop(outer)
        sys.set_asyncgen_hooks(*hooks)
        if task is not None and outer is not None:
            _enter_task(outer, task)

    def _run_ready(self) -> None:
        ready = self._ready
        next_ready = ready.popleft
        for _ in range(self._max_handles):
            if not ready:
                return
            handle = next_ready()
            if handle._cancelled:
                continue
            try:
                handle._context.run(handle._callback, *handle._args)
            except BaseException as error:  # noqa: BLE001 - SystemExit in workflow code fails its task, not the worker
                self.call_exception_handler(
                    {
                        "message": f"{value_repr(handle._callback)} raised",
                        "exception": error,
                        "handle": handle,
                    }
                )
        if ready:
            raise StepTooLongError(
                f"workflow code ran {self._max_handles:,} callbacks in one step without waiting for anything; "
                "look for a loop that swallows cancellation or polls with sleep(0). Next would be "
                f"{value_repr(ready[0])}"
            )

    def steps_here(self) -> bool:
        """Whether the code of this loop is what runs now, in this thread: a step, a look, or its eviction."""
        return self._thread == get_ident()

    def _in_step(self) -> bool:
        return self.steps_here() and not self._dead

    @property
    def in_step(self) -> bool:
        """Whether workflow code runs here just now, and is not being evicted."""
        return self._in_step()

    # --- scheduling

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> WorkflowHandle:
        if get_ident() != self._thread:
            self._violate("call_soon")
        handle = WorkflowHandle(callback, args, self, context)
        self._append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> NoReturn:
        self._violate("call_soon_threadsafe")

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> WorkflowTimer:
        when = self._now + (delay if type(delay) is float else finite(delay))
        if delay > 0.0 and when <= self._now:
            # Shorter than the float of an epoch second can tell: still a wait, or a loop of them would never end.
            when = math.nextafter(self._now, math.inf)
        return self.call_at(when, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> WorkflowTimer:
        """What is due already runs in this step; what is due never is no durable timer."""
        if get_ident() != self._thread:
            self._violate("call_at")
        if type(when) is not float:
            when = finite(when)
        if math.isnan(when):
            raise ValueError("a timer needs a time, not NaN")
        if self._looking:
            raise _only_looking("start a timer")
        timer = WorkflowTimer(when, callback, args, self, context)
        self._timers = timer.number = self._timers + 1
        if self._dead or when <= self._now:
            self._append(timer)
        elif when != math.inf:
            timer._scheduled = True
            new = self.new_timers
            timer.position = len(new)
            new.append(timer)
        return timer

    def time(self) -> float:
        return self._now

    @property
    def new_timers(self) -> list[WorkflowTimer]:
        """Timers created since this list was last cleared, and still pending."""
        if self._stale_timers:
            self._stale_timers = False
            self._new_timers[:] = [timer for timer in self._new_timers if timer._scheduled]
            for position, timer in enumerate(self._new_timers):
                timer.position = position
        return self._new_timers

    def fire(self, timer: WorkflowTimer) -> None:
        """Called inside `deliver`: the timer's callback is ready to run."""
        if timer._scheduled:
            if get_ident() != self._thread:
                self._violate("fire")
            self._unschedule(timer)
            self._append(timer)

    def _timer_handle_cancelled(self, timer: WorkflowTimer) -> None:
        # asyncio.sleep cancels its timer also after it fired: that is no news to anybody.
        if timer._scheduled and not self._unschedule(timer):
            self.cancelled_timers.append(timer)

    def _unschedule(self, timer: WorkflowTimer) -> bool:
        """Whether the timer was still in `new_timers`, so that nobody outside knows it."""
        timer._scheduled = False
        new = self._new_timers
        unknown = timer.position < len(new) and new[timer.position] is timer
        self._stale_timers = self._stale_timers or unknown
        return unknown

    # --- futures and tasks

    def create_future(self) -> WorkflowFuture[Any]:
        if self._dead:
            self._refuse()
        future: WorkflowFuture[Any] = WorkflowFuture(loop=self)
        self._order = future.order = self._order + 1
        return future

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: Context | None = None,
        **options: Any,
    ) -> asyncio.Task[T]:
        if get_ident() != self._thread or self._dead:
            # Nobody will ever run it: closed here, it does not complain that it was never awaited.
            coro.close()
            if get_ident() != self._thread:
                self._violate("create_task")
            self._refuse()
        if self._looking:
            coro.close()
            raise _only_looking("start a task")
        if is_ensuring(sys._getframe(1)):
            self._as_completed = self._as_completed or AsCompleted()
            made = self._as_completed.task_of(coro, self)
            if made is not None:
                return made
        self._order = order = self._order + 1
        task = WorkflowTask(
            coro,
            loop=self,
            order=order,
            # asyncio would number tasks per process, which differs in replay.
            name=f"Task-{order - self._first_order}" if name is None else str(name),
            context=copy_context() if context is None else context,
            in_order=self._cancel_in_order,
            **options,
        )
        # What evicts a loop closes its tasks. A loop that is lost with its process has nobody to complain to.
        task._log_destroy_pending = False
        self._live.append(task)
        if len(self._live) > self._sweep_at:
            self._sweep()
        return task

    def live_tasks(self) -> list[WorkflowTask[Any]]:
        """The tasks that have not ended, in order of creation."""
        self._sweep()
        return list(self._live)

    def _sweep(self) -> None:
        """Lets go of ended tasks, soon (asyncio reports an unseen error when its task goes) and at a constant price."""
        self._live[:] = [task for task in self._live if not task.done()]
        self._sweep_at = 8 + 2 * len(self._live)
        self._steps_to_sweep = len(self._live) // 8

    def _cancel_in_order(self, order: int, cancel: Callable[[], bool]) -> bool:
        cancellations = self._cancellations = self._cancellations or Cancellations()
        if cancellations.collecting or self._dead:
            return cancel()
        block: list[Ready] = []
        self._append, cancellations.collecting = block.append, True
        try:
            return cancel()
        finally:
            self._append, cancellations.collecting = self._ready.append, False
            if block:
                cancellations.add(order, block, self._ready, self)

    # --- errors

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self._dead:
            return
        if self._on_error is None:
            self.errors.append(context)
        else:
            self._on_error(context)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def _violate(self, call: str) -> NoReturn:
        """Outside a step nothing can be run: raise there, and remember it, for here somebody waits for the call."""
        found = violation(call)
        if self._dead:
            if call == "call_soon_threadsafe":
                # To a foreign thread an evicted loop is a closed one: worker threads expect RuntimeError then.
                raise found
            refuse()
        with _stalling:
            first = self.stalled is None
            if first:
                self.stalled = StepViolation(found.call, found.stack)
        if first and self._on_stalled is not None and self.stalled is not None:
            self._on_stalled(self.stalled)
        raise found

    def is_running(self) -> bool:
        return self._thread != 0

    def is_closed(self) -> bool:
        """True when stalled, too: threads that have lost their loop then end quietly."""
        return self._dead or self.stalled is not None

    # --- eviction

    def close_all(self) -> None:
        """Evict: end all code, newest task first, with every call of this loop refused; the loop is dead afterwards."""
        if self._dead:
            return
        outside = self._enter()
        self._dead = True
        self._append = self._drop
        try:
            self._ready.clear()
            tasks = self.live_tasks()
            for task in reversed(tasks):
                self._end(task)
            if self._asyncgens is not None:
                self._asyncgens.close_all()
            self._append = _forget
            for task in tasks:
                _untie(task)
        finally:
            # What is left must be freed by reference counts alone: nothing of it may refer to whom it belonged.
            self._append = _refuse_handle
            self._asyncgens = None
            self._cancellations = None
            self._as_completed = None
            self._on_error = self._on_stalled = None
            self._live.clear()
            self._new_timers.clear()
            self.cancelled_timers.clear()
            self._leave(*outside)

    def _end(self, task: WorkflowTask[Any]) -> None:
        # Typed as never None, which from 3.12 on it is for an eager task that ended at once.
        coroutine = cast("Coroutine[Any, Any, Any] | None", task.get_coro())
        if coroutine is None:
            return
        self._refused = 0
        _enter_task(self, task)
        try:
            # A copy: its own context is still entered when a step was broken off inside it.
            task.context.copy().run(close_coroutine, coroutine)
        finally:
            _leave_task(self, task)

    def _drop(self, handle: Ready) -> None:
        self._refuse()

    def _refuse(self) -> None:
        """Code that swallows refusals for ever gets a future that never ends instead: it suspends, and can be left."""
        self._refused += 1
        if self._refused <= ATTEMPTS or not self._thread:
            refuse()


def current_loop() -> asyncio.AbstractEventLoop | None:
    """The running event loop of this thread, of whatever kind."""
    return _get_running_loop()


def _only_looking(what: str) -> QueryError:
    return QueryError(f"a query handler only looks; it may not {what}")


def _untie(task: WorkflowTask[Any]) -> None:
    """Ends the task itself, whose code has ended: it and what it waited for hold one another by their callbacks."""
    task._log_destroy_pending = False
    waiter: asyncio.Future[Any] | None = getattr(task, "_fut_waiter", None)
    for future in (task, waiter):
        if isinstance(future, asyncio.Future):
            asyncio.Future[Any].cancel(future)


def _forget(handle: Ready) -> None:
    """The callbacks of an evicted task: nobody runs them."""


def _refuse_handle(handle: Ready) -> NoReturn:
    refuse()
