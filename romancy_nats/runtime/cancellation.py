"""Who cancelled: code in a task may raise CancelledError although nobody outside cancelled the task."""

from __future__ import annotations

import asyncio

from romancy_nats.core.error_text import is_one_of


def is_own_cancel(error: BaseException) -> bool:
    """Whether the error is the cancellation of the running task from outside."""
    return is_one_of(error, (asyncio.CancelledError,)) and is_cancelled()


def is_cancelled() -> bool:
    """Whether somebody outside cancelled the running task."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
