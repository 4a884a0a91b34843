"""Every error of this package, one root. Control flow (eviction) is not here: it never derives from Exception."""

from __future__ import annotations


class RomancyError(Exception):
    """Root of every error that this package raises."""


# --- what a user raises or catches in workflow and activity code


class TerminalError(RomancyError):
    """Raise it in an activity to say: never retry this. Subclasses come back as themselves."""


class ActivityError(RomancyError):
    """An activity failed with a class that is not registered (`@activity(errors=[...])`)."""

    def __init__(self, message: str = "", error_type: str = "", traceback: str = "") -> None:
        super().__init__(message, error_type, traceback)
        self.message = message
        self.error_type = error_type
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.error_type}: {self.message}" if self.error_type else self.message


class RetryExhaustedError(RomancyError):
    """An activity used up its attempts. `last_error` (also `__cause__`) is what the last one raised."""

    def __init__(self, activity: str, attempts: int, last_error: BaseException | None = None) -> None:
        super().__init__(activity, attempts)
        self.activity = activity
        self.attempts = attempts
        self.last_error = last_error

    def __str__(self) -> str:
        plural = "attempt" if self.attempts == 1 else "attempts"
        last = "" if self.last_error is None else f": {_told(self.last_error)}"
        return f"activity {self.activity!r} failed after {self.attempts} {plural}{last}"


def _told(error: BaseException) -> str:
    """Class and text of an error of a user, whose `__str__` may raise anything."""
    name = type(error).__name__
    try:
        return f"{name}: {str.__str__(str(error))}"
    except BaseException:  # noqa: BLE001 - an error that is shown raises no other
        return name


class ActivityTimeoutError(RomancyError, TimeoutError):
    """An attempt of an activity took longer than its `timeout`, or was silent for longer than its `heartbeat`."""

    def __init__(self, activity: str, seconds: float, kind: str = "timeout") -> None:
        super().__init__(activity, seconds, kind)
        self.activity = activity
        self.seconds = seconds
        self.kind = kind

    def __str__(self) -> str:
        what = "took longer than its timeout of" if self.kind == "timeout" else "sent no heartbeat for"
        return f"an attempt of activity {self.activity!r} {what} {self.seconds:g} s"


class PayloadError(RomancyError, ValueError):
    """A value does not fit its type, cannot be serialised, or a message cannot be read."""


class PayloadTooLargeError(PayloadError):
    """A value is larger than a message of the server may be."""

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__(what, size, limit)
        self.what = what
        self.size = size
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"{self.what} has {self.size:,} bytes, the limit is {self.limit:,}; "
            "keep large data elsewhere and pass a reference to it"
        )


# --- how a workflow ended, seen from outside


