"""The async generators that one instance's code has begun, and what becomes of those that it abandons.

Nothing here depends on when the garbage collector runs: that differs from replay to replay (L7).
"""

from __future__ import annotations

import gc
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from threading import get_ident
from typing import Any
from weakref import WeakValueDictionary

from romancy_nats.core.eviction import close_asyncgen

_AsyncGen = AsyncGenerator[Any, Any]
_collector = 0


def _note_collection(phase: str, info: Mapping[str, int]) -> None:
    global _collector
    _collector = get_ident() if phase == "start" else 0


gc.callbacks.append(_note_collection)


class AsyncGens:
    """Both asyncgen hooks of a loop, and the closing of all that is left."""

    __slots__ = ("_abandoned", "_begun", "_count", "_in_step", "_start")

    def __init__(
        self, in_step: Callable[[], bool], start: Callable[[Coroutine[object, object, object]], object]
    ) -> None:
        self._in_step = in_step
        self._start = start
        self._begun: WeakValueDictionary[int, _AsyncGen] | None = None
        self._count = 0
        self._abandoned: list[_AsyncGen] = []

    def first_iteration(self, generator: _AsyncGen) -> None:
        if self._begun is None:
            self._begun = WeakValueDictionary()
        self._count += 1
        self._begun[self._count] = generator

    def finalize(self, generator: _AsyncGen) -> None:
        """Dropped by the code itself (a reference count: the same in replay) it is closed at once, as asyncio does.

        Dropped by the collector, or outside a step, it is kept for the eviction.
        """
        self._abandoned.append(generator)
        if self._in_step() and _collector != get_ident():
            self._start(self._close(generator))

    async def _close(self, generator: _AsyncGen) -> None:
        try:
            await generator.aclose()
        finally:
            self._abandoned = [other for other in self._abandoned if other is not generator]

    def close_all(self) -> None:
        """Newest first; closing one may abandon others."""
        for generator in reversed(list(self._begun.values() if self._begun else ())):
            close_asyncgen(generator)
        while self._abandoned:
            close_asyncgen(self._abandoned.pop())
