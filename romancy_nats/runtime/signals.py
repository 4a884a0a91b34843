"""SIGTERM and SIGINT of the process for as long as a block: whose they are, how they get back. No worker in here."""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

NUMBERS = (signal.SIGTERM, signal.SIGINT)
_Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers
_UNTOUCHED = (signal.SIG_DFL, signal.default_int_handler)
_log = logging.getLogger("romancy.worker")


class AskedToEnd:
    """While inside, the first SIGTERM or SIGINT calls `ask` on the loop.

    A second one puts back the handlers that were there and is raised again for them: by default it ends the process
    at once. So it does while the loop is blocked, because the handlers are Python's and not the loop's.
    `signals`: True takes both signals, False none, None those that nobody else uses (see `free`).
    """

    def __init__(self, ask: Callable[[], None], signals: bool | None) -> None:
        self._ask = ask
        self._signals = signals
        self._before: dict[signal.Signals, _Handler | None] = {}
        self._asked = False
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> None:
        for number in free() if self._signals is None else NUMBERS if self._signals else ():
            self._before[number] = signal.signal(number, self._on_signal)
        left = [number.name for number in NUMBERS if number not in self._before]
        if left and self._signals is None:
            _log.debug("%s: left to the program, which has its own use for it", ", ".join(left))

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            self._restore()
            signal.raise_signal(number)
            return
        self._asked = True
        self._loop.call_soon_threadsafe(self._ask)

    def _restore(self) -> None:
        while self._before:
            number, before = self._before.popitem()
            # Whoever took the signal meanwhile keeps it.
            if signal.getsignal(number) == self._on_signal:
                # A handler that was not installed from Python (None) cannot be put back.
                signal.signal(number, signal.SIG_DFL if before is None else before)


def free() -> list[signal.Signals]:
    """The signals that a block may take unasked.

    Each that has no handler of the program's own, if this is the program's main task in its main thread: what runs
    beside others (the lifespan of a web application) is ended by those who started it.
    """
    if threading.current_thread() is not threading.main_thread() or not _in_main_task():
        return []
    return [number for number in NUMBERS if _untouched(signal.getsignal(number))]


def _untouched(handler: object) -> bool:
    if isinstance(handler, functools.partial):
        # What asyncio.run puts in place of Python's own handler of SIGINT.
        return getattr(handler.func, "__func__", None) is asyncio.Runner._on_sigint  # type: ignore[attr-defined]  # pyright: ignore
    return handler in _UNTOUCHED


def _in_main_task() -> bool:
    """Whether this task is the one that the loop runs until it is complete, on asyncio's loop or uvloop's."""
    task = asyncio.current_task()
    callbacks: list[tuple[object, object]] = getattr(task, "_callbacks", None) or []
    return any(
        getattr(callback, "__module__", "") in ("asyncio.base_events", "uvloop.loop")
        for callback, _ in callbacks
    )
