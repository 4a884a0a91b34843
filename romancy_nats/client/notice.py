"""Where a client gets the notice that an instance rests. It may be lost, or never come: the record counts."""

from __future__ import annotations

import asyncio

from romancy_nats.core.messages.outcome import Outcome, read_outcome
from romancy_nats.core.record import InstanceStatus


async def heard(news: asyncio.Event, wait: float) -> bool:
    """Whether it came within `wait` seconds."""
    try:
        async with asyncio.timeout(wait):
            await news.wait()
    except TimeoutError:
        return False
    return True


class Notice:
    """Where the outcome of a start lands when the worker tells it."""

    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        self.news = asyncio.Event()
        self.told = asyncio.Event()

    def __call__(self, data: bytes) -> None:
        """Take what arrived."""
        self.outcome = read_outcome(data) or self.outcome
        self.news.set()
        self.told.set()

    @property
    def result(self) -> bytes | None:
        """The result, encoded, when the notice brought one."""
        outcome = self.outcome
        if outcome is None or outcome.status is not InstanceStatus.COMPLETED or not outcome.has_payload:
            return None
        return outcome.payload
