"""An asyncio event loop without a clock or a selector: when nothing is ready, time jumps to the next timer.

Only the scheduling of handles lives here. It knows nothing of NATS, of faults or of workflows.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import threading
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

from romancy_nats.errors import RomancyError

T = TypeVar("T")

MOST_ROUNDS = 200_000
"""Rounds of ready handles at one instant, after which the program counts as spinning."""
_LONGEST_REAL_WAIT = 60.0
_COMPACT_FROM = 100

PROCESS: ContextVar[object] = ContextVar("romancy_process")
"""Which simulated process a handle belongs to; unset for the server's own."""


class DeadlockError(RomancyError):
    """Nothing is ready, no timer is pending, and what the loop runs is not done: it would wait for ever."""


class SpinningError(RomancyError):
    """Handles made each other ready for so long without time passing that they never would have stopped."""


class NumberedTask(asyncio.Task[T]):
    """asyncio and anyio keep tasks in sets; ordered by address, no run would be like the other."""

    def __init__(self, coro: Any, number: int, **options: Any) -> None:
        self.number = number  # first: the constructor of Task hashes it
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self.number


class _Handle(asyncio.Handle):
    """A handle that does not ask whether its loop is being debugged: half of a run is spent with handles."""

    _source_traceback = None

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: Any,
    ) -> None:
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None


