# pyright: reportPrivateUsage=false
"""Gives an order to what asyncio and anyio walk through in order of memory address (L7).

Sets of our own futures need nothing from here: their hash has an order already.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Coroutine, Generator, Iterable, Mapping, Sequence
from contextvars import Context
from types import CodeType, FrameType
from typing import Any, cast

from romancy_nats.core.handles import WorkflowHandle, WorkflowTimer
from romancy_nats.errors import WorkflowRuleError

Ready = WorkflowHandle | WorkflowTimer


class Cancellations:
    """anyio cancels the tasks below a scope by walking sets of scopes; their handles are put in order of the tasks."""

    __slots__ = ("_blocks", "_context", "_flush", "collecting")

    def __init__(self) -> None:
        self._blocks: list[tuple[int, list[Ready]]] = []
        self._flush: WorkflowHandle | None = None
        self._context = Context()
        self.collecting = False

    def add(
        self, order: int, block: list[Ready], ready: deque[Ready], loop: asyncio.AbstractEventLoop
    ) -> None:
        """Cancellations that directly follow one another form a run; one handle, where the run began, unfolds it."""
        if not ready or ready[-1] is not self._flush:
            self._blocks = []
            self._flush = WorkflowHandle(_unfold, (self._blocks, ready), loop, self._context)
            ready.append(self._flush)
        self._blocks.append((order, block))


def _unfold(blocks: list[tuple[int, list[Ready]]], ready: deque[Ready]) -> None:
    for _, block in sorted(blocks, key=lambda numbered: numbered[0], reverse=True):
        ready.extendleft(reversed(block))


def _code(function: object) -> CodeType | None:
    return getattr(function, "__code__", None)


_ENSURING = {_code(asyncio.ensure_future), _code(getattr(asyncio.tasks, "_ensure_future", None))} - {None}
# as_completed makes tasks of `set(arguments)`; where it does so, and what the arguments are called there
_COMPLETING = {
    _code(asyncio.as_completed): "fs",
    _code(getattr(getattr(asyncio.tasks, "_AsCompletedIterator", None), "__init__", None)): "aws",
}


def is_ensuring(caller: FrameType) -> bool:
    """Whether this frame is `ensure_future`, the only way by which as_completed makes tasks."""
    return caller.f_code in _ENSURING


class AsCompleted:
    """Makes the tasks of `as_completed([...])` in order of the list."""

    __slots__ = ("_made", "_making")

    def __init__(self) -> None:
        self._made: list[tuple[object, asyncio.Task[Any]]] = []
        self._making = False

    def task_of(
        self, coroutine: Generator[Any, None, Any] | Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop
    ) -> asyncio.Task[Any] | None:
        """The task made for it, when `create_task` was called by as_completed; None when by anybody else."""
        arguments = None if self._making else _completing(sys._getframe(2))
        if arguments is None:
            return None
        if not isinstance(arguments, Sequence | Mapping):
            coroutine.close()
            raise WorkflowRuleError(
                f"as_completed forgets the order of what a {type(arguments).__name__} gives; pass it a list"
            )
        awaitable = _wrapped(coroutine)
        if not self._made:
            self._make(cast("Iterable[Any]", arguments), loop)
        for index, (other, task) in enumerate(self._made):
            if other is awaitable:
                del self._made[index]
                if awaitable is not coroutine:
                    coroutine.close()
                return task
        raise AssertionError("as_completed gave an awaitable that is not among its arguments")

    def _make(self, arguments: Iterable[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._making = True
        try:
            seen: set[int] = set()
            for awaitable in arguments:
                if not asyncio.isfuture(awaitable) and id(awaitable) not in seen:
                    seen.add(id(awaitable))
                    self._made.append((awaitable, asyncio.ensure_future(awaitable, loop=loop)))
        finally:
            self._making = False


def _completing(frame: FrameType) -> Any:
    above: FrameType | None = frame
    while above is not None and (above.f_code in _ENSURING or above.f_code.co_name == "<setcomp>"):
        above = above.f_back
    if above is None or above.f_code not in _COMPLETING:
        return None
    return above.f_locals[_COMPLETING[above.f_code]]


def _wrapped(coroutine: Any) -> object:
    """The object with `__await__` that ensure_future wrapped into this coroutine, or else the coroutine itself."""
    name = getattr(coroutine, "__name__", "")
    frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
    if name != "_wrap_awaitable" or frame is None:
        return coroutine
    found: object = frame.f_locals["awaitable"]
    return found
