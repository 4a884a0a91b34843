"""Threads in which plain functions run: daemonic, and bounded by places. What a call is for is not known here.

A thread cannot be stopped. A call that was given up keeps its place until it really ends, and no thread keeps the
process from ending: anyio's and asyncio's own threads are joined at exit.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import types
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

from romancy_nats.ports import Clock

_log = logging.getLogger("romancy.activity")
MOST_IDLE = 32
"""Threads that are kept for later calls; further ones end with their call."""


class ThreadCall:
    """One call of a plain function. `began` and `ended` are called on the loop, `ended` unless it was given up."""

    __slots__ = ("began", "ended", "given_up", "places", "reported", "since", "what", "work")

    def __init__(
        self,
        what: object,
        work: Callable[[], object],
        began: Callable[[], None],
        ended: Callable[[object, BaseException | None], None],
    ) -> None:
        self.what = what
        self.work = work
        self.began = began
        self.ended = ended
        self.places: Places | None = None
        self.since = 0.0
        self.given_up = False
        self.reported = False


class Places:
    """How many calls may run at once, which of them do, and which wait for a place."""

    def __init__(self, name: str, most: int) -> None:
        self.name = name
        self.most = most
        self.running: dict[ThreadCall, None] = {}
        self.waiting: deque[ThreadCall] = deque()


class _Thread:
    """One thread, which takes calls one after the other until it is given None."""

    def __init__(self, finished: Callable[[_Thread, ThreadCall, object, BaseException | None], None]) -> None:
        self.calls: SimpleQueue[ThreadCall | None] = SimpleQueue()
        self._finished = finished
        self._loop = asyncio.get_running_loop()
        # Whose context runs the callbacks is decided here, not by what a function leaves behind in its thread.
        self._context = contextvars.copy_context()
        threading.Thread(target=self._run, name="romancy-activity", daemon=True).start()

    def _run(self) -> None:
        while (call := self.calls.get()) is not None:
            value: object = None
            problem: BaseException | None = None
            try:
                value = call.work()
            except BaseException as error:  # noqa: BLE001 - the boundary: whatever a function raises ends its call only
                problem = error
            try:
                self._loop.call_soon_threadsafe(
                    self._finished, self, call, value, problem, context=self._context
                )
            except RuntimeError:
                # The loop is closed, and nobody waits for anything any more.
                return
            # What the call held is not kept until the next one.
            call = value = problem = None


class Threads:
    """The threads of one worker. All methods are called on its loop."""

    def __init__(self, clock: Clock, most: int) -> None:
        self._clock = clock
        self._most = most
        self._places: dict[str, Places] = {}
        self._idle: list[_Thread] = []
        self._closed = False

    def begin(self, call: ThreadCall, name: str, most: int | None) -> None:
        """Run a call as soon as there is a place: one of `most` for this name, or of those shared by all others."""
        bound = "" if most is None else name
        places = self._places.get(bound)
        if places is None:
            places = self._places[bound] = Places(bound, most or self._most)
        call.places = places
        places.waiting.append(call)
        self._fill(places)

    def give_up(self, call: ThreadCall) -> None:
        """Nobody waits for its end any more. One that runs keeps its place until it ends."""
        call.given_up = True
        # What waited for it is not kept in memory for as long as the thread runs.
        call.began = call.ended = _unheard
        places = call.places
        if places is None:
            return
        if call in places.running:
            self._report(places)
        elif call in places.waiting:
            places.waiting.remove(call)

    def close(self) -> None:
        """Let the threads end: those at work after their call."""
        self._closed = True
        for thread in self._idle:
            thread.calls.put(None)
        self._idle.clear()

    def _fill(self, places: Places) -> None:
        while places.waiting and len(places.running) < places.most:
            call = places.waiting.popleft()
            places.running[call] = None
            call.since = self._clock.now()
            try:
                thread = self._idle.pop() if self._idle else _Thread(self._finished)
            except (RuntimeError, MemoryError) as error:
                # The system has no more threads.
                del places.running[call]
                call.ended(None, error)
                continue
            call.began()
            thread.calls.put(call)
        if places.waiting:
            self._report(places)

    def _finished(
        self, thread: _Thread, call: ThreadCall, value: object, error: BaseException | None
    ) -> None:
        if self._closed or len(self._idle) >= MOST_IDLE:
            thread.calls.put(None)
        else:
            self._idle.append(thread)
        if call.places is not None:
            call.places.running.pop(call, None)
            self._fill(call.places)
        if not call.given_up:
            call.ended(value, error)
        elif type(value) is types.CoroutineType:
            # Nobody will await it, and nobody is to be warned of that.
            value.close()

    def _report(self, places: Places) -> None:
        """Say once of each call that was given up that others wait for its place."""
        if not places.waiting or len(places.running) < places.most:
            return
        for call in places.running:
            if call.given_up and not call.reported:
                call.reported = True
                _log.warning(
                    "%s was given up, but has been running in its thread for %.1f s and holds one of the %d places %s; "
                    "%d call(s) wait for one. A thread cannot be stopped: let the function look at "
                    "activity_context().cancelled, or give its own calls a time limit",
                    call.what,
                    self._clock.now() - call.since,
                    places.most,
                    f"of {places.name}" if places.name else "that all activities without max_threads share",
                    len(places.waiting),
                )


def _unheard(*_: object) -> None:
    """Who is told of a call that was given up: nobody."""
