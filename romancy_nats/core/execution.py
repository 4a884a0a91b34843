"""One generation of an instance: deliveries go in, commands come out. Total, deterministic, synchronous; no I/O.

Live and in replay the same code runs: `deliver` steps the workflow by one event, `replay` does so for a recorded
commit and holds the commands against those recorded (L7).
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import zlib
from asyncio import CancelledError
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import cached_property
from random import Random
from typing import Any, NamedTuple, TypeVar, assert_never, cast

from romancy_nats.core import determinism
from romancy_nats.core.activity import Activity
from romancy_nats.core.commit import Commit
from romancy_nats.core.context import WorkflowContext
from romancy_nats.core.conversions import Conversions
from romancy_nats.core.current import enter_workflow
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
from romancy_nats.core.failure import MAX_BYTES as MAX_FAILURE
from romancy_nats.core.failure import Failure
from romancy_nats.core.handlers import Handlers
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.inheritance import inherit
from romancy_nats.core.limits import MAX_VALUE, fitting
from romancy_nats.core.loop import DeterministicLoop, WorkflowTimer
from romancy_nats.core.parameters import Parameters
from romancy_nats.core.pending import PendingActivity, rebuilt
from romancy_nats.core.plain import encode_plain
from romancy_nats.core.root import Root
from romancy_nats.core.saga import Saga, Undo
from romancy_nats.core.waits import Waits
from romancy_nats.errors import (
    DeterminismError,
    DuplicateIdError,
    QueryError,
    WorkflowRuleError,
)

R = TypeVar("R")
MICROSECONDS = 1_000_000
_log = logging.getLogger("romancy.workflow")


class Origin(NamedTuple):
    """Where a replayed command comes from: `place` in the source, and `parameters`, what its input is the input of."""

    place: str = ""
    parameters: Parameters | None = None


class Execution:
    """The workflow code of one generation on its deterministic loop, and what it waits for."""

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
        self.workflow = workflow
        self.key = key
        self.generation = generation
        self._inputs = inputs or determinism.InputRule()
        self._make_loop = loop
        self.loop = loop(
            on_error=self._task_failed,
            on_stalled=self._broke_a_rule,
            seed=zlib.crc32(f"{key.token}:{generation}".encode()),
        )
        self.saga = Saga()
        self.activities: dict[str, PendingActivity] = {}
        self.timers: dict[str, WorkflowTimer] = {}
        self.ending: Ending | None = None
        self.compensating = False
        self.delayed = False
        """Whether its start lies ahead."""
        self.replaying = False
        self.seen: set[tuple[str, int]] = set()
        self.seen_ids: dict[str, None] = {}
        self.started: WorkflowStarted | None = None
        self.max_value = MAX_VALUE
        """Bytes that one value of this generation may have."""
        self.owed: list[Command] = []
        self.waiting = Waits(key, self.emit, self.loop.create_future)
        self.conversions = Conversions(self.emit, lambda: self.max_value)
        root = self.root = Root(self)
        self.handlers = Handlers(
            self.emit,
            self._spawn,
            self.encode_value,
            self.encode_failure,
            self.conversions,
            lambda: root.unwinds,
        )
        self.sent: dict[InstanceKey, int] = {}
        """How many messages went to which instance."""
        self.asked = False
        """Whether a query is being answered: workflow code only looks."""
        self.disturbed = False
        """Whether a query changed something after all: this memory is to be dropped."""
        self.announce: Callable[[bytes], None] | None = None
        """Called with each value that workflow code emits live; never in replay."""
        self.last_failure = b""
        """How the last activity failed for good: where the failure of the workflow comes from, it may be."""
        self.on_violation: Callable[[], object] | None = None
        """Called when a rule of the loop is broken between steps, possibly from another thread."""
        self._worker_id = worker_id
        self._commands: list[Command] = []
        self._origins: list[Origin] = []
        self._counts: dict[str, int] = {}
        self._ids: set[str] = set()
        self._replayed = 0

    @cached_property
    def random(self) -> Random:
        """Seeded by the identity of the instance: the same numbers in replay."""
        return Random(f"{self.key.token}:{self.generation}")

    @property
    def begun(self) -> bool:
        """Whether the workflow code was entered."""
        return self.root.task is not None

    # --- deliveries in, commands out

    def deliver(self, event: Delivered, now: int) -> Sequence[Command]:
        """Step the workflow by one event at time `now` (µs); returns the commands that it gave.

        Raises WorkflowRuleError when the code broke a rule of the loop, DeterminismError when it does not know the
        event; after either the execution must be evicted and nothing of this step may be recorded.
        """
        commands: list[Command] = []
        self._commands = commands
        self.loop.step(now / MICROSECONDS, lambda: self._receive(event))
        violation = self.loop.stalled
        if violation is not None:
            raise WorkflowRuleError(str(violation))
        if self.loop.new_timers or self.loop.cancelled_timers:
            self._drain_timers()
        return commands

    def replay(self, commit: Commit, following: Iterable[Commit] = ()) -> None:
        """Apply a recorded commit; raises DeterminismError when the code gives other commands than it holds.

        `following` are the commits after it, read only while they hold the rest of its last step.

        What the code gave beyond an open commit stays in `owed`: recorded by the next one, or still to be recorded.
        """
        self.replaying = True
        self._replayed += 1
        recorded = commit.events
        self.conversions.learn(commit, following)
        position = self._settle(recorded, 0, final=commit.open)
        try:
            while position < len(recorded):
                event = recorded[position]
                if is_command(event):
                    raise self._mismatch(position, event, None)
                self._origins = []
                self.owed = list(self.deliver(cast("Delivered", event), commit.time))
                position = self._settle(recorded, position + 1, final=commit.open)
        finally:
            self.replaying = False

    def recognise(self, commit: Commit) -> bool:
        """Take from a commit what needs no code: which messages it holds. Returns whether it ends the instance."""
        ended = False
        for event in commit.events:
            if isinstance(event, WorkflowStarted | MessageEvent):
                self._see(event)
            elif isinstance(event, Ending):
                self.ending, ended = event, True
                self.activities.clear()
                self.timers.clear()
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
                return produced is not None and recorded.rejected and recorded.id in self.handlers.left
            case _:
                return False

    def _adopt(self, recorded: Command) -> None:
        # What was recorded is what counts: a changed default or delay in newer code does not alter what runs.
        match recorded:
            case ActivityScheduled():
                if (pending := self.activities.get(recorded.id)) is not None:
                    pending.input = recorded.input
            case TimerStarted():
                self._fall_due(recorded)
            case UpdateAnswered():
                # Who waited was told when it was recorded, or looks at the history.
                self.handlers.inboxes.pop(recorded.id, None)
            case (
                WorkflowCompleted()
                | WorkflowFailed()
                | WorkflowCancelled()
                | WorkflowTerminated()
                | WorkflowRecurred()
            ):
                self.ending = recorded
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
        timer = self.timers.get(recorded.id)
        if timer is not None and timer.due != recorded.due:
            timer.fall_due(recorded.due / MICROSECONDS)

    def _compare_inputs(self, position: int, expected: Command, produced: Command) -> None:
        """Apply the rule for inputs that are not the recorded ones."""
        parameters = self._origin().parameters or self.workflow.parameters
        if not determinism.same_input(expected, produced, parameters):
            where, both = (self._replayed, position + 1), (expected, produced)
            error = determinism.other_input(repr(self.key), where, both, parameters, self._produced_at())
            self._inputs.apply(self.key, error)

    def _origin(self) -> Origin:
        """Where the first of the commands that are owed comes from."""
        index = len(self._origins) - len(self.owed)
        return self._origins[index] if 0 <= index < len(self._origins) else Origin()

    def _produced_at(self) -> str:
        place = self._origin().place if self.owed else ""
        return place or determinism.resting_place(self.root.task, self.workflow.fn)

    def _mismatch(self, position: int, expected: Event | None, produced: Command | None) -> DeterminismError:
        place = self._produced_at()
        want = cast("Command", expected) if expected is not None and is_command(expected) else None
        at = (self._replayed, position + 1)
        return determinism.mismatch(repr(self.key), at, want, produced, place, self._raised(want, produced))

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

    # --- what the workflow code does

    def run_activity(
        self, activity: Activity[..., R], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Coroutine[Any, Any, R]:
        """The call of an activity; its id is given now, it is scheduled when awaited."""
        id = activity.id
        if id is None:
            n = self._counts[activity.name] = self._counts.get(activity.name, 0) + 1
            id = f"{activity.name}:{n}"
        if id in self._ids:
            raise DuplicateIdError(
                f"activity id {id!r} is used twice in one generation; give each call its own id"
            )
        self._ids.add(id)
        place = determinism.calling_place() if self.replaying else ""
        encoded = activity.parameters.encode(args, kwargs)
        input = fitting(encoded, f"the input of activity {activity.name!r}", self.max_value)
        return self._activity(id, activity, input, "", place)

    async def _activity(
        self, id: str, activity: Activity[..., R], input: bytes, compensates: str, place: str = ""
    ) -> R:
        future: asyncio.Future[ActivityCompleted | ActivityFailed] = self.loop.create_future()
        began = round(self.loop.time() * MICROSECONDS)
        self.activities[id] = PendingActivity(id, activity, input, future, began, compensates)
        self.emit(ActivityScheduled(id, activity.name, input, compensates), place, activity.parameters)
        try:
            event = await future
        except CancelledError:
            # Not in the table any more: it completed in the very step that cancelled its waiter.
            if self.activities.pop(id, None) is not None:
                self.emit(ActivityAbandoned(id))
            raise
        if type(event) is ActivityCompleted:
            return activity.result.decode(event.result)
        raise rebuilt(activity, event)  # type: ignore[arg-type]

    def emit_value(self, value: object, *, durable: bool) -> None:
        """Workflow code tells something to whoever watches."""
        # Encoded in replay, too: what cannot be stored raises in both.
        data = encode_plain(value, "what is emitted", self.max_value)
        if durable:
            self.emit(Emitted(data), self._place())
        elif self.announce is not None and not self.replaying:
            self.announce(data)

    def encode_value(self, value: object, what: str) -> bytes:
        """The bytes of a value whose reader knows no types; raises PayloadError."""
        return encode_plain(value, what, self.max_value)

    def encode_failure(self, error: BaseException) -> bytes:
        """The bytes of what workflow code raised; never more than a commit holds."""
        return Failure.of(error, most=min(MAX_FAILURE, self.max_value // 4), quiet=self.replaying).encode()

    def _place(self) -> str:
        return determinism.calling_place() if self.replaying else ""

    def emit(self, command: Command, place: str = "", parameters: Parameters | None = None) -> None:
        """Workflow code asks for something. `parameters`: what its input is the input of, else of the workflow."""
        if self.ending is None:
            self._commands.append(command)
            if self.replaying:
                self._origins.append(Origin(place, parameters))

    def _drain_timers(self) -> None:
        loop = self.loop
        for timer in loop.cancelled_timers:
            if self.timers.pop(f"timer:{timer.number}", None) is not None:
                self.emit(TimerCancelled(f"timer:{timer.number}"))
        loop.cancelled_timers.clear()
        for timer in loop.new_timers:
            id = f"timer:{timer.number}"
            if self.ending is None:
                self.timers[id] = timer
                self.emit(TimerStarted(id, timer.due))
        loop.new_timers.clear()

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
                self.root.begin(event, self.view())
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
                self.root.request_cancel(event)
            case TerminateRequested():
                self._terminate(event)
            case EventReceived():
                self.waiting.event(event)
            case MessageReceived():
                self.waiting.message(event)
            case UpdateRequested():
                self.handlers.update(event)
            case RetryRequested():
                """The workflow code does not see it."""
            case _:
                assert_never(event)

    def _activity_completed(self, event: ActivityCompleted) -> None:
        pending = self._pop(event.id)
        if pending.activity.compensation is not None and not pending.compensates:
            self.saga.completed(event.id, pending.activity, pending.input, event.result, self.max_value)
        pending.future.set_result(event)

    def _pop(self, id: str) -> PendingActivity:
        pending = self._known(id)
        del self.activities[id]
        return pending

    def _known(self, id: str) -> PendingActivity:
        pending = self.activities.get(id)
        if pending is None:
            raise self._unknown(f"the end of activity {id!r}")
        return pending

    def _unknown(self, what: str) -> DeterminismError:
        text = f"{self.key!r}: the history holds {what}, which the code never began (commit {self._replayed})"
        return DeterminismError(text, position=self._replayed, expected=what, produced="nothing")

    def _timer_fired(self, event: TimerFired) -> None:
        timer = self.timers.pop(event.id, None)
        if timer is None:
            raise self._unknown(f"the firing of {event.id!r}")
        self.loop.fire(timer)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task of the workflow that it did not begin itself (an update handler)."""
        return self.loop.create_task(work, context=self._context())

    def _context(self) -> contextvars.Context:
        """A fresh context of workflow code."""
        context = contextvars.Context()
        context.run(enter_workflow, self.loop, self.view())
        return context

    def query(self, name: str, body: object) -> bytes:
        """The answer of a query handler, encoded; raises QueryError. Changes nothing, or sets `disturbed`."""
        answer: list[bytes | QueryError] = []

        def ask() -> None:
            try:
                answer.append(self._context().run(self.handlers.query, name, body))
            except QueryError as error:
                answer.append(error)

        self.asked = True
        try:
            self.disturbed = not self.loop.look(ask) or self.disturbed
        finally:
            self.asked = False
        if isinstance(answer[0], QueryError):
            raise answer[0]
        return answer[0]

    def _see(self, event: WorkflowStarted | MessageEvent) -> None:
        if event.sequence:
            self.seen.add((event.stream, event.sequence))
        if isinstance(event, WorkflowStarted):
            self.started = event
            self.max_value = event.max_value or MAX_VALUE
            if event.carried:
                inherit(self, event.carried)
            return
        message_id = event.message_id
        if message_id:
            self.seen_ids[message_id] = None

    def unsee(self, events: Sequence[Event]) -> None:
        """What no commit holds after all: when a message of these comes again, it is not known."""
        for event in events:
            if isinstance(event, WorkflowStarted | MessageEvent):
                self.seen.discard((event.stream, event.sequence))
            if isinstance(event, MessageEvent):
                self.seen_ids.pop(event.message_id, None)

    def _terminate(self, event: TerminateRequested) -> None:
        self.handlers.reject_all()
        self.emit(WorkflowTerminated(event.reason))
        self.ending = self.ending or WorkflowTerminated(event.reason)

    # --- one generation after the other

    def following(self) -> Execution:
        """The execution of the next generation, which has not begun."""
        return Execution(
            self.workflow,
            self.key,
            generation=self.generation + 1,
            worker_id=self._worker_id,
            inputs=self._inputs,
            loop=self._make_loop,
        )

    def following_start(self, ending: WorkflowRecurred) -> WorkflowStarted:
        """What the next generation begins with: the same start, its time limit included, with another input."""
        assert self.started is not None
        code = self.workflow.code
        return self.started._replace(input=ending.input, code=code, begin_at=0, carried=ending.carried)

    # --- for the root of the workflow

    def view(self) -> WorkflowContext:
        """The context of workflow code. Not kept: it refers to us, and would make a cycle."""
        return WorkflowContext(self, self._worker_id)

    def compensate(self, undo: Undo) -> Coroutine[Any, Any, Any]:
        """Run a compensation as the activity that it is."""
        return self._activity(undo.id, undo.compensation, undo.input, undo.undoes)

    def end(self, ending: Ending) -> None:
        """The root has come to its end: nothing is waited for any more."""
        self.handlers.reject_all()
        for wait in list(self.waiting.open.values()):
            self.waiting.end(wait)
        for timer in list(self.timers.values()):
            timer.cancel()
        self._drain_timers()
        self.emit(ending)
        self.ending = ending

    def _task_failed(self, context: Mapping[str, object]) -> None:
        if not self.replaying:
            error = context.get("exception")
            # Spelled here: a log that formats it asks the error itself, which may raise anything.
            where = Failure.of(error).traceback if isinstance(error, BaseException) else ""
            _log.error("%r: %s\n%s", self.key, value_text(context.get("message")), where)

    def _broke_a_rule(self, _violation: WorkflowRuleError) -> None:
        if self.on_violation is not None:
            # Workflow code may be the caller, and the engine is not to go on in its context.
            contextvars.Context().run(self.on_violation)

    @property
    def waits(self) -> bool:
        """Whether anything is pending that could ever wake the workflow."""
        return bool(self.activities or self.timers or self.waiting.open)

    def evict(self) -> None:
        """Close the workflow code for good, in silence; every later call in it raises, its commands go nowhere."""
        self.ending = self.ending or WorkflowTerminated("evicted")
        # For good: what runs from here on runs for nobody, also what a later collection frees.
        self.replaying = True
        self.on_violation = None
        self.announce = None
        # In a context of workflow code: an async generator that is closed has none of its own.
        self._context().run(self.loop.close_all)
        # Freed at once, by reference counts: collections of cycles are rare in a worker, and slow.
        self.root.task = None
        self.waiting.close()
        self.conversions.close()
        self.handlers.close()
        self.timers.clear()
