"""What one generation of an instance has begun and waits for, and the verbs by which its workflow code asks for more.

No delivery is told from another here, and nothing is held against a history: that is the fold, `Execution`.
"""

from __future__ import annotations

import asyncio
import contextvars
from asyncio import CancelledError
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import cached_property
from random import Random
from typing import Any, NamedTuple, NoReturn, TypeVar

from romancy_nats.core import determinism
from romancy_nats.core.activity import Activity
from romancy_nats.core.conversions import Conversions
from romancy_nats.core.current import RunningWorkflow, enter_workflow
from romancy_nats.core.events import (
    ActivityAbandoned,
    ActivityCompleted,
    ActivityFailed,
    ActivityScheduled,
    Command,
    Emitted,
    Ending,
    Event,
    MessageEvent,
    TimerCancelled,
    TimerStarted,
    WorkflowStarted,
    WorkflowTerminated,
)
from romancy_nats.core.failure import MAX_BYTES as MAX_FAILURE
from romancy_nats.core.failure import Failure
from romancy_nats.core.handlers import Handlers
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.interruption import Interruption
from romancy_nats.core.limits import MAX_VALUE, fitting
from romancy_nats.core.loop import DeterministicLoop, WorkflowTimer
from romancy_nats.core.parameters import Parameters
from romancy_nats.core.pending import PendingActivity, rebuilt
from romancy_nats.core.plain import encode_plain
from romancy_nats.core.saga import Saga, Undo
from romancy_nats.core.user_function import UserFunction
from romancy_nats.core.waits import Waits
from romancy_nats.errors import DuplicateIdError

R = TypeVar("R")
MICROSECONDS = 1_000_000


class Origin(NamedTuple):
    """Where a replayed command comes from: `place` in the source, and `parameters`, what its input is the input of."""

    place: str = ""
    parameters: Parameters | None = None


