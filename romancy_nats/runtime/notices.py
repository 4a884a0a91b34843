"""The notice that a worker gives a waiting client when an instance rests. It may be lost: the record counts."""

from __future__ import annotations

from romancy_nats.core.events import WorkflowCompleted, WorkflowFailed
from romancy_nats.core.messages.outcome import write_outcome
from romancy_nats.runtime.instance import Instance


def outcome(instance: Instance) -> bytes:
    """The notice for an instance at rest; without the payload when that is large."""
    payload: bytes | None = None
    match instance.execution.state.ending:
        case WorkflowCompleted(result):
            payload = result
        case WorkflowFailed(failure):
            payload = failure
        case _:
            payload = None
    return write_outcome(instance.record.status, payload)
