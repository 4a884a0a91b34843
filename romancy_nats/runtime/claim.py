"""Becoming the owner of an instance: compare-and-set on its record, then load its history (L4). Never the reverse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import anyio

from romancy_nats.core.commit import Commit
from romancy_nats.core.events import Skipped, WaitEnded, WaitStarted, WorkflowRecurred
from romancy_nats.core.execution import Execution
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.record import InstanceRecord, InstanceStatus
from romancy_nats.errors import PayloadError, WorkflowRuleError
from romancy_nats.ports import Held, Refused
from romancy_nats.runtime.cancellation import is_own_cancel
from romancy_nats.runtime.generations import next_record
from romancy_nats.runtime.instance import Instance
from romancy_nats.runtime.owner import Owner
from romancy_nats.storage.histories import read_commits
from romancy_nats.storage.records import microseconds, read_commit, write_record

YIELD_EVERY = 500
"""Events that a replay goes through before it lets the loop do what else there is to do."""


async def take_over(owner: Owner, key: InstanceKey, held: Held) -> tuple[InstanceRecord, int] | None:
    """Claim by compare-and-set on the revision just read; None when somebody else was faster."""
    record = held.record
    # Only a hint, read before the claim and used for nothing but counting takeovers without progress (L10).
    commits = record.commits
    if record.owner:
        commits += len(await read_commits(owner.world, key, record.generation, record.commits + 1))
    takeovers = 1 if commits > record.commits else record.takeovers + 1
    claimed = replace(
        record,
        status=InstanceStatus.COMPENSATING
        if record.status is InstanceStatus.COMPENSATING
        else InstanceStatus.RUNNING,
        owner=owner.lease.incarnation,
        commits=commits,
        takeovers=takeovers if record.owner else 0,
        started=record.started or microseconds(owner.world),
        updated=microseconds(owner.world),
        waiting_for=[],
        error="",
        error_type="",
    )
    reply = await write_record(owner.world, key, claimed, held.revision)
    return None if isinstance(reply, Refused) else (claimed, reply)


def _collect_waits(
    instance: Instance, commit: Commit, unsettled: bool, started: dict[str, WaitStarted]
) -> None:
    """What the server may not have heard of is done again (L5): ends of waits, copies of what was skipped."""
    for event in commit.events:
        if isinstance(event, WaitStarted):
            started[event.id] = event
            if not unsettled:
                instance.effects.registrations.known(event)
        elif isinstance(event, WaitEnded) and not unsettled:
            instance.effects.registrations.registered.pop(event.id, None)
        elif isinstance(event, WaitEnded) and unsettled and event.id in started:
            instance.over.append(started[event.id])
        elif isinstance(event, Skipped):
            if unsettled:
                instance.skipped.append(event)
            else:
                instance.execution.state.waiting.skipped.pop((event.stream, event.sequence), None)


async def load(owner: Owner, execution: Execution, record: InstanceRecord, revision: int) -> Instance:
    """The instance as its history says. A history that does not fit the code gives an instance that is stalled."""
    key = execution.state.key
    commits = await read_commits(owner.world, key, record.generation)
    instance = Instance(owner, key, execution, record, revision, len(commits))
    if record.generation:
        # Whoever had it before may not have come to that.
        owner.generation_over(key, record.generation - 1)
    if record.takeovers > owner.tuning.max_takeovers:
        instance.stalled = WorkflowRuleError(
            f"{record.takeovers} workers took this instance over and none got a commit further: it seems to kill "
            "its workers; look at what its next activity does, then retry"
        )
        _recognise(instance, commits)
    else:
        await _replay(instance, commits)
    if isinstance(execution.state.ending, WorkflowRecurred):
        return await _recurred(instance)
    return instance


async def _replay(instance: Instance, commits: Sequence[bytes]) -> None:
    execution, record = instance.execution, instance.record
    started: dict[str, WaitStarted] = {}
    try:
        events = 0
        for index, data in enumerate(commits):
            commit = Commit.decode(data)
            instance.last_time = max(instance.last_time, commit.time)
            execution.replay(commit, map(Commit.decode, islice(commits, index + 1, None)))
            _collect_waits(instance, commit, index >= record.settled, started)
            events += len(commit.events)
            if events >= YIELD_EVERY:
                events = 0
                await anyio.lowlevel.checkpoint()
    except BaseException as error:
        if is_own_cancel(error):
            raise
        instance.stalled = error
        _recognise(instance, commits)


async def _recurred(instance: Instance) -> Instance:
    """Its owner died between two generations: the next one, if it has begun; else it is still to begin."""
    owner, key = instance.owner, instance.key
    if await read_commit(owner.world, key, instance.record.generation + 1, 1) is None:
        return instance
    record = next_record(instance.record, commits=1)
    reply = await write_record(owner.world, key, record, instance.revision)
    instance.close()
    if isinstance(reply, Refused):
        instance.drop()
        return instance
    return await load(owner, instance.execution.following(), record, reply)


def _recognise(instance: Instance, commits: Sequence[bytes]) -> None:
    """What a history says even where its code cannot follow: the messages in it, its time, and how it ended.

    An instance that has ended needs no code: it is brought to rest as what it is, and gets no second ending.
    """
    for data in commits:
        try:
            commit = Commit.decode(data)
        except PayloadError:
            break  # a later release wrote it, or nobody
        instance.last_time = max(instance.last_time, commit.time)
        if instance.execution.recognise(commit):
            instance.stalled = None
