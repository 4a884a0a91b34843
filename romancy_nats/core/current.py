"""Which workflow's code is running just now, in this thread. Below all that needs to ask; knows nothing of contexts."""

from __future__ import annotations

from collections.abc import Coroutine
from contextvars import ContextVar
from typing import Any, Protocol

from romancy_nats.core.loop import DeterministicLoop


class RunningWorkflow(Protocol):
    """What may be asked of a workflow by code that does not know the context."""

    @property
    def instance_id(self) -> str: ...

    @property
    def workflow_name(self) -> str: ...

    @property
    def worker_id(self) -> str: ...

    def run(self, activity: Any, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]: ...


_current: ContextVar[tuple[DeterministicLoop, RunningWorkflow] | None] = ContextVar(
    "romancy_workflow", default=None
)


def running_workflow() -> RunningWorkflow | None:
    """The context of the workflow when called inside its code, else None."""
    current = _current.get()
    if current is None:
        return None
    loop, workflow = current
    # A thread or a callback of another loop may have copied the context; only a step of the loop is workflow code.
    return workflow if loop.steps_here() else None


def enter_workflow(loop: DeterministicLoop, workflow: RunningWorkflow) -> None:
    """Make this the workflow of the running asyncio context, for the code that `loop` runs."""
    _current.set((loop, workflow))
