"""What a history is made of: one tuple class per event. Meaning and field order only; no behaviour.

Two kinds. *Deliveries* come to the workflow from outside. *Commands* are what workflow code asked for; a command is
recorded (commit before effect, L2) and then carried out. Fields are only ever added at the end, with a default: a
history is read for ever. No field is called `type`: that is the event's own name in the JSON form.
"""

from __future__ import annotations

from typing import NamedTuple


class WorkflowStarted(NamedTuple):
    """Delivery: the first event of a generation. `deadline` and `begin_at` are in µs since the epoch, 0 for none.

    `carried` is what it inherits from the generation before, empty for the first.
    """

    workflow: str
    input: bytes
    code: str
    stream: str = ""
    sequence: int = 0
    deadline: int = 0
    trace: str = ""
    begin_at: int = 0
    carried: bytes = b""


class ActivityCompleted(NamedTuple):
    """Delivery: an activity (or compensation) returned."""

    id: str
    attempt: int
    result: bytes


class ActivityFailed(NamedTuple):
    """Delivery: an activity failed for good. `exhausted`: it used up its attempts, else the error was final."""

    id: str
    attempt: int
    failure: bytes
    exhausted: bool = True


class ActivityAttemptFailed(NamedTuple):
    """Delivery that workflow code does not see: one attempt failed and another follows at `retry_at` µs."""

    id: str
    attempt: int
    failure: bytes
    heartbeat: bytes = b""
    retry_at: int = 0


class TimerFired(NamedTuple):
    """Delivery: a timer is due."""

    id: str


class CancelRequested(NamedTuple):
    """Delivery: somebody asked for the cancel of the instance, in message `sequence` of `stream`."""

    reason: str
    stream: str = ""
    sequence: int = 0
    message_id: str = ""


class TerminateRequested(NamedTuple):
    """Delivery: somebody asked for the end of the instance at once, without compensation."""

    reason: str
    stream: str = ""
    sequence: int = 0
    message_id: str = ""


class RetryRequested(NamedTuple):
    """Delivery that workflow code does not see: a stalled instance is to be tried again."""

    stream: str = ""
    sequence: int = 0
    message_id: str = ""


class EventReceived(NamedTuple):
    """Delivery: an event answered the wait `wait`. `data` and `extensions` are payloads, `time` is ISO text or ""."""

    wait: str
    event_type: str
    event_id: str
    data: bytes
    source: str = ""
    time: str = ""
    subject: str = ""
    extensions: bytes = b""
    stream: str = ""
    sequence: int = 0
    message_id: str = ""


class MessageReceived(NamedTuple):
    """Delivery: a message on a channel. `order` counts the sender's messages to this instance from 1, 0 for none."""

    channel: str
    data: bytes
    metadata: bytes = b""
    id: str = ""
    sender: str = ""
    order: int = 0
    time: int = 0
    stream: str = ""
    sequence: int = 0
    message_id: str = ""


class UpdateRequested(NamedTuple):
    """Delivery: somebody called an update handler and waits for the answer at `reply_to`."""

    id: str
    name: str
    input: bytes
    reply_to: str = ""
    stream: str = ""
    sequence: int = 0
    message_id: str = ""


class ActivityScheduled(NamedTuple):
    """Command: run an activity. `compensates` is the id of the activity that it undoes, if it does."""

    id: str
    name: str
    input: bytes
    compensates: str = ""


class ActivityAbandoned(NamedTuple):
    """Command: the workflow no longer wants the result of an activity; a late one does not count."""

    id: str


class TimerStarted(NamedTuple):
    """Command: start a durable timer, due at `due` µs since the epoch."""

    id: str
    due: int


class TimerCancelled(NamedTuple):
    """Command: a timer is no longer needed."""

    id: str


class CompensationBegun(NamedTuple):
    """Command: the workflow failed or was cancelled; from here on only compensations run."""

    cause: str


