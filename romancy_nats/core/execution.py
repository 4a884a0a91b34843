"""One generation of an instance: deliveries go in, commands come out. Total, deterministic, synchronous; no I/O.

Live and in replay the same code runs: `deliver` steps the workflow by one event, `replay` does so for a recorded
commit and holds the commands against those recorded (L7).
"""

from __future__ import annotations

import contextvars
import logging
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, assert_never, cast

from romancy_nats.core import determinism
from romancy_nats.core.commit import Commit
from romancy_nats.core.context import WorkflowContext
from romancy_nats.core.definition import Workflow
from romancy_nats.core.error_text import value_text
from romancy_nats.core.events import (
    ActivityAbandoned,
    ActivityAttemptFailed,
    ActivityCompleted,
    ActivityFailed,
    ActivityScheduled,
    CancelRequested,
    Command,
    CompensationBegun,
    Converted,
    Delivered,
    Emitted,
    Ending,
    Event,
    EventReceived,
    MessageEvent,
    MessageReceived,
    RetryRequested,
    Skipped,
    TerminateRequested,
    TimerCancelled,
    TimerFired,
    TimerStarted,
    UpdateAnswered,
    UpdateRequested,
    WaitEnded,
    WaitStarted,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowFailed,
    WorkflowRecurred,
    WorkflowStarted,
    WorkflowTerminated,
    is_command,
)
from romancy_nats.core.failure import Failure
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.inheritance import inherit
from romancy_nats.core.loop import DeterministicLoop
from romancy_nats.core.pending import PendingActivity
from romancy_nats.core.root import Root
from romancy_nats.core.state import MICROSECONDS, Origin, WorkflowState
from romancy_nats.errors import (
    DeterminismError,
    QueryError,
    WorkflowRuleError,
)

_log = logging.getLogger("romancy.workflow")


