"""The event loop of `romancy worker`: no code that an activity leaves behind ends it.

asyncio ends the loop when a task or a callback raises SystemExit or KeyboardInterrupt, whoever made it. Here only the
command itself may do so; signals have handlers of their own (`process.Ending`).
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import sys
from collections.abc import Awaitable
from typing import Any, TypeVar

from romancy_nats.core.failure import Failure

T = TypeVar("T")
_log = logging.getLogger("romancy.worker")


class GoesOn:
    """Mixed into a loop class: `run_until_complete` goes on after such an error, until its own future is done."""

    def run_until_complete(self, future: Awaitable[T]) -> T:
        """The result of the future; an error of another task or callback is logged."""
        loop: Any = self
        below: Any = super()
        main: asyncio.Future[T] = asyncio.ensure_future(future, loop=loop)
        while True:
            try:
                result: T = below.run_until_complete(main)
                return result
            except (SystemExit, KeyboardInterrupt) as error:
                if main.done():
                    raise
                text = "code that an activity left behind would have ended the worker; it goes on\n%s"
                _log.error(text, Failure.of(error).traceback)


def new_loop() -> asyncio.AbstractEventLoop:
    """A loop for the process of a worker, of uvloop where that is installed."""
    kind: Any = asyncio.SelectorEventLoop
    if sys.platform != "win32" and importlib.util.find_spec("uvloop") is not None:
        import uvloop

        kind = uvloop.Loop
    made: Any = type("WorkerLoop", (GoesOn, kind), {})
    return made()  # type: ignore[no-any-return]
