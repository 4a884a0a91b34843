"""Exit codes, and which error is which. One clear line on stderr for each."""

from __future__ import annotations

import sys
import traceback
from enum import IntEnum
from typing import cast

from romancy_nats.cli.output import printable
from romancy_nats.errors import (
    AmbiguousInstanceError,
    ConnectionLostError,
    DeterminismError,
    InstanceEndedError,
    InstanceNotFoundError,
    QueryError,
    ResultTimeoutError,
    RomancyError,
    ServerUnavailableError,
    StartRejectedError,
    StorageError,
    StreamMissingError,
    UpdateFailedError,
    UpdateRejectedError,
    WorkflowError,
    WorkflowFailedError,
)


class NotThereError(RomancyError):
    """What a command was asked for is not there; the text says what to look at."""


class Exit(IntEnum):
    """What the command says to the shell."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNREACHABLE = 4
    TIMED_OUT = 5


MEANINGS = """Exit codes: 0 ok; 1 the workflow failed, was cancelled, terminated or is stalled, a query or update
failed, a replay or diff found a mismatch, `doctor` found something to act upon, a dead letter was kept, or there was
nothing to do; 2 wrong usage, configuration or permissions, also arguments that the workflow rejects; 3 not found; 4 the
server cannot be reached; 5 --timeout passed."""


def exit_code(error: BaseException) -> Exit:
    """The exit code for an error."""
    match error:
        case ResultTimeoutError():
            return Exit.TIMED_OUT
        case TimeoutError() if not isinstance(error, RomancyError):
            return Exit.TIMED_OUT
        case InstanceNotFoundError() | NotThereError() | StreamMissingError():
            return Exit.NOT_FOUND
        case ServerUnavailableError() | ConnectionLostError():
            return Exit.UNREACHABLE
        case StartRejectedError():
            return Exit.USAGE
        case WorkflowError() | DeterminismError() | InstanceEndedError() | StorageError():
            return Exit.FAILED
        case QueryError() | UpdateRejectedError() | UpdateFailedError():
            return Exit.FAILED
        case RomancyError():
            return Exit.USAGE
        case _:
            return Exit.FAILED


def message(error: BaseException) -> str:
    """The error as a user reads it: one line, except where the remedy needs more."""
    text = str(error) or type(error).__name__
    if isinstance(error, AmbiguousInstanceError):
        text = text.replace("say which with workflow=", "say which with --workflow")
    if not isinstance(error, (RomancyError, TimeoutError)):
        return printable(
            f"{type(error).__name__}: {text}{_place(error)}; --log-level debug shows its traceback"
        )
    if isinstance(error, WorkflowFailedError):
        return printable(text)
    return "\n".join(map(printable, text.splitlines()))


def _place(error: BaseException) -> str:
    """The last line of code that is not a library's, else the last one."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        one for one in frames if "site-packages" not in one.filename and "romancy_nats" not in one.filename
    ]
    return f" (at {(own or frames)[-1].filename}:{(own or frames)[-1].lineno})" if frames else ""


def root_cause(error: BaseException) -> BaseException:
    """The error itself, taken out of the groups that task groups put around it."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    causes = list(map(root_cause, cast("BaseExceptionGroup[BaseException]", error).exceptions))
    return next((one for one in causes if isinstance(one, (RomancyError, TimeoutError))), causes[0])


def tell(error: BaseException) -> Exit:
    """Write the error to stderr; returns the exit code."""
    print(f"romancy: {message(error)}", file=sys.stderr)
    return exit_code(error)
