"""Whether something that arrived is for the workflow to see now, later, or not at all. Looks only."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from romancy_nats.core.events import (
    ActivityAttemptFailed,
    ActivityCompleted,
    ActivityFailed,
    Delivered,
    EventReceived,
    MessageReceived,
    TimerFired,
)
from romancy_nats.core.state import WorkflowState
from romancy_nats.runtime.held import HeldDelivery

if TYPE_CHECKING:
    from romancy_nats.runtime.instance import Instance

LONGEST_GAP = 3
"""Times the ack wait: so long an earlier message of the same sender is waited for, from when the later one is there.
Its age does not count: both may have waited for hours, and come back from their naks in any order."""
LOOKS_PER_WAIT = 4


def is_moot(state: WorkflowState, event: Delivered) -> bool:
    """Whether nobody waits for it any more: a late result, a timer that was stopped, a wait that is over."""
    if isinstance(event, ActivityCompleted | ActivityFailed | ActivityAttemptFailed):
        return event.id not in state.activities
    if isinstance(event, TimerFired):
        return event.id not in state.timers
    if isinstance(event, EventReceived):
        return event.wait not in state.waiting.open
    return False


def is_early(instance: Instance, event: Delivered, held: HeldDelivery) -> bool:
    """Whether an earlier message of the same sender is still on its way; one that is lost is not waited for."""
    if not isinstance(event, MessageReceived) or not event.order:
        return False
    if held.looks >= LONGEST_GAP * LOOKS_PER_WAIT:
        return False
    return instance.execution.state.waiting.out_of_order(event.sender, event.order)


def is_over(
    event: Delivered,
) -> TypeGuard[ActivityCompleted | ActivityFailed | ActivityAttemptFailed]:
    """Whether it says that the attempts of an activity have come to an end, for good or until their next time."""
    if isinstance(event, ActivityAttemptFailed):
        return bool(event.retry_at)
    return isinstance(event, ActivityCompleted | ActivityFailed)
