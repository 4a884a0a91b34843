"""Who may have an instance: claim it, forward to whoever owns it, or wait (L1, L4, L6)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import msgpack

from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.record import InstanceStatus
from romancy_nats.errors import ServerUnavailableError
from romancy_nats.ports import DeadLetter, Delivery, Held
from romancy_nats.runtime import claim
from romancy_nats.runtime.dead_letters import write_letter
from romancy_nats.runtime.host import Host
from romancy_nats.runtime.instance import Instance
from romancy_nats.storage.records import read_record

_log = logging.getLogger("romancy.worker")
_AFTER_A_REFUSAL = 60.0


class _Queue:
    """Those who want to decide about one instance."""

    __slots__ = ("lock", "wanted")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.wanted = 0


class Claims:
    """Claims of one worker, and what it forwards to the owner of an instance."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._claiming: dict[InstanceKey, _Queue] = {}

    @asynccontextmanager
    async def claiming(self, key: InstanceKey) -> AsyncGenerator[None]:
        """One message at a time decides about an instance on this worker."""
        queue = self._claiming.setdefault(key, _Queue())
        queue.wanted += 1
        try:
            async with queue.lock:
                yield
        finally:
            queue.wanted -= 1
            if not queue.wanted:
                del self._claiming[key]

    async def claim(self, key: InstanceKey, held: Held, delivery: Delivery) -> Instance | None:
        """Own and load the instance, or hand the message to its owner. None: the message has been answered."""
        host = self._host
        owner = held.record.owner
        if owner and owner != host.lease.incarnation and await self._alive(owner):
            # Beside what decides here: its owner may wait for a message that is in line behind this one.
            host.handle_soon(self._forward(key, owner, delivery), delivery)
            return None
        if not host.lease.valid() or host.draining:
            delivery.nak(0.0 if host.draining else 1.0)
            return None
        claimed = await claim.take_over(host, key, held)
        asleep = host.asleep.pop(key, None)
        if claimed is None:
            if asleep is not None:
                asleep.close()
            delivery.nak(0.1)
            return None
        record, revision = claimed
        if owner:
            _log.info("%r: taken over from %s", key, owner)
        if asleep is not None and asleep.revision == held.revision:
            # The very revision that its own rest produced: its memory is as good as a replay (L4).
            instance = asleep
            instance.wake_up(record, revision)
        else:
            if asleep is not None:
                asleep.close()
            instance = await claim.load(host, host.execution(key, record.generation), record, revision)
            if held.record.status is InstanceStatus.STALLED:
                instance.known_stall = held.record.error
        if record.owner != host.lease.incarnation or instance.dropped:
            # The lease was lost on the way: the record names a dead incarnation, which commits nothing (L10).
            instance.drop()
            delivery.nak()
            return None
        host.instances[key] = instance
        return instance

    async def known_record(self, key: InstanceKey) -> Held | None:
        """The record as it is known here without asking, if the instance rested here last, else the leader's."""
        asleep = self._host.asleep.get(key)
        if asleep is not None:
            return Held(asleep.record, asleep.revision)
        return await read_record(self._host.world, key)

    def resume(self, instance: Instance) -> None:
        """Let a loaded instance go on where its history ends."""
        if instance.stalled is not None:
            self._host.bring_to_rest(instance)
        else:
            instance.take_up(instance.execution.owed)

    async def park(self, delivery: Delivery, reason: str, id: str = "") -> None:
        """Write the dead letter, then acknowledge: nothing is lost in between (L9). `id` is the instance's."""
        id = id or delivery.id
        letter = DeadLetter(delivery.workflow, reason, delivery.data, delivery.headers, delivery.source, id)
        _log.warning(
            "message %s for %s/%s is parked: %s", delivery.source, delivery.workflow, id or "?", reason
        )
        if await write_letter(self._host.world, letter):
            delivery.ack()
        else:
            delivery.nak(_AFTER_A_REFUSAL)

    async def _alive(self, owner: str) -> bool:
        while True:
            try:
                return await self._host.world.leases.alive(owner)
            except ServerUnavailableError:
                await anyio.sleep(0.2)

    async def _forward(self, key: InstanceKey, owner: str, delivery: Delivery) -> None:
        """Tell the owner where the message is; ack only what the resting record covers (L5, L6)."""
        tuning, world = self._host.tuning, self._host.world
        source = delivery.source
        question = msgpack.packb((key.workflow, key.id, source.stream, source.sequence))
        answer = await world.wire.ask(owner, question, tuning.forward_timeout)
        commit = msgpack.unpackb(answer) if answer else 0
        if not commit:
            delivery.nak(1.0)
            return
        held = await read_record(world, key)
        at_rest = held is not None and not held.record.owner
        if at_rest and held is not None and commit <= held.record.commits:
            delivery.ack()
        else:
            delivery.nak(1.0)
