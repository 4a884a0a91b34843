"""Reports a blocked event loop by the name of what blocks it. Watches from a thread; interrupts nothing."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import threading
import time
import traceback
from functools import partial
from types import TracebackType

from romancy_nats.core.loop import DeterministicLoop

_log = logging.getLogger("romancy.worker")
_LOOP = {"run", "run_until_complete", "run_forever", "_run_once", "_run"}
"""The functions of asyncio that turn a loop; what they call is what blocks it."""
_STEP = sys.modules[DeterministicLoop.__module__].__file__
_BLOCKED = "move blocking work into a plain (not async) activity"
_BLOCKED_WORKFLOW = "this is workflow code, which may not block: do it in an activity"


class Watchdog:
    """Warns when the loop did not turn for `limit` seconds, once for each time that it is blocked."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._stop = threading.Event()
        self._beat = 0.0
        self._thread: threading.Thread | None = None
        self._owner = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handle: asyncio.TimerHandle | None = None

    def __enter__(self) -> Watchdog:
        self._loop = asyncio.get_running_loop()
        self._owner = threading.get_ident()
        self._turn()
        watch = partial(contextvars.copy_context().run, self._watch)
        self._thread = threading.Thread(target=watch, name="romancy-watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._handle is not None:
            self._handle.cancel()

    def _turn(self) -> None:
        self._beat = time.monotonic()
        if self._loop is not None:
            self._handle = self._loop.call_later(self._limit / 4, self._turn)

    def _watch(self) -> None:
        warned_for = 0.0
        while not self._stop.wait(self._limit / 4):
            beat = self._beat
            blocked = time.monotonic() - beat
            if blocked > self._limit and warned_for != beat:
                warned_for = beat
                _log.warning("the event loop is blocked for %.1f s by %s", blocked, self._culprit())

    def _culprit(self) -> str:
        frame = sys._current_frames().get(self._owner)  # pyright: ignore[reportPrivateUsage]
        if frame is None:
            return "an unknown caller"
        stack = traceback.extract_stack(frame)
        # Below the loop is whoever started it, who is not to blame.
        turns = [at for at, one in enumerate(stack) if "/asyncio/" in one.filename and one.name in _LOOP]
        stack = traceback.StackSummary.from_list(stack[turns[-1] + 1 :] if turns else stack)
        if not stack or stack[-1].filename.endswith("/selectors.py"):
            return "nothing of its own: the process stood still (stopped, swapped out, or short of CPU)"
        stepping = any(f.name == "_run_ready" and f.filename == _STEP for f in stack)
        foreign = [f for f in stack if "/romancy_nats/" not in f.filename and "/asyncio/" not in f.filename]
        users = [f for f in foreign if "/lib/python" not in f.filename]
        at = (users or foreign or stack)[-1]
        line = f": {at.line}" if at.line else ""
        return f"{at.name} ({at.filename}:{at.lineno}{line}); {_BLOCKED_WORKFLOW if stepping else _BLOCKED}"