class WorkflowError(RomancyError):
    """A workflow instance did not complete."""

    def __init__(self, message: str = "", *, instance_id: str = "", workflow: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.instance_id = instance_id
        self.workflow = workflow


class WorkflowFailedError(WorkflowError):
    """The workflow raised. `error_type` is the class name; `__cause__` the error itself when rebuildable."""

    def __init__(
        self, message: str = "", *, error_type: str = "", instance_id: str = "", workflow: str = ""
    ) -> None:
        super().__init__(message, instance_id=instance_id, workflow=workflow)
        self.error_type = error_type

    def __str__(self) -> str:
        return f"workflow {self.workflow!r} ({self.instance_id}) failed: {self.error_type}: {self.message}"


class WorkflowCancelledError(WorkflowError):
    """The workflow was cancelled; `reason` is what the canceller said."""

    def __init__(self, reason: str = "", *, instance_id: str = "", workflow: str = "") -> None:
        super().__init__(reason, instance_id=instance_id, workflow=workflow)
        self.reason = reason

    def __str__(self) -> str:
        return f"workflow {self.workflow!r} ({self.instance_id}) was cancelled: {self.reason or 'no reason given'}"


class WorkflowTerminatedError(WorkflowError):
    """The workflow was ended at once, without compensation; `reason` is what was said."""

    def __init__(self, reason: str = "", *, instance_id: str = "", workflow: str = "") -> None:
        super().__init__(reason, instance_id=instance_id, workflow=workflow)
        self.reason = reason


class WorkflowStalledError(WorkflowError):
    """The instance is parked and nothing more will happen by itself; `handle.retry()` tries it again."""


class StartRejectedError(WorkflowError):
    """The arguments of a start do not fit the workflow, or the start message cannot be read."""


class WorkflowTimeoutError(RomancyError, TimeoutError):
    """The workflow took longer than the `timeout` it was started with."""


# --- workflow code that breaks the rules


class DeterminismError(RomancyError):
    """Replay of the history gave other commands than were recorded (L7)."""

    def __init__(self, message: str, *, position: int = 0, expected: str = "", produced: str = "") -> None:
        super().__init__(message)
        self.position = position
        self.expected = expected
        self.produced = produced


class WorkflowIOError(RomancyError):
    """Workflow code tried to do I/O on its deterministic loop; do it in an activity."""


class WorkflowRuleError(RomancyError):
    """Workflow code broke a rule of the deterministic loop (for example a callback from another thread)."""


class StepTooLongError(WorkflowRuleError):
    """Workflow code ran too many loop callbacks without waiting for anything."""


class DuplicateIdError(RomancyError):
    """The same activity id was used twice in one generation."""


class EventTimeoutError(RomancyError, TimeoutError):
    """No event came within the `timeout` of `ctx.wait_event`."""

    def __init__(self, type: str, seconds: float) -> None:
        super().__init__(type, seconds)
        self.type = type
        self.seconds = seconds

    def __str__(self) -> str:
        return f"no event {self.type!r} within {self.seconds:g} s"


class MessageTimeoutError(RomancyError, TimeoutError):
    """No message came within the `timeout` of `ctx.receive`."""

    def __init__(self, channel: str, seconds: float) -> None:
        super().__init__(channel, seconds)
        self.channel = channel
        self.seconds = seconds

    def __str__(self) -> str:
        return f"no message on channel {self.channel!r} within {self.seconds:g} s"


# --- clients


class QueryError(RomancyError):
    """A query could not be answered: no such handler, or it raised."""


class UpdateRejectedError(RomancyError):
    """An update was refused by its validator, or the instance ended before it was carried out."""


class UpdateFailedError(RomancyError):
    """The handler of an update raised. `error_type` is the class name; `__cause__` the error when rebuildable."""

    def __init__(self, message: str = "", error_type: str = "") -> None:
        super().__init__(message, error_type)
        self.message = message
        self.error_type = error_type

    def __str__(self) -> str:
        return f"{self.error_type}: {self.message}" if self.error_type else self.message


class InstanceNotFoundError(RomancyError):
    """There is no such instance, neither recorded nor waiting to be started."""

    def __init__(self, instance_id: str, workflow: str | None = None) -> None:
        super().__init__(instance_id, workflow)
        self.instance_id = instance_id
        self.workflow = workflow

    def __str__(self) -> str:
        of = f" of workflow {self.workflow!r}" if self.workflow else ""
        return (
            f"no instance {self.instance_id!r}{of}; ids are case-sensitive, and retention may have removed it"
        )


class ResultTimeoutError(RomancyError, TimeoutError):
    """The instance has not ended within the `timeout` of `handle.result`; it goes on.

    `status` is where it stood then, None when the server did not say. `unserved` says that no worker has its workflow,
    and is "" when one has, or when that is not known.
    """

    def __init__(
        self, instance_id: str, workflow: str, seconds: float, status: str | None, unserved: str = ""
    ) -> None:
        super().__init__(instance_id, workflow, seconds, status, unserved)
        self.instance_id = instance_id
        self.workflow = workflow
        self.seconds = seconds
        self.status = status
        self.unserved = unserved

    def __str__(self) -> str:
        name = f"instance {self.instance_id!r}" + (f" of workflow {self.workflow!r}" if self.workflow else "")
        late = f"{name} has not ended within {self.seconds:g} s"
        if self.status is None:
            return f"{late}, and the server does not say where it stands; ask again"
        return f"{late}: it is {self.status}{f', and {self.unserved}' if self.unserved else '; it goes on, wait again'}"


class AmbiguousInstanceError(RomancyError):
    """The id exists under several workflows; name one with `workflow=`."""

    def __init__(self, instance_id: str, workflows: tuple[str, ...] = ()) -> None:
        super().__init__(instance_id, workflows)
        self.instance_id = instance_id
        self.workflows = workflows

    def __str__(self) -> str:
        return f"id {self.instance_id!r} exists under {', '.join(self.workflows)}; say which with workflow="


class InstanceConflictError(RomancyError):
    """An instance with this id exists and was started with another input."""

    def __init__(self, instance_id: str, workflow: str = "") -> None:
        super().__init__(instance_id, workflow)
        self.instance_id = instance_id
        self.workflow = workflow

    def __str__(self) -> str:
        return (
            f"instance {self.instance_id!r} of workflow {self.workflow!r} exists with another input; "
            "use another id, or the same arguments to join it"
        )


class RetentionError(RomancyError):
    """The history is no longer kept: its retention has passed."""


class InstanceEndedError(RomancyError):
    """The instance has ended; nothing can be sent to it any more."""

    def __init__(self, instance_id: str, status: str = "") -> None:
        super().__init__(instance_id, status)
        self.instance_id = instance_id
        self.status = status

    def __str__(self) -> str:
        return f"instance {self.instance_id!r} has ended ({self.status})"


# --- configuration and the server


class ConfigurationError(RomancyError):
    """The program is set up wrongly; the message says what to change."""


class InvalidNameError(ConfigurationError, ValueError):
    """An id, workflow name or namespace has a form that is not allowed."""


class ServerError(RomancyError):
    """The NATS server cannot do what is needed."""


class ConnectionLostError(ServerError):
    """Not connected just now; what was being sent was not sent."""


class ServerUnavailableError(ServerError):
    """The server did not answer in time: what was asked may or may not have been done; the text says what is unknown.

    `instance_id` and `message_id` are what to use for the next try, so that it has no second effect; "" where they do
    not matter.
    """

    def __init__(self, message: str = "", *, instance_id: str = "", message_id: str = "") -> None:
        super().__init__(message)
        self.instance_id = instance_id
        self.message_id = message_id


class PermissionDeniedError(ServerError):
    """The server refused a publish or subscribe for these credentials."""


class ServerTooOldError(ServerError):
    """The server lacks features this package needs."""


class JetStreamDisabledError(ServerError):
    """The server runs without JetStream."""


class ServerBinaryMissingError(ServerError):
    """No `nats-server` program was found for the embedded server."""


class ServerStartError(ServerError):
    """The embedded server did not start; the message has the end of its log."""


class StreamMissingError(ServerError):
    """A stream or consumer that is needed does not exist, or was deleted."""


class StorageError(ServerError):
    """The server refused a write for a reason that is not a conflict (for example a full disk)."""
