"""Bringing an instance to rest: one CAS write is the last write of a turn (L6), then the acks (L5)."""

from __future__ import annotations

import base64
import logging
from dataclasses import replace

from romancy_nats.core.events import WorkflowCancelled, WorkflowCompleted, WorkflowFailed, WorkflowTerminated
from romancy_nats.core.failure import Failure
from romancy_nats.core.record import LONGEST_ERROR, InstanceRecord, InstanceStatus
from romancy_nats.ports import Refused
from romancy_nats.runtime.instance import Instance
from romancy_nats.runtime.writing import microseconds, write_record

_log = logging.getLogger("romancy.worker")


def resting_record(instance: Instance, *, let_go: bool = False) -> InstanceRecord:
    """What the record says once nobody owns the instance."""
    owner = instance.owner
    now = microseconds(owner.world)
    rested = replace(instance.record, owner="", commits=instance.commits, updated=now, takeovers=0, code="")
    if let_go:
        return replace(rested, status=InstanceStatus.QUEUED)
    ending = instance.execution.ending
    if instance.stalled is not None:
        text = f"{instance.stalled}"[:LONGEST_ERROR]
        code = instance.execution.workflow.code
        kind = type(instance.stalled).__name__
        return replace(rested, status=InstanceStatus.STALLED, error=text, error_type=kind, code=code)
    match ending:
        case WorkflowCompleted(result):
            inline = base64.b64encode(result).decode() if len(result) <= owner.tuning.inline_result else ""
            return replace(rested, status=InstanceStatus.COMPLETED, ended=now, result=inline)
        case WorkflowFailed(failure):
            told = Failure.decode(failure)
            kind, text = told.error_type, told.message[:LONGEST_ERROR]
            return replace(rested, status=InstanceStatus.FAILED, ended=now, error=text, error_type=kind)
        case WorkflowCancelled(reason):
            return replace(rested, status=InstanceStatus.CANCELLED, ended=now, error=reason)
        case WorkflowTerminated(reason):
            return replace(rested, status=InstanceStatus.TERMINATED, ended=now, error=reason)
        case None:
            text = (
                "the workflow waits for nothing that could ever wake it; cancel it, or retry with other code"
            )
            code = instance.execution.workflow.code
            return replace(
                rested, status=InstanceStatus.STALLED, error=text, error_type="WorkflowRuleError", code=code
            )


async def rest(instance: Instance, *, let_go: bool = False) -> bool:
    """Write the resting record; then acknowledge what its history holds. False when we were no longer the owner."""
    record = resting_record(instance, let_go=let_go)
    reply = await write_record(instance.owner.world, instance.key, record, instance.revision)
    if isinstance(reply, Refused):
        _log.warning("%r: its record is no longer ours (%s)", instance.key, reply)
        return False
    instance.record, instance.revision = record, reply
    return True


def acknowledge(instance: Instance, *, let_go: bool = False) -> None:
    """Answer the messages that the instance held: ack what a commit holds, give back the rest (L5)."""
    ended = instance.record.status.ended
    for held in instance.held:
        if let_go:
            held.delivery.nak()
        elif 0 < held.commit <= instance.record.commits or ended:
            held.delivery.ack()
        else:
            held.delivery.nak(1.0)
    instance.held.clear()
    if not instance.rested.done():
        # A forward that is told of a let-go would ack the only wake of an instance that nobody owns.
        instance.rested.set_result(0 if let_go else instance.record.commits)
