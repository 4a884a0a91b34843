"""How the process of a worker ends: by a signal or by itself, drained if it can be, and always in bounded time.

What may hold it up (a thread in a blocking call, an activity that swallows its cancellation, a lifespan that does not
close, a loop that is blocked) cannot be stopped from inside the process. So a thread watches over the end.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from types import FrameType
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")
DRAINING = 20.0
"""Seconds beyond the grace period for a drain: each of its steps waits some seconds for the server at most."""
BLOCKED = 5.0
"""Seconds beyond the grace period for the event loop to hear of the signal at all."""
CLOSING = 5.0
"""Seconds for the lifespan to close, and for activities that were cancelled to end, after the drain."""
OVER = 1.0
"""Seconds for the event loop to close and for other threads to end, after the command is over."""
_LAST_WORDS = 2.0
_LOOK = 0.02
_Line = tuple[str, str, int | None]
"""The function, the file and the line."""
_log = logging.getLogger("romancy.cli")


class Ending:
    """The end of this process. `ask` is a signal; the worker says `drained`; `over` when its commands are over.

    The first SIGTERM or SIGINT ends the work of the command, whose blocks then drain and close. A second one ends the
    process at once. Exit codes: 0 after a drain, whatever was left running; 1 when the event loop is
    blocked, or the drain or the lifespan did not end in time; 128 and the number of the signal for the second one.
    """

    def __init__(self) -> None:
        self.grace = 0.0
        self.code = 0
        self._phase = "run"
        self._until = 0.0
        self._asked = False
        self._watch: threading.Thread | None = None
        self._work: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    async def run(self, command: Callable[[], Awaitable[T]]) -> T | None:
        """Run a command in the current task; None if a signal ended it before it came to `until_asked`."""
        self._loop, self._work = asyncio.get_running_loop(), asyncio.current_task()
        try:
            return await command()
        except asyncio.CancelledError:
            if not self._asked:
                raise
            return None
        finally:
            self._enter("over", OVER)

    async def until_asked(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Do the work of a command; None if a signal ended it. The blocks around it end as if it had returned."""
        task = asyncio.get_running_loop().create_task(work)
        self._work = task
        try:
            return await task
        except asyncio.CancelledError:
            if not self._asked:
                raise
            return None

    def drained(self) -> None:
        """The worker has let go of its instances: from here on little time is left."""
        self._enter("activities", CLOSING)

    def closing(self) -> None:
        """All of the worker has ended; the lifespan closes."""
        self._enter("lifespan", CLOSING)

    def leave_if_asked(self) -> None:
        """After the command: end here and now if a signal asked for it and no other thread has to be waited for.

        What swallowed its cancellation swallows the end of the interpreter, too, and would keep the process.
        """
        if self._asked and not _others():
            _leave(self.code)

    def _is_closed(self) -> bool:
        return self._loop is None or self._loop.is_closed()

    # --- signals

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            self._say("ended at once by a second signal; another worker goes on once the lease has run out")
            _leave(128 + number)
        self._asked = True
        if self._loop is None or self._work is None:
            _leave(0)  # nothing has begun
        if self._phase == "run":
            self._enter("signal", self.grace + BLOCKED)
        self._loop.call_soon_threadsafe(self._heard)

    def _heard(self) -> None:
        if self._phase == "signal":
            self._enter("drain", self.grace + DRAINING)
        if self._work is not None:
            self._work.cancel()

    # --- the watch

    def _enter(self, phase: str, seconds: float) -> None:
        self._phase, self._until = phase, time.monotonic() + seconds
        if self._watch is None:
            self._watch = threading.Thread(target=self._watch_over, name="romancy-ending", daemon=True)
            self._watch.start()

    def _watch_over(self) -> None:
        while time.monotonic() < self._until:
            if self._phase == "over" and not self._asked and not _others() and self._is_closed():
                return  # the interpreter ends by itself
            time.sleep(_LOOK)
        # Even if it cannot be told what holds the process up, it ends.
        _bounded(self._give_up)
        _leave(self.code)

    def _give_up(self) -> None:
        match self._phase:
            case "over" if others := _others():
                self._say(f"ends, although these threads still run: {', '.join(others)}")
            case "activities" | "over":
                self._say(f"ends, although what it runs does not end by its cancellation{self._tasks()}")
            case "lifespan":
                self.code = self.code or 1
                self._say(f"ends, although the lifespan did not close within {CLOSING:g} s{self._tasks()}")
            case phase:
                self.code = self.code or 1
                why = (
                    "the event loop is blocked by"
                    if phase == "signal"
                    else "it takes too long; the process is in"
                )
                self._say(
                    f"ends without having drained: {why} {_at(threading.main_thread())}; "
                    "another worker goes on once the lease has run out"
                )

    def _tasks(self) -> str:
        """Where each task is that still runs, after a colon; nothing if that cannot be told."""
        try:
            tasks = [] if self._loop is None else list(asyncio.all_tasks(self._loop))
        except RuntimeError:  # the set changed meanwhile
            tasks = []
        places = {place for task in tasks if (place := _waits_at(task.get_coro()))}
        if not places and (blocking := _at(threading.main_thread())) and "<" not in blocking:
            places = {blocking}
        return f": {', '.join(sorted(places))}" if places else ""

    def _say(self, text: str) -> None:
        # The main thread may hold the lock of a logging handler for ever.
        _bounded(lambda: _log.warning("%s", text))


def _others() -> list[str]:
    """The threads that keep the interpreter, and where they are."""
    known = (threading.main_thread(), threading.current_thread())
    return [
        f"{thread.name} in {_at(thread)}"
        for thread in threading.enumerate()
        # Beside asyncio's own that only joins others.
        if thread not in known and not thread.daemon and "_do_shutdown" not in thread.name
    ]


def _at(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)  # pyright: ignore[reportPrivateUsage]
    places = [(one.name, one.filename, one.lineno) for one in traceback.extract_stack(frame)] if frame else []
    return _shown([place for place in places if _is_users(place)] or places) or "an unknown place"


def _waits_at(work: Any) -> str:
    """The innermost line of the user's at which a coroutine is suspended; empty if there is none."""
    places: list[_Line] = []
    while work is not None:
        frame: FrameType | None = getattr(work, "cr_frame", None)
        if frame is not None:
            places.append((frame.f_code.co_name, frame.f_code.co_filename, frame.f_lineno))
        work = getattr(work, "cr_await", None)
    return _shown([place for place in places if _is_users(place)])


def _is_users(place: _Line) -> bool:
    return "/lib/python" not in place[1] and "/romancy_nats/" not in place[1]


def _shown(places: list[_Line]) -> str:
    return "{} ({}:{})".format(*places[-1]) if places else ""


def _bounded(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(_LAST_WORDS)


def _leave(code: int) -> NoReturn:
    """End the process now, after what was to be done at its exit, as far as that does not hold it up."""

    def last_words() -> None:
        atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()

    _bounded(last_words)
    os._exit(code)
