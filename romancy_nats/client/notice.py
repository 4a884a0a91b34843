"""Receives the notice that an instance rests, for a client that waits. It may be lost: the record counts."""

from __future__ import annotations

import asyncio

from romancy_nats.core.messages.outcome import Outcome, read_outcome
from romancy_nats.core.record import InstanceStatus


async def is_set_within(event: asyncio.Event, wait: float) -> bool:
    """Whether an event is set within `wait` seconds."""
    try:
        async with asyncio.timeout(wait):
            await event.wait()
    except TimeoutError:
        return False
    return True


class OutcomeNotice:
    """The notices for one start: call it with the bytes of each.

    `received` is set by a notice; `changed` is as well, and others may set it when the instance may have changed.
    """

    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        self.changed = asyncio.Event()
        self.received = asyncio.Event()

    def __call__(self, data: bytes) -> None:
        """Keep the outcome. A notice that cannot be read sets the events and nothing else."""
        self.outcome = read_outcome(data) or self.outcome
        self.changed.set()
        self.received.set()

    @property
    def result(self) -> bytes | None:
        """The result, encoded; None unless a notice brought one."""
        outcome = self.outcome
        if outcome is None or outcome.status is not InstanceStatus.COMPLETED or not outcome.has_payload:
            return None
        return outcome.payload
