"""The root task of a workflow: entered once, interrupted at most once, and whatever it does, it comes to one ending."""

from __future__ import annotations

import asyncio
from typing import Any

from romancy_nats.core.context import WorkflowContext
from romancy_nats.core.definition import Workflow
from romancy_nats.core.error_text import shown
from romancy_nats.core.events import (
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
from romancy_nats.core.state import MICROSECONDS, WorkflowState
from romancy_nats.core.tasks import cancel_others
from romancy_nats.errors import PayloadTooLargeError, WorkflowTimeoutError

_SHARE_OF_UPDATES = 8
"""The updates that wait at a recur may take an eighth of what it carries over; what is beyond that is rejected."""


class Root:
    """How the workflow code of one generation begins and ends."""

    def __init__(self, state: WorkflowState, workflow: Workflow[..., Any], context: WorkflowContext) -> None:
        self._state = state
        self._workflow = workflow
        self._context = context
        self.delayed = False
        """Whether its start lies ahead."""
        self.compensating = False
        """Whether the body has ended, and what was done is undone."""
        self.failure = b""
        """What the workflow code raised, as it is recorded."""

    def begin(self, started: WorkflowStarted) -> None:
        """Enter the workflow code."""
        state = self._state
        interruption = state.interruption
        task = state.loop.create_task(self._main(started), name=repr(state.key), context=state.code_context())
        interruption.enter(task)
        if started.deadline:
            state.loop.call_at(started.deadline / MICROSECONDS, interruption.time_out)

    async def _main(self, started: WorkflowStarted) -> None:
        state = self._state
        state.interruption.body_begins()
        try:
            ending = await self._body(started)
        except GeneratorExit as error:
            if not state.loop.in_step:
                raise
            # What it awaited raised this: Python then closes the body, and raises it only here.
            ending = WorkflowFailed(state.encode_failure(error))
        state.interruption.body_ended()
        await cancel_others(state.loop.live_tasks(), "the workflow has ended")
        if isinstance(ending, WorkflowRecurred):
            ending = self._recurred(ending)
        if not isinstance(ending, WorkflowCompleted | WorkflowRecurred):
            await self._compensate(ending)
        state.end(ending)

    async def _body(self, started: WorkflowStarted) -> Ending:
        state, workflow = self._state, self._workflow
        try:
            await self._until(started.begin_at)
            args, kwargs = workflow.parameters.decode(started.input)
            returned = await workflow.fn(self._context, *args, **kwargs)
            encoded = workflow.result.encode(returned)
            result = fitting(encoded, f"the result of {state.key!r}", state.max_value)
            failure = None
        except BaseException as error:
            if not state.loop.in_step:
                raise  # the code is evicted, or freed
            result, failure = b"", error
        interruption = state.interruption
        if interruption.timed_out:
            failure = WorkflowTimeoutError("the workflow took longer than its timeout")
        elif interruption.cancel is not None:
            return WorkflowCancelled(interruption.cancel.reason)
        elif interruption.next_input is not None:
            return WorkflowRecurred(interruption.next_input)
        if failure is None:
            return WorkflowCompleted(result)
        self.failure = state.encode_failure(failure)
        return WorkflowFailed(self.failure)

    def _recurred(self, ending: WorkflowRecurred) -> Ending:
        """The ending with what the next generation inherits; a cancel that came meanwhile is stronger."""
        state = self._state
        if state.interruption.cancel is not None:
            return WorkflowCancelled(state.interruption.cancel.reason)
        updates = state.handlers.waiting(state.max_value // _SHARE_OF_UPDATES)
        carried = inheritance(state, updates)
        try:
            what = "what recur carries over (receive messages before it)"
            fitting(ending.input + carried, what, state.max_value)
        except PayloadTooLargeError as error:
            return WorkflowFailed(state.encode_failure(error))
        state.handlers.carried_over(updates)
        return ending._replace(carried=carried)

    async def _until(self, begin_at: int) -> None:
        """A delayed start waits like any sleep: recorded, woken by the server, cancelled before the body is entered."""
        self.delayed = begin_at > 0
        try:
            if self.delayed:
                await asyncio.sleep(max(0.0, begin_at / MICROSECONDS - self._state.loop.time()))
        finally:
            self.delayed = False

    async def _compensate(self, ending: Ending) -> None:
        undos = self._state.saga.newest_first()
        self.compensating = True
        if undos:
            self._state.emit(CompensationBegun(type(ending).__name__))
        for undo in undos:
            await self._undo(undo)

    async def _undo(self, undo: Undo) -> None:
        try:
            await self._state.compensate(undo)
        except Exception as error:  # noqa: BLE001 - a compensation that fails does not stop the others
            self._context.logger.warning("compensation %s failed: %s", undo.id, shown(error, LONGEST_ERROR))
