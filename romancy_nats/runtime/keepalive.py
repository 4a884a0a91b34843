"""Tells the server that held messages are still being worked on (L5, L10). A task of its own; does nothing else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from romancy_nats.runtime.engine import Engine

_CHUNK = 200


class Keepalive:
    """Sends `in_progress` for every held message, three times within its ack wait."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            await asyncio.sleep(self._engine.tuning.ack_wait / 3)
            if self._engine.lease.valid():
                await self._round()

    async def _round(self) -> None:
        sent = 0
        for instance in list(self._engine.instances.values()):
            for held in instance.held:
                held.delivery.in_progress()
                sent += 1
                if sent % _CHUNK == 0:
                    # Thousands in one go would hold up the lease renewal that shares this loop.
                    await asyncio.sleep(0)