class Execution:
    """The workflow code of one generation, folded over its history: what it has come to is its `state`."""

    def __init__(
        self,
        workflow: Workflow[..., Any],
        key: InstanceKey,
        *,
        generation: int = 0,
        worker_id: str = "",
        inputs: determinism.InputRule | None = None,
        loop: Callable[..., DeterministicLoop] = DeterministicLoop,
    ) -> None:
        """`inputs` is what happens when replayed code gives another input than was recorded; None stalls."""
        made = loop(
            on_error=self._task_failed,
            on_stalled=self._broke_a_rule,
            seed=zlib.crc32(f"{key.token}:{generation}".encode()),
        )
        self.workflow = workflow
        self.state = WorkflowState(workflow, key, generation, made)
        context = WorkflowContext(self.state, worker_id)
        self.state.enter(context)
        self.root = Root(self.state, workflow, context)
        self.started: WorkflowStarted | None = None
        self.owed: list[Command] = []
        """What the code asked for in replay, and the history so far does not hold."""
        self.disturbed = False
        """Whether a query changed something after all: this memory is to be dropped."""
        self.last_failure = b""
        """How the last activity failed for good: where the failure of the workflow comes from, it may be."""
        self.on_violation: Callable[[], object] | None = None
        """Called when a rule of the loop is broken between steps, possibly from another thread."""
        self._worker_id = worker_id
        self._inputs = inputs or determinism.InputRule()
        self._make_loop = loop
        self._replayed = 0

    @property
    def begun(self) -> bool:
        """Whether the workflow code was entered."""
        return self.state.interruption.task is not None

    # --- deliveries in, commands out

    def deliver(self, event: Delivered, now: int) -> Sequence[Command]:
        """Step the workflow by one event at time `now` (µs); returns the commands that it gave.

        Raises WorkflowRuleError when the code broke a rule of the loop, DeterminismError when it does not know the
        event; after either the execution must be evicted and nothing of this step may be recorded.
        """
        state = self.state
        loop = state.loop
        commands = state.begin_step()
        loop.step(now / MICROSECONDS, lambda: self._receive(event))
        violation = loop.stalled
        if violation is not None:
            raise WorkflowRuleError(str(violation))
        if loop.new_timers or loop.cancelled_timers:
            state.drain_timers()
        return commands

    def replay(self, commit: Commit, following: Iterable[Commit] = ()) -> None:
        """Apply a recorded commit; raises DeterminismError when the code gives other commands than it holds.

        `following` are the commits after it, read only while they hold the rest of its last step.

        What the code gave beyond an open commit stays in `owed`: recorded by the next one, or still to be recorded.
        """
        self.state.replaying = True
        self._replayed += 1
        recorded = commit.events
        self.state.conversions.learn(commit, following)
        position = self._settle(recorded, 0, final=commit.open)
        try:
            while position < len(recorded):
                event = recorded[position]
                if is_command(event):
                    raise self._mismatch(position, event, None)
                self.owed = list(self.deliver(cast("Delivered", event), commit.time))
                position = self._settle(recorded, position + 1, final=commit.open)
        finally:
            self.state.replaying = False

    def recognise(self, commit: Commit) -> bool:
        """Take from a commit what needs no code: which messages it holds. Returns whether it ends the instance."""
        ended = False
        for event in commit.events:
            if isinstance(event, WorkflowStarted | MessageEvent):
                self._see(event)
            elif isinstance(event, Ending):
                ended = True
                self.state.ended(event)
                self.state.activities.clear()
                self.state.timers.clear()
                self.owed.clear()
        return ended

    def _settle(self, recorded: Sequence[Event], position: int, *, final: bool) -> int:
        """Hold what is owed against the recorded commands from `position` on; returns where they end."""
        while self.owed:
            expected = recorded[position] if position < len(recorded) else None
            if expected is None and final:
                return position
            produced = self.owed[0]
            if self._is_passed_over(expected, produced):
                position += 1
                continue
            if isinstance(produced, Converted) and not isinstance(expected, Converted):
                # It was read without a model, or by an earlier release, which recorded no conversions.
                del self.owed[0]
                continue
            if (
                expected is None
                or not is_command(expected)
                or not determinism.same(cast("Command", expected), produced)
            ):
                raise self._mismatch(position, expected, produced)
            self._compare_inputs(position, cast("Command", expected), produced)
            self._adopt(cast("Command", expected))
            del self.owed[0]
            position += 1
        while position < len(recorded) and self._is_passed_over(recorded[position], None):
            position += 1
        return position

    def _is_passed_over(self, recorded: Event | None, produced: Command | None) -> bool:
        """Whether a recorded command is one that the code need not give again."""
        match recorded:
            case Converted():
                # The code read it with a model then, and reads it without one now.
                return produced is None or not determinism.same(recorded, produced)
            case UpdateAnswered():
                # An earlier release rejected what waited at a recur.
                return produced is not None and recorded.rejected and recorded.id in self.state.handlers.left
            case _:
                return False

    def _adopt(self, recorded: Command) -> None:
        # What was recorded is what counts: a changed default or delay in newer code does not alter what runs.
        match recorded:
            case ActivityScheduled():
                if (pending := self.state.activities.get(recorded.id)) is not None:
                    pending.input = recorded.input
            case TimerStarted():
                self._fall_due(recorded)
            case UpdateAnswered():
                # Who waited was told when it was recorded, or looks at the history.
                self.state.handlers.inboxes.pop(recorded.id, None)
            case (
                WorkflowCompleted()
                | WorkflowFailed()
                | WorkflowCancelled()
                | WorkflowTerminated()
                | WorkflowRecurred()
            ):
                self.state.ended(recorded)
            case (
                ActivityAbandoned()
                | TimerCancelled()
                | CompensationBegun()
                | WaitStarted()
                | WaitEnded()
                | Skipped()
                | Converted()
                | Emitted()
            ):
                """All that they say is in what was compared, or for watchers only."""
            case _:
                assert_never(recorded)

    def _fall_due(self, recorded: TimerStarted) -> None:
        timer = self.state.timers.get(recorded.id)
        if timer is not None and timer.due != recorded.due:
            timer.fall_due(recorded.due / MICROSECONDS)

    def _compare_inputs(self, position: int, expected: Command, produced: Command) -> None:
        """Apply the rule for inputs that are not the recorded ones."""
        parameters = self._origin().parameters or self.workflow.parameters
        if not determinism.same_input(expected, produced, parameters):
            where, both = (self._replayed, position + 1), (expected, produced)
            error = determinism.other_input(
                repr(self.state.key), where, both, parameters, self._produced_at()
            )
            self._inputs.apply(self.state.key, error)

    def _origin(self) -> Origin:
        """Where the first of the commands that are owed comes from."""
        origins = self.state.origins
        index = len(origins) - len(self.owed)
        return origins[index] if 0 <= index < len(origins) else Origin()

    def _produced_at(self) -> str:
        place = self._origin().place if self.owed else ""
        return place or determinism.resting_place(self.state.interruption.task, self.workflow.fn)

    def _mismatch(self, position: int, expected: Event | None, produced: Command | None) -> DeterminismError:
        place = self._produced_at()
        want = cast("Command", expected) if expected is not None and is_command(expected) else None
        at = (self._replayed, position + 1)
        return determinism.mismatch(
            repr(self.state.key), at, want, produced, place, self._raised(want, produced)
        )

    def _raised(self, expected: Command | None, produced: Command | None) -> str:
        """The traceback of what the code raises now and did not raise when it was recorded, "" if it is not that."""
        failure = produced.failure if isinstance(produced, UpdateAnswered) else self.root.failure
        if not failure or (expected is not None and type(expected) is type(produced)):
            return ""
        found: Failure | None = Failure.decode(failure)
        lines: list[str] = []
        while found is not None:
            lines.append(
                found.traceback.rstrip() if not lines else f"caused by {found.error_type}: {found.message}"
            )
            found = found.cause
        return "\n".join(lines)

    # --- what happens to it

    def _receive(self, event: Delivered) -> None:
        match event:
            case ActivityCompleted():
                self._activity_completed(event)
            case ActivityFailed():
                pending = self._pop(event.id)
                if not pending.compensates:
                    self.last_failure = event.failure
                pending.future.set_result(event)
            case ActivityAttemptFailed():
                pending = self._known(event.id)
                pending.attempts, pending.heartbeat = event.attempt, event.heartbeat
                pending.retry_at = event.retry_at
            case TimerFired():
                self._timer_fired(event)
            case WorkflowStarted():
                self._see(event)
                self.root.begin(event)
            case (
                CancelRequested()
                | TerminateRequested()
                | RetryRequested()
                | EventReceived()
                | MessageReceived()
                | UpdateRequested()
            ):
                self._see(event)
                self._receive_message(event)
            case _:
                assert_never(event)

    def _receive_message(self, event: MessageEvent) -> None:
        match event:
            case CancelRequested():
                self.state.interruption.request_cancel(event)
            case TerminateRequested():
                self.state.terminate(event.reason)
            case EventReceived():
                self.state.waiting.event(event)
            case MessageReceived():
                self.state.waiting.message(event)
            case UpdateRequested():
                self.state.handlers.update(event)
            case RetryRequested():
                """The workflow code does not see it."""
            case _:
                assert_never(event)

    def _activity_completed(self, event: ActivityCompleted) -> None:
        pending = self._pop(event.id)
        if pending.activity.compensation is not None and not pending.compensates:
            self.state.saga.completed(
                event.id, pending.activity, pending.input, event.result, self.state.max_value
            )
        pending.future.set_result(event)

    def _pop(self, id: str) -> PendingActivity:
        pending = self._known(id)
        del self.state.activities[id]
        return pending

    def _known(self, id: str) -> PendingActivity:
        pending = self.state.activities.get(id)
        if pending is None:
            raise self._unknown(f"the end of activity {id!r}")
        return pending

    def _unknown(self, what: str) -> DeterminismError:
        text = f"{self.state.key!r}: the history holds {what}, which the code never began (commit {self._replayed})"
        return DeterminismError(text, position=self._replayed, expected=what, produced="nothing")

    def _timer_fired(self, event: TimerFired) -> None:
        timer = self.state.timers.pop(event.id, None)
        if timer is None:
            raise self._unknown(f"the firing of {event.id!r}")
        self.state.loop.fire(timer)

    def query(self, name: str, body: object) -> bytes:
        """The answer of a query handler, encoded; raises QueryError. Changes nothing, or sets `disturbed`."""
        state = self.state
        answer: list[bytes | QueryError] = []

        def ask() -> None:
            try:
                answer.append(state.code_context().run(state.handlers.query, name, body))
            except QueryError as error:
                answer.append(error)

        state.asked = True
        try:
            self.disturbed = not state.loop.look(ask) or self.disturbed
        finally:
            state.asked = False
        if isinstance(answer[0], QueryError):
            raise answer[0]
        return answer[0]

    def _see(self, event: WorkflowStarted | MessageEvent) -> None:
        self.state.see(event)
        if isinstance(event, WorkflowStarted):
            self.started = event
            if event.carried:
                inherit(self.state, event.carried)

    # --- one generation after the other

    def following(self) -> Execution:
        """The execution of the next generation, which has not begun."""
        return Execution(
            self.workflow,
            self.state.key,
            generation=self.state.generation + 1,
            worker_id=self._worker_id,
            inputs=self._inputs,
            loop=self._make_loop,
        )

    def following_start(self, ending: WorkflowRecurred) -> WorkflowStarted:
        """What the next generation begins with: the same start, its time limit included, with another input."""
        assert self.started is not None
        code = self.workflow.code
        return self.started._replace(input=ending.input, code=code, begin_at=0, carried=ending.carried)

    def _task_failed(self, context: Mapping[str, object]) -> None:
        if not self.state.replaying:
            error = context.get("exception")
            # Spelled here: a log that formats it asks the error itself, which may raise anything.
            where = Failure.of(error).traceback if isinstance(error, BaseException) else ""
            _log.error("%r: %s\n%s", self.state.key, value_text(context.get("message")), where)

    def _broke_a_rule(self, _violation: WorkflowRuleError) -> None:
        if self.on_violation is not None:
            # Workflow code may be the caller, and the engine is not to go on in its context.
            contextvars.Context().run(self.on_violation)

    def evict(self) -> None:
        """Close the workflow code for good, in silence; every later call in it raises, its commands go nowhere."""
        self.on_violation = None
        self.state.silence()
        # In a context of workflow code: an async generator that is closed has none of its own.
        self.state.code_context().run(self.state.loop.close_all)
        self.state.close()
