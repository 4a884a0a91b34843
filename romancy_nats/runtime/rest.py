"""Bringing an instance to rest: one CAS write is the last write of a turn (L6), then the acks (L5)."""

from __future__ import annotations

import asyncio
import base64
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from romancy_nats.core.error_text import is_one_of
from romancy_nats.core.events import (
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowFailed,
    WorkflowRecurred,
    WorkflowTerminated,
)
from romancy_nats.core.failure import Failure
from romancy_nats.core.limits import shortened
from romancy_nats.core.record import LONGEST_ERROR, InstanceRecord, InstanceStatus
from romancy_nats.core.waits import EVENT
from romancy_nats.errors import RomancyError, WorkflowRuleError
from romancy_nats.ports import Refused, WriteReply
from romancy_nats.runtime.alarms import next_due
from romancy_nats.storage.records import microseconds, write_record

if TYPE_CHECKING:
    from romancy_nats.runtime.instance import Instance

_log = logging.getLogger("romancy.worker")

_MOST_NAMES = 50
_LONGEST_NAME = 400
_NOTHING_WAKES_IT = (
    "the workflow waits for nothing that could ever wake it; cancel it, or retry with other code"
)
_PAUSE = 0.1
_LONGEST_PAUSE = 5.0


def resting_record(instance: Instance, *, let_go: bool = False) -> InstanceRecord:
    """What the record says once nobody owns the instance."""
    owner = instance.owner
    now = microseconds(owner.world)
    rested = replace(
        instance.record,
        owner="",
        commits=instance.commits,
        settled=instance.commits,
        updated=now,
        takeovers=0,
        next_due=0,
        code="",
        skipped=instance.execution.state.waiting.skips,
    )
    ending = instance.execution.state.ending
    if instance.stalled is not None and not let_go:
        return _stalled(rested, instance)
    if let_go or isinstance(ending, WorkflowRecurred):
        # Also between two generations: whoever takes it up begins the next one.
        return replace(rested, status=InstanceStatus.QUEUED)
    match ending:
        case WorkflowCompleted(result):
            inline = base64.b64encode(result).decode() if len(result) <= owner.tuning.inline_result else ""
            return replace(rested, status=InstanceStatus.COMPLETED, ended=now, result=inline)
        case WorkflowFailed(failure):
            told = Failure.decode(failure)
            kind, text = told.error_type, shortened(told.message, LONGEST_ERROR)
            return replace(rested, status=InstanceStatus.FAILED, ended=now, error=text, error_type=kind)
        case WorkflowCancelled(reason):
            return replace(rested, status=InstanceStatus.CANCELLED, ended=now, error=reason)
        case WorkflowTerminated(reason):
            return replace(rested, status=InstanceStatus.TERMINATED, ended=now, error=reason)
        case None if instance.execution.state.waits:
            return _waiting(rested, instance)
        case None:
            return _stalled(rested, instance)


def _stalled(rested: InstanceRecord, instance: Instance) -> InstanceRecord:
    kind, text = stall_reason(instance.stalled)
    return replace(
        rested,
        status=InstanceStatus.STALLED,
        error=text,
        error_type=kind,
        code=instance.execution.workflow.code,
        # What it asked for last may not have begun: whoever heals it begins that again.
        settled=instance.record.settled,
    )


def _waiting(rested: InstanceRecord, instance: Instance) -> InstanceRecord:
    """At rest until something comes: the status is that of the wait issued first, a bare timer if there is no other."""
    waits = [wait.started for wait in instance.execution.state.waiting.open.values()]
    names = [f"{wait.kind}:{wait.name}" + (f"/{wait.key}" if wait.keyed else "") for wait in waits]
    names += list(instance.execution.state.timers) + [
        f"retry:{id}" for id in instance.execution.state.activities
    ]
    status = InstanceStatus.WAITING_FOR_TIMER
    if waits:
        status = (
            InstanceStatus.WAITING_FOR_EVENT if waits[0].kind == EVENT else InstanceStatus.WAITING_FOR_MESSAGE
        )
    if instance.execution.root.delayed:
        status, names = InstanceStatus.QUEUED, ["start"]
    if rested.status is InstanceStatus.COMPENSATING:
        status = InstanceStatus.COMPENSATING
    return replace(
        rested,
        status=status,
        waiting_for=[shortened(name, _LONGEST_NAME) for name in names[:_MOST_NAMES]],
        next_due=next_due(instance.execution.state),
    )


def stall_reason(error: BaseException | None) -> tuple[str, str]:
    """The class of what an instance is stalled by, and the reason: its text, and where it was raised.

    An error of this package explains itself. None: the instance waits for nothing.
    """
    if error is None:
        return WorkflowRuleError.__name__, _NOTHING_WAKES_IT
    failure = Failure.of(error)
    if is_one_of(error, (RomancyError,)):
        return failure.error_type, shortened(failure.message, LONGEST_ERROR)
    reason = f"{failure.error_type}: {shortened(failure.message, LONGEST_ERROR // 4)}\n"
    return failure.error_type, shortened(
        reason + failure.traceback[len(reason) - LONGEST_ERROR :], LONGEST_ERROR
    )


async def settle_effects(instance: Instance) -> None:
    """What has to be on the server before the rest (L5): registrations, and the wake-up for the earliest timer."""
    if instance.execution.state.ending is not None:
        instance.effects.registrations.end_all()
    await instance.effects.registrations.done()
    await instance.effects.skipped.done()
    due = next_due(instance.execution.state) if instance.waits else 0
    pause = _PAUSE
    while (due or instance.record.next_due) and not instance.dropped:
        reply = await _promise(instance, due)
        if isinstance(reply, int) or not due or instance.woken:
            return
        if isinstance(reply, Refused):
            # It stays here, where its timers run without the server.
            _log.warning("%r cannot rest, its timer is refused: %s", instance.key, reply.text)
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


async def _promise(instance: Instance, due: int) -> WriteReply:
    timers, generation = instance.owner.world.timers, instance.record.generation
    if due:
        return await timers.arm(instance.key, generation, due)
    # One that fires all the same finds nothing to do.
    return await timers.disarm(instance.key, generation)


async def rest(instance: Instance, *, let_go: bool = False) -> bool:
    """Write the resting record; then acknowledge what its history holds. False when we were no longer the owner."""
    record = resting_record(instance, let_go=let_go)
    reply = await write_record(instance.owner.world, instance.key, record, instance.revision)
    if isinstance(reply, Refused):
        _log.warning("%r: its record is no longer ours (%s)", instance.key, reply)
        return False
    instance.record, instance.revision = record, reply
    return True