class WorkflowState:
    """One generation on its deterministic loop. Only its own verbs and the fold change it."""

    def __init__(
        self, workflow: UserFunction[Any], key: InstanceKey, generation: int, loop: DeterministicLoop
    ) -> None:
        self.key = key
        self.generation = generation
        self.loop = loop
        self.saga = Saga()
        self.activities: dict[str, PendingActivity] = {}
        self.timers: dict[str, WorkflowTimer] = {}
        self.ending: Ending | None = None
        self.replaying = False
        self.asked = False
        """Whether a query is being answered: workflow code only looks."""
        self.seen: set[tuple[str, int]] = set()
        """The places (stream, sequence) of the messages in the history."""
        self.seen_ids: dict[str, None] = {}
        """The ids that their senders gave to these messages, oldest first."""
        self.sent: dict[InstanceKey, int] = {}
        """How many messages went to which instance."""
        self.max_value = MAX_VALUE
        """Bytes that one value of this generation may have."""
        self.commands: list[Command] = []
        """What the present step asked for."""
        self.origins: list[Origin] = []
        """Of each of `commands`, in replay."""
        self.announce: Callable[[bytes], None] | None = None
        """Called with each value that workflow code emits live; never in replay."""
        interruption = self.interruption = Interruption()
        self.waiting = Waits(key, self.emit, loop.create_future)
        self.conversions = Conversions(self.emit, lambda: self.max_value)
        self.handlers = Handlers(
            self.emit,
            self._spawn,
            self.encode_value,
            self.encode_failure,
            self.conversions,
            lambda: interruption.unwinds,
        )
        self._workflow = workflow
        self._code_context = contextvars.Context()
        self._counts: dict[str, int] = {}
        self._ids: set[str] = set()

    @cached_property
    def random(self) -> Random:
        """Seeded by the identity of the instance: the same numbers in replay."""
        return Random(f"{self.key.token}:{self.generation}")

    @property
    def waits(self) -> bool:
        """Whether anything is pending that could ever wake the workflow."""
        return bool(self.activities or self.timers or self.waiting.open)

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

    def compensate(self, undo: Undo) -> Coroutine[Any, Any, Any]:
        """Run a compensation as the activity that it is."""
        return self._activity(undo.id, undo.compensation, undo.input, undo.undoes)

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

    def recur(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> NoReturn:
        """End this generation, from any task of it, and go on in the next one with this input."""
        input = self._workflow.parameters.encode(args, kwargs)
        self.interruption.recur(fitting(input, f"the next input of {self.key!r}", self.max_value))

    def number_message(self, target: InstanceKey) -> int:
        """The number of a message to another instance: they are read in this order, from 1."""
        order = self.sent[target] = self.sent.get(target, 0) + 1
        return order

    def message_failed(self, target: InstanceKey, order: int) -> None:
        """A message was not sent: unless one came after it, the next has its number, so that no reader waits for it."""
        if self.sent[target] == order:
            self.sent[target] = order - 1

    def emit_value(self, value: object, *, durable: bool) -> None:
        """Workflow code tells something to whoever watches."""
        # Encoded in replay, too: what cannot be stored raises in both.
        data = encode_plain(value, "what is emitted", self.max_value)
        if durable:
            self.emit(Emitted(data), determinism.calling_place() if self.replaying else "")
        elif self.announce is not None and not self.replaying:
            self.announce(data)

    def encode_value(self, value: object, what: str) -> bytes:
        """The bytes of a value whose reader knows no types; raises PayloadError."""
        return encode_plain(value, what, self.max_value)

    def encode_failure(self, error: BaseException) -> bytes:
        """The bytes of what workflow code raised; never more than a commit holds."""
        return Failure.of(error, most=min(MAX_FAILURE, self.max_value // 4), quiet=self.replaying).encode()

    def emit(self, command: Command, place: str = "", parameters: Parameters | None = None) -> None:
        """Workflow code asks for something. `parameters`: what its input is the input of, else of the workflow."""
        if self.ending is None:
            self.commands.append(command)
            if self.replaying:
                self.origins.append(Origin(place, parameters))

    # --- the asyncio context of workflow code

    def enter(self, workflow: RunningWorkflow) -> None:
        """Code of this generation finds `workflow` as the one that runs."""
        self._code_context.run(enter_workflow, self.loop, workflow)

    def code_context(self) -> contextvars.Context:
        """A fresh asyncio context of workflow code."""
        return self._code_context.copy()

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task of the workflow that it did not begin itself (an update handler)."""
        return self.loop.create_task(work, context=self.code_context())

    # --- what the fold tells it

    def begin_step(self) -> list[Command]:
        """A step begins; returns the list that its commands come into."""
        commands = self.commands = []
        if self.replaying:
            self.origins = []
        return commands

    def see(self, event: WorkflowStarted | MessageEvent) -> None:
        """The history holds this message: it is known when it comes again."""
        if event.sequence:
            self.seen.add((event.stream, event.sequence))
        if isinstance(event, WorkflowStarted):
            self.max_value = event.max_value or MAX_VALUE
        elif event.message_id:
            self.seen_ids[event.message_id] = None

    def unsee(self, events: Sequence[Event]) -> None:
        """What no commit holds after all: when a message of these comes again, it is not known."""
        for event in events:
            if isinstance(event, WorkflowStarted | MessageEvent):
                self.seen.discard((event.stream, event.sequence))
            if isinstance(event, MessageEvent):
                self.seen_ids.pop(event.message_id, None)

    def drain_timers(self) -> None:
        """Ask for the timers that the step started, and give up those that it cancelled."""
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

    # --- its end

    def end(self, ending: Ending) -> None:
        """The root has come to its end: nothing is waited for any more."""
        self.handlers.reject_all()
        for wait in list(self.waiting.open.values()):
            self.waiting.end(wait)
        for timer in list(self.timers.values()):
            timer.cancel()
        self.drain_timers()
        self.emit(ending)
        self.ending = ending

    def ended(self, ending: Ending) -> None:
        """It is recorded that it ended so: what the code asks for from here on goes nowhere."""
        self.ending = ending

    def terminate(self, reason: str) -> None:
        """End without asking the workflow code."""
        self.handlers.reject_all()
        self.emit(WorkflowTerminated(reason))
        self.ending = self.ending or WorkflowTerminated(reason)

    def silence(self) -> None:
        """What the code says and asks for from here on goes nowhere; for good."""
        self.ending = self.ending or WorkflowTerminated("evicted")
        self.replaying = True
        self.announce = None

    def close(self) -> None:
        """The code is closed: nothing is to refer to it, so that reference counts free it, without the collector."""
        self.interruption.close()
        self.waiting.close()
        self.conversions.close()
        self.handlers.close()
        self.timers.clear()
        self._code_context = contextvars.Context()
