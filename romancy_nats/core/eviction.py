"""Ends suspended workflow code that is dropped from memory, without the garbage collector and without noise.

Only coroutines and async generators are known here; which of them to end, and under which loop, is the caller's.
"""

from __future__ import annotations

import asyncio
import atexit
import sys
from collections.abc import AsyncGenerator, Coroutine, Generator
from typing import Any, NoReturn

ATTEMPTS = 100


class Evicted(BaseException):
    """The instance left this worker's memory: its code runs on elsewhere, from history, and must do no more here."""


_unclosable: list[object] = []


def close_coroutine(coroutine: Coroutine[Any, Any, Any] | Generator[Any, Any, Any]) -> bool:
    """Runs the `finally` blocks of suspended code to its end; False if it refused to end.

    `throw`, not `close`: closing an `async for` does not reach into the generator that it waits for (3.11, 3.12).
    """
    for _ in range(ATTEMPTS):
        try:
            _take_back(coroutine.throw(Evicted()))
        except BaseException:  # noqa: BLE001 - whatever evicted code raises, SystemExit too, concerns nobody
            return True
    _bury(coroutine)
    return False


def _ended(generator: AsyncGenerator[Any, Any]) -> bool:
    return getattr(generator, "ag_frame", None) is None


def close_asyncgen(generator: AsyncGenerator[Any, Any]) -> bool:
    """Runs the `finally` blocks of an abandoned async generator to its end; False if it refused to end."""
    for _ in range(ATTEMPTS):
        if _ended(generator):
            return True
        closing = generator.aclose()
        try:
            _take_back(closing.send(None))
        except BaseException:  # noqa: BLE001 - as above
            continue
        close_coroutine(closing)
    if _ended(generator):
        return True
    _bury(generator)
    return False


def _take_back(awaited: object) -> None:
    """As a task does with a future that it was given; otherwise every later `await` of it would raise."""
    if isinstance(awaited, asyncio.Future):
        awaited._asyncio_future_blocking = False


def _bury(immortal: object) -> None:
    """Keeps what cannot be ended: to free it would run it again, at a moment of the collector's choosing."""
    if not _unclosable:
        atexit.register(_silence)
    _unclosable.append(immortal)


def _silence() -> None:
    """At exit the interpreter frees the buried, and would print that they ignored GeneratorExit."""
    previous = sys.unraisablehook

    def report(unraisable: sys.UnraisableHookArgs, /) -> None:
        if not any(unraisable.object is immortal for immortal in _unclosable):
            previous(unraisable)

    sys.unraisablehook = report


def refuse() -> NoReturn:
    """What every call of a dead loop does."""
    raise Evicted("this workflow instance was evicted from memory")


def refuse_call(*_: object) -> NoReturn:
    """What the calls of a dead loop's code end in, whatever they are given."""
    refuse()
