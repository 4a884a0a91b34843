"""The lease of this worker: one key, renewed by its own task. Says whether new work may begin (L10), nothing else."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import anyio

from romancy_nats.errors import ServerUnavailableError
from romancy_nats.ports import Refused, World
from romancy_nats.runtime.tuning import Tuning

_log = logging.getLogger("romancy.worker")


class Lease:
    """Ownership of a living incarnation. A lost one is never renewed: `take` makes a new incarnation (L4)."""

    def __init__(
        self,
        world: World,
        tuning: Tuning,
        lost: Callable[[str], Awaitable[None]],
        regained: Callable[[], Awaitable[None]],
    ) -> None:
        self._world = world
        self._tuning = tuning
        self._lost = lost
        self._regained = regained
        self._revision = 0
        self._valid_until = float("-inf")
        self.incarnation = ""

    def valid(self) -> bool:
        """Whether something new may begin: counted from *sending* the last renewal that was acknowledged (L10)."""
        return self._world.clock.monotonic() < self._valid_until

    async def take(self) -> None:
        """Become a new incarnation; returns once its key is acknowledged."""
        while True:
            # A fresh name for each try: a name whose key may or may not exist is never used (L3, L4).
            incarnation = self._world.chance.id()
            sent = self._world.clock.monotonic()
            try:
                reply = await self._world.leases.take(incarnation, self._tuning.lease_ttl, self._tuning.label)
            except ServerUnavailableError:
                reply = None
            if isinstance(reply, int):
                self.incarnation, self._revision = incarnation, reply
                self._valid_until = sent + self._tuning.lease_ttl
                return
            _log.warning("the lease key could not be created (%s); trying again", reply)
            await anyio.sleep(self._tuning.lease_ttl / 30)

    async def keep(self) -> None:
        """Renew for ever; when the lease is lost, say so and become a new incarnation."""
        pause = self._tuning.lease_ttl / 3
        while True:
            await anyio.sleep(pause)
            pause = await self._renew()

    async def _renew(self) -> float:
        ttl = self._tuning.lease_ttl
        sent = self._world.clock.monotonic()
        try:
            reply = await self._world.leases.renew(self.incarnation, self._revision, ttl, self._tuning.label)
        except ServerUnavailableError:
            reply = None
        if isinstance(reply, int):
            self._revision = reply
            was_valid = self.valid()
            self._valid_until = max(self._valid_until, sent + ttl)
            if not was_valid and self.valid():
                await self._regained()
            return ttl / 3
        if isinstance(reply, Refused) or not self.valid():
            # Perhaps our own renewal, its answer lost; a new incarnation is right either way (L4).
            await self._replace(str(reply))
            return ttl / 3
        return ttl / 15

    async def _replace(self, reason: str) -> None:
        old = self.incarnation
        self._valid_until = float("-inf")
        _log.warning("lease %s of this worker is lost (%s); its instances are let go", old, reason)
        await self._lost(old)
        await self.take()
        await self._regained()

    async def release(self) -> None:
        """Let everybody know that this incarnation has ended, so that nobody waits for its key to expire."""
        self._valid_until = float("-inf")
        if self.incarnation:
            await self._world.leases.release(self.incarnation)
