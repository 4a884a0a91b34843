"""Ways to run a coroutine: from a plain function when it never suspends, and to its end in spite of cancellation.

No subjects, no policy.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any


def advance(work: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, None] | None:
    """Run `work` up to its end: None. If it waits for something, the rest of it, to be run in a task."""
    try:
        waiting_for = work.send(None)
    except StopIteration:
        return None
    return _finish(work, waiting_for)


async def _finish(work: Coroutine[Any, Any, Any], waiting_for: object) -> None:
    await _resume(work, waiting_for)


@types.coroutine
def _resume(work: Coroutine[Any, Any, Any], waiting_for: object) -> Generator[object, Any, None]:
    # The future that `work` waits for is marked as awaited already; it must reach the task as it is.
    while True:
        try:
            thrown: BaseException | None = None
            yield waiting_for
        except BaseException as error:  # noqa: BLE001 - it belongs to `work`, cancellation included
            thrown = error
        try:
            waiting_for = work.send(None) if thrown is None else work.throw(thrown)
        except StopIteration:
            return


async def uninterrupted(work: Coroutine[Any, Any, None]) -> None:
    """Run a bounded clean-up to its end; a cancellation meanwhile is raised after it."""
    task = asyncio.get_running_loop().create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    task.result()
