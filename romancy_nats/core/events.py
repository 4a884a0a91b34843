"""What a history is made of: one tuple class per event, and the table that describes each of them.

Two kinds. *Deliveries* come to the workflow from outside. *Commands* are what workflow code asked for; a command is
recorded (commit before effect, L2) and then carried out. Fields are only ever added at the end, with a default: a
history is read for ever. No field is called `type`: that is the event's own name in the JSON form.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, NamedTuple, cast


class WorkflowStarted(NamedTuple):
    """Delivery: the first event of a generation. `deadline` and `begin_at` are in µs since the epoch, 0 for none.

    `carried` is what it inherits from the generation before, empty for the first. `max_value` is how many bytes its
    values may have, 0 for the usual number: recorded, so that a value that was refused is refused in replay, too.
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
    max_value: int = 0


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


class Skipped(NamedTuple):
    """Command: an event, or a message, did not fit what the workflow asked for, and it waits on.

    It is that of the delivery with this `stream` and `sequence`; a copy of it is parked, with the reason.
    """

    wait: str
    stream: str
    sequence: int
    reason: str


class Converted(NamedTuple):
    """Command: what a model, or the parameters of a handler, made of the data of a delivery when it was read first."""

    id: str
    made: bytes


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
    | Skipped
    | Converted
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


class Bound(Enum):
    """What becomes of the value of a field that is too large for a commit. Decided where the value is made."""

    SHORTENED = auto()
    """A text about something (an error, a reason): cut; the class of an error is never cut away."""
    REFUSED = auto()
    """A value, name, id or key: an error for whoever gave it, which names it, its size and the limit."""
    DROPPED = auto()
    """Details that nothing depends on: left out, with a warning in the log."""
    OURS = auto()
    """Made by this package, and small."""


class EventSpec(NamedTuple):
    """All that the package has to know about a class of events, beside its fields.

    `tag` is its number on the wire, for ever. `at_first` is how many fields it had when it was first recorded, 0 for
    all of them: what was added since is written only where it says something, so that an old history comes back as it
    was. `identity` names the fields that make a command the same in replay (L7); only a command that has no other field
    than the value of its author is the same by its class alone. `input` names the field that has to be the same value
    under the present code, too. Results, errors, reasons and emitted values may differ: the recorded ones count, and no
    later command depends on them. `bounds` has every field of bytes or text.
    """

    tag: int
    bounds: Mapping[str, Bound]
    identity: tuple[str, ...] = ()
    at_first: int = 0
    input: str = ""


def _bounds(*, refused: str = "", shortened: str = "", dropped: str = "", ours: str = "") -> dict[str, Bound]:
    named = {
        Bound.REFUSED: refused,
        Bound.SHORTENED: shortened,
        Bound.DROPPED: dropped,
        Bound.OURS: ours,
    }
    return {field: bound for bound, fields in named.items() for field in fields.split()}


def _command(tag: int, identity: str, *, input: str = "", at_first: int = 0, **bounds: str) -> EventSpec:
    return EventSpec(tag, _bounds(**bounds), tuple(identity.split()), at_first, input)


def _delivery(tag: int, *, at_first: int = 0, **bounds: str) -> EventSpec:
    return EventSpec(tag, _bounds(**bounds), (), at_first)


EVENTS: dict[type[Event], EventSpec] = {
    WorkflowStarted: _delivery(
        1, at_first=7, refused="workflow input carried", dropped="trace", ours="code stream"
    ),
    ActivityCompleted: _delivery(2, refused="id result"),
    ActivityFailed: _delivery(3, refused="id", shortened="failure"),
    ActivityAttemptFailed: _delivery(4, at_first=4, refused="id", shortened="failure", dropped="heartbeat"),
    TimerFired: _delivery(5, ours="id"),
    CancelRequested: _delivery(6, shortened="reason", refused="message_id", ours="stream"),
    TerminateRequested: _delivery(7, shortened="reason", refused="message_id", ours="stream"),
    RetryRequested: _delivery(8, refused="message_id", ours="stream"),
    EventReceived: _delivery(
        9,
        refused="event_type event_id data source time subject extensions message_id",
        ours="wait stream",
    ),
    MessageReceived: _delivery(10, refused="channel data metadata id sender message_id", ours="stream"),
    UpdateRequested: _delivery(11, refused="id name input message_id", ours="reply_to stream"),
    ActivityScheduled: _command(
        32, "id name compensates", input="input", refused="id name input compensates"
    ),
    ActivityAbandoned: _command(33, "id", refused="id"),
    TimerStarted: _command(34, "id", ours="id"),
    TimerCancelled: _command(35, "id", ours="id"),
    CompensationBegun: _command(36, "cause", ours="cause"),
    WorkflowCompleted: _command(37, "", refused="result"),
    WorkflowFailed: _command(38, "", shortened="failure"),
    WorkflowCancelled: _command(39, "", shortened="reason"),
    WorkflowTerminated: _command(40, "", shortened="reason"),
    WaitStarted: _command(41, "id kind name key keyed", refused="name key", ours="id kind"),
    WaitEnded: _command(42, "id", ours="id"),
    UpdateAnswered: _command(43, "id", refused="id result", shortened="failure"),
    Emitted: _command(44, "", refused="value"),
    WorkflowRecurred: _command(45, "", input="input", refused="input carried"),
    Skipped: _command(46, "wait stream sequence", shortened="reason", ours="wait stream"),
    Converted: _command(47, "id", dropped="made", ours="id"),
}
"""The one place where a class of events is described; a test walks it."""

CLASSES: dict[int, type[Event]] = {spec.tag: event for event, spec in EVENTS.items()}
_FIRST_COMMAND_TAG = 32
_AT_FIRST = {event: spec.at_first for event, spec in EVENTS.items() if spec.at_first}
_SIZED = {event: tuple(event._fields.index(field) for field in spec.bounds) for event, spec in EVENTS.items()}
_ENVELOPE_BYTES = 64


def recorded_fields(event: Event) -> tuple[object, ...]:
    """The fields of an event as a history holds them."""
    shortest = _AT_FIRST.get(type(event))
    if shortest is None:
        return event
    fields: tuple[object, ...] = tuple(event)
    defaults = event._field_defaults
    while len(fields) > shortest and fields[-1] == defaults[event._fields[len(fields) - 1]]:
        fields = fields[:-1]
    return fields


def is_command(event: Event) -> bool:
    """Whether workflow code produced this event."""
    return EVENTS[type(event)].tag >= _FIRST_COMMAND_TAG


def weight(event: Event) -> int:
    """About how many bytes an event takes in a commit; text counts by its characters."""
    fields = cast("tuple[Any, ...]", event)
    return _ENVELOPE_BYTES + sum([len(fields[index]) for index in _SIZED[type(event)]])
