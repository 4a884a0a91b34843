"""From one generation of an instance to the next (`ctx.recur`), without a moment at which a crash loses it.

The end of the old generation is committed, then the first commit of the new one under the same fence, then the record
names the new generation. Whoever takes over in between finds the end, and does what is missing.
"""

from __future__ import annotations

from dataclasses import replace

from romancy_nats.core.events import WorkflowRecurred, WorkflowStarted
from romancy_nats.core.record import InstanceRecord, InstanceStatus
from romancy_nats.runtime.instance import Instance
from romancy_nats.runtime.owner import Owner


def next_record(record: InstanceRecord, commits: int = 0) -> InstanceRecord:
    """The record of the next generation: the same start and owner, another history."""
    return replace(
        record,
        generation=record.generation + 1,
        status=InstanceStatus.RUNNING,
        commits=commits,
        settled=0,
        takeovers=0,
        next_due=0,
        waiting_for=[],
    )


def next_generation(
    owner: Owner, instance: Instance, ending: WorkflowRecurred
) -> tuple[Instance, WorkflowStarted]:
    """The instance that takes the place of one that has ended, with all who wait for it, and what it begins with."""
    following = Instance(
        owner, instance.key, instance.execution.following(), next_record(instance.record), instance.revision
    )
    following.shown = False
    following.last_time = instance.last_time
    following.notify = instance.notify
    instance.held.move_to(following.held)
    started = instance.execution.following_start(ending)
    instance.fall_asleep()
    instance.rested.set_result(0)
    instance.close()
    return following, started
