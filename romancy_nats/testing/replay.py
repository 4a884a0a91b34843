"""Replay of a history without a server: does this code still give what was recorded? Nothing is carried out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from romancy_nats.core.definition import Workflow
from romancy_nats.core.events import (
    Ending,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowFailed,
    WorkflowRecurred,
    WorkflowTerminated,
)
from romancy_nats.core.execution import Execution
from romancy_nats.core.history import History, event_count
from romancy_nats.core.record import InstanceStatus
from romancy_nats.errors import ConfigurationError

_STATUS: dict[type[Ending], InstanceStatus] = {
    WorkflowCompleted: InstanceStatus.COMPLETED,
    WorkflowFailed: InstanceStatus.FAILED,
    WorkflowCancelled: InstanceStatus.CANCELLED,
    WorkflowTerminated: InstanceStatus.TERMINATED,
    WorkflowRecurred: InstanceStatus.RUNNING,
}


@dataclass(slots=True, frozen=True)
class Replayed:
    """A replay without a mismatch. `pending` are the ids of activities and timers that the history leaves open."""

    workflow: str
    id: str
    generation: int
    commits: int
    events: int
    status: InstanceStatus
    pending: tuple[str, ...]


def replay(
    workflow: Workflow[..., Any], history: History | Path | str | bytes | Mapping[str, object]
) -> Replayed:
    """Replay a history: a History, the path of a JSON file, JSON text, or what `json.load` made of it.

    Raises DeterminismError with the expected and the produced command and the source line when the code gives other
    commands than were recorded, PayloadError when it is no history, ConfigurationError when it is one of another
    workflow.
    """
    known = read_history(history)
    if known.key.workflow != workflow.name:
        raise ConfigurationError(
            f"this is a history of workflow {known.key.workflow!r}, not of {workflow.name!r}; "
            f"a workflow that was renamed keeps its histories with @workflow(name={known.key.workflow!r})"
        )
    execution = Execution(workflow, known.key, generation=known.generation, worker_id="replay")
    try:
        for n, commit in enumerate(known.commits, 1):
            execution.replay(commit, islice(known.commits, n, None))
        status = (
            InstanceStatus.RUNNING
            if execution.state.ending is None
            else _STATUS[type(execution.state.ending)]
        )
        pending = (*execution.state.activities, *execution.state.timers)
    finally:
        execution.evict()
    counted = len(known.commits), event_count(known.commits)
    return Replayed(known.key.workflow, known.key.id, known.generation, *counted, status, pending)


def read_history(history: History | Path | str | bytes | Mapping[str, object]) -> History:
    """The history that any of these stands for. Text is JSON when it begins with a brace, else a path."""
    if isinstance(history, History):
        return history
    if isinstance(history, Mapping):
        return History.from_plain(history)
    if isinstance(history, bytes) or (isinstance(history, str) and history.lstrip().startswith("{")):
        return History.from_json(history)
    try:
        text = Path(history).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"cannot read the history {str(history)!r}: {error.strerror}") from error
    return History.from_json(text)
