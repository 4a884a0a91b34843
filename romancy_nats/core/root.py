"""The root task of a workflow: entered once, interrupted at most once, and whatever it does, it comes to one ending."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import ref

from romancy_nats.core.current import enter_workflow
from romancy_nats.core.error_text import shown
from romancy_nats.core.events import (
    CancelRequested,
    CompensationBegun,
    Ending,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowFailed,
    WorkflowRecurred,
    WorkflowStarted,
)
from romancy_nats.core.inheritance import inheritance
from romancy_nats.core.limits import fitting
from romancy_nats.core.record import LONGEST_ERROR
from romancy_nats.core.saga import Undo
from romancy_nats.core.tasks import RecurredElsewhere, cancel_others
from romancy_nats.errors import PayloadTooLargeError, WorkflowTimeoutError

if TYPE_CHECKING:
    from romancy_nats.core.context import WorkflowContext
    from romancy_nats.core.execution import Execution

MICROSECONDS = 1_000_000
_SHARE_OF_UPDATES = 8
"""The updates that wait at a recur may take an eighth of what it carries over; what is beyond that is rejected."""


class Recurring(BaseException):
    """Unwinds workflow code that called `ctx.recur`; no `except Exception` of a user holds it up."""


class Root:
    """How the workflow code of one generation begins and ends."""

    def __init__(self, execution: Execution) -> None:
        # Weakly: what ends is freed at once, without the collector.
        self._of = ref(execution)
        self.task: asyncio.Task[None] | None = None
        self._cancel: CancelRequested | None = None
        self._timed_out: float = 0.0
        self._interruptible = False
        self.unwinds = False
        """Whether the body has ended: its other tasks are cancelled, then what was done is undone."""
        self._next: bytes | None = None
        self.failure = b""
        """What the workflow code raised, as it is recorded."""

    @property
    def _execution(self) -> Execution:
        execution = self._of()
        assert execution is not None
        return execution

    # --- begun, and interrupted

    def begin(self, started: WorkflowStarted, view: WorkflowContext) -> None:
        """Enter the workflow code."""
        execution = self._execution
        context = contextvars.Context()
        context.run(enter_workflow, execution.loop, view)
        self.task = execution.loop.create_task(
            self._main(started, view), name=repr(execution.key), context=context
        )
        if started.deadline:
            execution.loop.call_at(started.deadline / MICROSECONDS, self._time_out, started)

    def request_cancel(self, event: CancelRequested) -> None:
        """Somebody asked for the cancel; what ends already is not interrupted, but does not recur."""
        if self._cancel is not None or self.task is None:
            return
        if self._interruptible:
            self._cancel = event
            self.task.cancel(event.reason)
        elif self._next is not None:
            self._cancel = event

    def recur(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> NoReturn:
        """End this generation, from any task of it, and go on in the next one with this input."""
        input = self._execution.workflow.parameters.encode(args, kwargs)
        input = fitting(input, f"the next input of {self._execution.key!r}", self._execution.max_value)
        if self._interruptible:
            self._next = input
        if asyncio.current_task() is self.task:
            raise Recurring
        if self._interruptible and self.task is not None:
            self.task.cancel("recur")
        raise RecurredElsewhere

    def _time_out(self, started: WorkflowStarted) -> None:
        if self._cancel is None and self._interruptible and self.task is not None:
            self._timed_out = started.deadline / MICROSECONDS
            self.task.cancel("timeout")

    # --- to its end

    async def _main(self, started: WorkflowStarted, view: WorkflowContext) -> None:
        execution = self._execution
        self._interruptible = True
        try:
            ending = await self._body(started, view)
        except GeneratorExit as error:
            if not execution.loop.in_step:
                raise
            # What it awaited raised this: Python then closes the body, and raises it only here.
            ending = WorkflowFailed(execution.encode_failure(error))
        # From here on neither cancel nor timeout interrupts: what was done is undone to the end.
        self._interruptible = False
        self.unwinds = True
        await cancel_others(execution.loop.live_tasks(), "the workflow has ended")
        if isinstance(ending, WorkflowRecurred):
            ending = self._recurred(ending)
        if not isinstance(ending, WorkflowCompleted | WorkflowRecurred):
            await self._compensate(ending)
        execution.end(ending)

    async def _body(self, started: WorkflowStarted, view: WorkflowContext) -> Ending:
        execution = self._execution
        workflow = execution.workflow
        try:
            await self._until(started.begin_at)
            args, kwargs = workflow.parameters.decode(started.input)
            returned = await workflow.fn(view, *args, **kwargs)
            encoded = workflow.result.encode(returned)
            result = fitting(encoded, f"the result of {execution.key!r}", execution.max_value)
            failure = None
        except BaseException as error:
            if not execution.loop.in_step:
                raise  # the code is evicted, or freed
            result, failure = b"", error
        if self._timed_out:
            failure = WorkflowTimeoutError("the workflow took longer than its timeout")
        elif self._cancel is not None:
            return WorkflowCancelled(self._cancel.reason)
        elif self._next is not None:
            return WorkflowRecurred(self._next)
        if failure is None:
            return WorkflowCompleted(result)
        self.failure = execution.encode_failure(failure)
        return WorkflowFailed(self.failure)

    def _recurred(self, ending: WorkflowRecurred) -> Ending:
        """The ending with what the next generation inherits; a cancel that came meanwhile is stronger."""
        if self._cancel is not None:
            return WorkflowCancelled(self._cancel.reason)
        updates = self._execution.handlers.waiting(self._execution.max_value // _SHARE_OF_UPDATES)
        carried = inheritance(self._execution, updates)
        try:
            what = "what recur carries over (receive messages before it)"
            fitting(ending.input + carried, what, self._execution.max_value)
        except PayloadTooLargeError as error:
            return WorkflowFailed(self._execution.encode_failure(error))
        self._execution.handlers.carried_over(updates)
        return ending._replace(carried=carried)

    async def _until(self, begin_at: int) -> None:
        """A delayed start waits like any sleep: recorded, woken by the server, cancelled before the body is entered."""
        execution = self._execution
        execution.delayed = begin_at > 0
        try:
            if execution.delayed:
                await asyncio.sleep(max(0.0, begin_at / MICROSECONDS - execution.loop.time()))
        finally:
            execution.delayed = False

    async def _compensate(self, ending: Ending) -> None:
        execution = self._execution
        undos = execution.saga.newest_first()
        execution.compensating = True
        if undos:
            execution.emit(CompensationBegun(type(ending).__name__))
        for undo in undos:
            await self._undo(undo)

    async def _undo(self, undo: Undo) -> None:
        try:
            await self._execution.compensate(undo)
        except Exception as error:  # noqa: BLE001 - a compensation that fails does not stop the others
            logger = self._execution.view().logger
            logger.warning("compensation %s failed: %s", undo.id, shown(error, LONGEST_ERROR))
