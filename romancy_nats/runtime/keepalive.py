"""Tells the server that held messages are still being worked on (L5, L10). A task of its own; does nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from romancy_nats.core.ids import InstanceKey
from romancy_nats.runtime.instance import Instance
from romancy_nats.runtime.lease import Lease
from romancy_nats.runtime.tuning import Tuning

_CHUNK = 200


class Keepalive:
    """Sends `in_progress` for every held message, three times within its ack wait."""

    def __init__(self, tuning: Tuning, lease: Lease, instances: Mapping[InstanceKey, Instance]) -> None:
        self._tuning = tuning
        self._lease = lease
        self._instances = instances

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            await asyncio.sleep(self._tuning.ack_wait / 3)
            if self._lease.valid():
                await self._round()

    async def _round(self) -> None:
        sent = 0
        for instance in list(self._instances.values()):
            for held in instance.held:
                held.delivery.in_progress()
                sent += 1
                if sent % _CHUNK == 0:
                    # Thousands in one go would hold up the lease renewal that shares this loop.
                    await asyncio.sleep(0)
