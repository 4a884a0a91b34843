"""Finds what nobody wakes: records whose owner's lease is gone, stalled ones that newer code may heal (L6)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping

from romancy_nats.core.headers import KIND
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.messages.envelope import Message
from romancy_nats.core.record import InstanceStatus
from romancy_nats.errors import ConnectionLostError, RomancyError
from romancy_nats.ports import Listed, Source
from romancy_nats.runtime.host import Host

_log = logging.getLogger("romancy.worker")
_PATIENCE = 0.5
"""Seconds that a published wake has before the sweeper takes over by itself; up to twice that: workers differ."""


_OVERDUE = 2.0
"""Seconds past its due time from which on a wake-up counts as lost."""


class OwnWake:
    """Implements `ports.Delivery`: a resume that no queue holds. Its answers do nothing; the published one remains."""

    def __init__(self, key: InstanceKey, now: float) -> None:
        self.source = Source("", 0)
        self.workflow = key.workflow
        self.id = key.id
        self.headers: Mapping[str, str] = {KIND: "resume"}
        self.data = b""
        self.deliveries = 1
        self.time = int(now * 1_000_000)

    def ack(self) -> None: ...
    def nak(self, delay: float = 0.0) -> None: ...
    def in_progress(self) -> None: ...


class Sweeper:
    """Publishes a `resume` message for each instance that needs one; the message does the rest."""

    def __init__(self, host: Host, wake: Callable[[InstanceKey], None]) -> None:
        """`wake` makes this worker look at the record of an instance itself."""
        self._host = host
        self._wake_here = wake
        self._alive: dict[str, bool] = {}

    async def run(self) -> None:
        """Sweep now and then, until cancelled; spread out, so that workers do not sweep in step."""
        every = self._host.tuning.sweep_every
        while True:
            await self._sweep_guarded(None)
            await asyncio.sleep(every * (0.5 + self._host.world.chance.number()))

    async def watch_deaths(self) -> None:
        """Look at once when a lease goes away."""
        async with asyncio.TaskGroup() as group:
            async for incarnation in self._deaths():
                # One of the workers is enough, and all may try: the message id makes it one.
                await self._sweep_guarded(incarnation)
                group.create_task(self._adopt_guarded(incarnation))

    async def _deaths(self) -> AsyncIterator[str]:
        while True:
            try:
                async for incarnation in self._host.world.leases.deaths():
                    yield incarnation
            except ConnectionLostError:
                await asyncio.sleep(_PATIENCE)

    async def _adopt_guarded(self, incarnation: str) -> None:
        """Take over what is still there after a while: its message may have gone to a worker that is frozen."""
        await asyncio.sleep(_PATIENCE * (1.0 + self._host.world.chance.number()))
        try:
            await self._adopt(incarnation)
        except RomancyError as error:
            _log.warning("a takeover was cut short (%s); redelivery makes up for it", error)

    async def _adopt(self, incarnation: str) -> None:
        for name in self._host.workflows:
            async for listed in self._host.world.ledger.scan(name):
                if listed.record.owner == incarnation and await self._needs_a_wake(listed, incarnation):
                    self._wake_here(listed.key)

    async def _sweep_guarded(self, only: str | None) -> None:
        try:
            await self._sweep(only)
        except RomancyError as error:
            _log.warning("a sweep was cut short (%s); the next one makes up for it", error)

    async def _sweep(self, only: str | None) -> None:
        self._alive.clear()
        for name in self._host.workflows:
            async for listed in self._host.world.ledger.scan(name):
                await self._wake_guarded(listed, only)

    async def _wake_guarded(self, listed: Listed, only: str | None) -> None:
        try:
            if await self._needs_a_wake(listed, only):
                await self._wake(listed)
        except RomancyError:
            raise
        except Exception:  # noqa: BLE001 - a loop boundary: one record does not hide the others
            _log.exception("the sweep cannot judge %r", listed.key)

    async def _needs_a_wake(self, listed: Listed, only: str | None) -> bool:
        record = listed.record
        if record.status.ended:
            if only is None and not record.sealed:
                # Its worker died before it was archived, or had too many of them to remember.
                self._host.janitor.ended(listed.key)
            return False
        if listed.key in self._host.instances:
            return False
        if only is None and record.owner == self._host.lease.incarnation:
            # Ours, and not in memory: that was dropped, or its claim was cut short, with no message that comes again.
            return True
        if record.owner:
            return (only is None or record.owner == only) and not await self._is_alive(record.owner)
        if only is None and record.let_go and record.commits:
            # Let go by a drain. The message it was given back for may be gone: queues can be purged, the ledger not.
            return True
        if only is None and record.next_due:
            return await self._is_overdue(listed)
        if only is not None or record.status is not InstanceStatus.STALLED:
            return False
        return bool(record.code) and record.code != self._host.workflows[listed.key.workflow].code

    async def _is_overdue(self, listed: Listed) -> bool:
        """A promise is kept by the schedule that the server holds; one that may be lost is armed again (L8)."""
        away = listed.record.next_due / 1_000_000 - self._host.world.clock.now()
        if away < -_OVERDUE:
            return True
        if away < 2 * self._host.tuning.sweep_every:
            await self._host.world.timers.arm(listed.key, listed.record.generation, listed.record.next_due)
        return False

    async def _is_alive(self, owner: str) -> bool:
        known = self._alive.get(owner)
        if known is None:
            known = self._alive[owner] = await self._host.world.leases.alive(owner)
        return known

    async def _wake(self, listed: Listed) -> None:
        kind = "retry" if listed.record.status is InstanceStatus.STALLED else "resume"
        code = self._host.workflows[listed.key.workflow].code if kind == "retry" else ""
        message_id = f"sweep:{listed.revision}:{code}"
        await self._host.world.queues.send(Message(listed.key, kind, message_id=message_id))
