"""Futures and tasks of the deterministic loop: hashed by creation, never by address, so that sets have an order.

asyncio iterates over sets of tasks (TaskGroup, `wait`, `as_completed`); no scheduling rule may go in here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar

T = TypeVar("T")
_ANYIO_CANCELS = ("Cancelled via cancel scope", "Cancelled by cancel scope")


class RecurredElsewhere(asyncio.CancelledError):
    """Ends a task, other than the root, that called `ctx.recur`."""


class WorkflowFuture(asyncio.Future[T]):
    """A future with a stable hash; its loop sets `order` right after creation."""

    __slots__ = ("order",)
    order: int

    def __hash__(self) -> int:
        return self.order


class WorkflowTask(asyncio.Task[T]):
    """A task with a stable hash, which remembers its context (asyncio shows it from 3.12 on only)."""

    __slots__ = ("_in_order", "context", "order")
    if TYPE_CHECKING:
        _log_destroy_pending: bool

    def __init__(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        loop: asyncio.AbstractEventLoop,
        order: int,
        name: str,
        context: Context,
        in_order: Callable[[int, Callable[[], bool]], bool],
        **options: Any,
    ) -> None:
        self.order = order  # first: the constructor of Task hashes it
        self.context = context
        self._in_order = in_order
        super().__init__(coro, loop=loop, name=name, context=context, **options)

    def __hash__(self) -> int:
        return self.order

    def cancel(self, msg: Any | None = None) -> bool:
        """anyio walks a set of cancel scopes in order of address; the loop puts such cancellations in order again."""
        if isinstance(msg, str) and msg.startswith(_ANYIO_CANCELS):
            cancel = super().cancel
            return self._in_order(self.order, lambda: cancel(msg))
        return super().cancel(msg)


async def cancel_others(tasks: Iterable[asyncio.Task[Any]], why: str) -> None:
    """Cancel all but the task that asks for it, and wait until they have ended, however they do."""
    me = asyncio.current_task()
    others = [task for task in tasks if task is not me]
    for task in others:
        task.cancel(why)
    if others:
        await asyncio.gather(*others, return_exceptions=True)
