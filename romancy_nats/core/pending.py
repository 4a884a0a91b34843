"""A scheduled activity whose end is not recorded, and the error that a recorded failure is to the workflow."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from romancy_nats.core.activity import Activity
from romancy_nats.core.events import ActivityCompleted, ActivityFailed
from romancy_nats.core.failure import Failure
from romancy_nats.errors import RetryExhaustedError


@dataclass(slots=True)
class PendingActivity:
    """A scheduled activity whose end is not recorded. Times are in µs.

    `attempts` is how many failed, `heartbeat` their last details, `retry_at` when the next one may begin.
    """

    id: str
    activity: Activity[..., Any]
    input: bytes
    future: asyncio.Future[ActivityCompleted | ActivityFailed]
    began: int
    compensates: str = ""
    attempts: int = 0
    heartbeat: bytes = b""
    retry_at: int = 0


def rebuilt(activity: Activity[..., Any], event: ActivityFailed) -> BaseException:
    """What `ctx.run` raises for this failure."""
    error = Failure.decode(event.failure).rebuild(activity.errors)
    if not event.exhausted:
        return error
    exhausted = RetryExhaustedError(activity.name, event.attempt, error)
    exhausted.__cause__ = error
    return exhausted