class _TimerHandle(_Handle, asyncio.TimerHandle):
    """The same for timers, which are scheduled from the first."""

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: Any,
    ) -> None:
        super().__init__(callback, args, loop, context)
        self._when = when
        self._scheduled = True


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """Virtual time. With a seed the next ready handle is picked at random, and the same seed picks the same.

    `keep_order=True` picks only between simulated processes and keeps the FIFO that asyncio promises inside each.
    """

    # What BaseEventLoop keeps its handles in; their types are not in the stubs.
    _ready: Any
    _scheduled: Any
    _timer_cancelled_count: int
    _stopping: bool

    def __init__(self, seed: int | None = None, *, start: float = 0.0, keep_order: bool = False) -> None:
        super().__init__()
        self._virtual = start
        self._random = None if seed is None else random.Random(seed)
        self._keep_order = keep_order
        self._rounds = 0
        self._tasks_made = 0
        self._timers_made = 0
        self._threads = 0
        self._called_from_thread = threading.Event()
        self._frozen: dict[object, list[Any]] = {}

    def time(self) -> float:
        return self._virtual

    # What asyncio does here, without its checks of threads and of debug mode: half of a run is spent in these three.

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        when = self._virtual + delay
        return self._schedule(when, _TimerHandle(when, callback, args, self, context))

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self._schedule(when, _TimerHandle(when, callback, args, self, context))

    def _schedule(self, when: float, handle: _TimerHandle) -> _TimerHandle:
        self._timers_made += 1
        heapq.heappush(self._scheduled, (when, self._timers_made, handle))
        return handle

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        self._tasks_made += 1
        options["name"] = options.get("name") or f"task-{self._tasks_made}"
        return NumberedTask(coro, self._tasks_made, loop=self, **options)

    # --- threads: time stands still, and the loop really waits, while one is at work

    @contextmanager
    def thread_at_work(self) -> Generator[None]:
        """Announce work on a thread that will end in `call_soon_threadsafe`."""
        self._threads += 1
        try:
            yield
        finally:
            self._threads -= 1

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        future: asyncio.Future[Any] = super().run_in_executor(executor, func, *args)
        self._threads += 1
        future.add_done_callback(self._thread_ended)
        return future

    def _thread_ended(self, _: asyncio.Future[Any]) -> None:
        self._threads -= 1

    def _write_to_self(self) -> None:
        self._called_from_thread.set()

    def _wait_for_a_thread(self) -> None:
        if not self._called_from_thread.wait(_LONGEST_REAL_WAIT):
            raise DeadlockError(
                f"a thread did not end within {_LONGEST_REAL_WAIT:g} s; virtual time waits for it"
            )

    # --- simulated processes that stand still (SIGSTOP)

    def freeze(self, process: object) -> None:
        """Set aside whatever becomes ready for this process, until `thaw`."""
        self._frozen.setdefault(process, [])

    def thaw(self, process: object) -> None:
        """Let it go on, with everything that became ready meanwhile."""
        self._ready.extend(self._frozen.pop(process, ()))

    def unfreeze(self) -> None:
        """Let everything run that can: for the end of a run."""
        for process in list(self._frozen):
            self.thaw(process)
        self._rounds = 0

    # --- the loop

    def _process_events(self, event_list: object) -> None:
        """There are no file descriptors."""

    def _run_once(self) -> None:
        ready = self._ready
        if self._called_from_thread.is_set():
            self._called_from_thread.clear()
        if not ready:
            self._advance()
        self._take_due()
        self._rounds += 1
        if self._rounds > MOST_ROUNDS:
            raise SpinningError(
                f"{MOST_ROUNDS:,} rounds at {self._virtual:g} s without time passing" + self._tasks()
            )
        dice = self._random
        for _ in range(len(ready)):
            if dice is not None and len(ready) > 1:
                self._pick(dice)
            handle = ready.popleft()
            if handle._cancelled or (self._frozen and self._set_aside(handle)):
                continue
            # What Handle._run does, without the call of it.
            try:
                handle._context.run(handle._callback, *handle._args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 - as in Handle._run
                text = f"Exception in callback {handle._callback!r}"
                self.call_exception_handler({"message": text, "exception": error, "handle": handle})

    def _set_aside(self, handle: Any) -> bool:
        """Whether the handle is of a process that stands still; it runs when that goes on."""
        aside = self._frozen.get(handle._context.get(PROCESS))
        if aside is None:
            return False
        aside.append(handle)
        return True

    def _pick(self, dice: random.Random) -> None:
        """Bring the handle that is to run next to the front."""
        ready = self._ready
        at = int(dice.random() * len(ready))
        if self._keep_order:
            process = ready[at]._context.get(PROCESS)
            for earlier in range(at):
                if ready[earlier]._context.get(PROCESS) is process:
                    at = earlier
                    break
        if at:
            handle = ready[at]
            del ready[at]
            ready.appendleft(handle)

    def _advance(self) -> None:
        if self._threads:
            self._wait_for_a_thread()
            return
        scheduled = self._scheduled
        self._drop_cancelled()
        if scheduled:
            if scheduled[0][0] > self._virtual:
                self._virtual = scheduled[0][0]
                self._rounds = 0
        elif not self._stopping:
            raise DeadlockError(
                f"nothing is ready and no timer is pending at {self._virtual:g} s: this would wait for ever"
                + self._tasks()
            )

    def _take_due(self) -> None:
        scheduled = self._scheduled
        while scheduled and scheduled[0][0] <= self._virtual:
            handle = heapq.heappop(scheduled)[2]
            handle._scheduled = False
            if handle._cancelled:
                self._timer_cancelled_count -= 1
            else:
                self._ready.append(handle)

    def _drop_cancelled(self) -> None:
        scheduled = self._scheduled
        if self._timer_cancelled_count > _COMPACT_FROM and self._timer_cancelled_count * 2 > len(scheduled):
            for _, _, handle in scheduled:
                if handle._cancelled:
                    handle._scheduled = False
            # In place: callers hold the list.
            scheduled[:] = [entry for entry in scheduled if not entry[2]._cancelled]
            heapq.heapify(scheduled)
            self._timer_cancelled_count = 0
        while scheduled and scheduled[0][2]._cancelled:
            heapq.heappop(scheduled)[2]._scheduled = False
            self._timer_cancelled_count -= 1

    def _tasks(self) -> str:
        return "".join(f"\n  waiting: {line}" for line in _describe(asyncio.all_tasks(self)))


def _describe(tasks: Iterable[asyncio.Task[Any]]) -> list[str]:
    lines: list[str] = []
    for task in tasks:
        frames = task.get_stack(limit=1)
        where = f"{frames[-1].f_code.co_filename}:{frames[-1].f_lineno}" if frames else "not started"
        lines.append(f"{task.get_name()} {getattr(task.get_coro(), '__qualname__', '?')} at {where}")
    return sorted(lines)


def run(
    main: Callable[[], Coroutine[Any, Any, T]],
    seed: int | None = None,
    *,
    start: float = 0.0,
    keep_order: bool = False,
) -> T:
    """Run a coroutine function to its end in virtual time; what it leaves behind is cancelled."""
    loop = VirtualTimeLoop(seed, start=start, keep_order=keep_order)
    try:
        return loop.run_until_complete(main())
    finally:
        clear(loop)
        loop.close()


def clear(loop: VirtualTimeLoop) -> None:
    """Cancel what still runs, and forget what does not end even so (tasks of a crashed process may not)."""
    loop.unfreeze()
    left = asyncio.all_tasks(loop)
    for task in sorted(left, key=hash):
        task.cancel()
    try:
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=60.0))
        loop.run_until_complete(loop.shutdown_asyncgens())
    except (DeadlockError, SpinningError):
        pass
    for task in left:
        if not task.done():
            # Nobody will ever run it again, and that is meant.
            setattr(task, "_log_destroy_pending", False)  # noqa: B010