class WaitStarted(NamedTuple):
    """Command: wait for events of the type `name` (and key, "" for any: `keyed` tells) or messages of that channel."""

    id: str
    kind: str
    name: str
    key: str = ""
    keyed: bool = False


class WaitEnded(NamedTuple):
    """Command: a wait is over, answered or given up."""

    id: str


class UpdateAnswered(NamedTuple):
    """Command: an update handler returned (`result`), raised (`failure`), or the update was refused (`rejected`)."""

    id: str
    result: bytes = b""
    failure: bytes = b""
    rejected: bool = False


class Emitted(NamedTuple):
    """Command: a durable emit."""

    value: bytes


class WorkflowCompleted(NamedTuple):
    """Command: the workflow returned."""

    result: bytes


class WorkflowFailed(NamedTuple):
    """Command: the workflow raised."""

    failure: bytes


class WorkflowCancelled(NamedTuple):
    """Command: the workflow ended after a cancel."""

    reason: str


class WorkflowTerminated(NamedTuple):
    """Command: the workflow was ended from outside."""

    reason: str


class WorkflowRecurred(NamedTuple):
    """Command: the generation is over, the next one begins with this input and inherits `carried`."""

    input: bytes
    carried: bytes = b""


Delivered = (
    WorkflowStarted
    | ActivityCompleted
    | ActivityFailed
    | ActivityAttemptFailed
    | TimerFired
    | CancelRequested
    | TerminateRequested
    | RetryRequested
    | EventReceived
    | MessageReceived
    | UpdateRequested
)
Command = (
    ActivityScheduled
    | ActivityAbandoned
    | TimerStarted
    | TimerCancelled
    | CompensationBegun
    | WaitStarted
    | WaitEnded
    | UpdateAnswered
    | Emitted
    | WorkflowCompleted
    | WorkflowFailed
    | WorkflowCancelled
    | WorkflowTerminated
    | WorkflowRecurred
)
Event = Delivered | Command
Ending = WorkflowCompleted | WorkflowFailed | WorkflowCancelled | WorkflowTerminated | WorkflowRecurred
MessageEvent = (
    CancelRequested | TerminateRequested | RetryRequested | EventReceived | MessageReceived | UpdateRequested
)

TAGS: dict[type[Event], int] = {
    WorkflowStarted: 1,
    ActivityCompleted: 2,
    ActivityFailed: 3,
    ActivityAttemptFailed: 4,
    TimerFired: 5,
    CancelRequested: 6,
    TerminateRequested: 7,
    RetryRequested: 8,
    EventReceived: 9,
    MessageReceived: 10,
    UpdateRequested: 11,
    ActivityScheduled: 32,
    ActivityAbandoned: 33,
    TimerStarted: 34,
    TimerCancelled: 35,
    CompensationBegun: 36,
    WorkflowCompleted: 37,
    WorkflowFailed: 38,
    WorkflowCancelled: 39,
    WorkflowTerminated: 40,
    WaitStarted: 41,
    WaitEnded: 42,
    UpdateAnswered: 43,
    Emitted: 44,
    WorkflowRecurred: 45,
}
CLASSES: dict[int, type[Event]] = {tag: event for event, tag in TAGS.items()}
FIRST_COMMAND_TAG = 32
SHORTEST: dict[type[Event], int] = {WorkflowStarted: 7, ActivityAttemptFailed: 4}
"""How many fields an event had when it was first recorded. What was added since is written only where it says
something, so that an old history comes back as it was."""


def recorded_fields(event: Event) -> tuple[object, ...]:
    """The fields of an event as a history holds them."""
    shortest = SHORTEST.get(type(event))
    if shortest is None:
        return event
    fields: tuple[object, ...] = tuple(event)
    defaults = event._field_defaults
    while len(fields) > shortest and fields[-1] == defaults[event._fields[len(fields) - 1]]:
        fields = fields[:-1]
    return fields


def is_command(event: Event) -> bool:
    """Whether workflow code produced this event."""
    return TAGS[type(event)] >= FIRST_COMMAND_TAG
