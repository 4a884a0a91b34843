"""Which workflow's code is running just now, in this thread. Below all that needs to ask; knows nothing of contexts."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from romancy_nats.core.context import WorkflowContext
    from romancy_nats.core.loop import DeterministicLoop

_current: ContextVar[tuple[DeterministicLoop, WorkflowContext] | None] = ContextVar(
    "romancy_workflow", default=None
)


def current_workflow() -> WorkflowContext | None:
    """The context when called inside workflow code (its handlers included), else None.

    Activities, steps and threads are not workflow code, also where they were begun by it.
    """
    current = _current.get()
    if current is None:
        return None
    loop, context = current
    # A thread or a callback of another loop may have copied the context; only a step of the loop is workflow code.
    return context if loop.steps_here() else None


def enter_workflow(loop: DeterministicLoop, context: WorkflowContext) -> None:
    """Make this the workflow of the running asyncio context, for the code that `loop` runs."""
    _current.set((loop, context))
