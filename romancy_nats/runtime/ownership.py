"""Who may have an instance: claim it, forward to whoever owns it, or wait (L1, L4, L6)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import msgpack

from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.record import InstanceStatus
from romancy_nats.errors import ServerUnavailableError
from romancy_nats.ports import DeadLetter, Delivery, Held, Source
from romancy_nats.runtime import claim
from romancy_nats.runtime.dead_letters import write_letter
from romancy_nats.runtime.instance import Instance
from romancy_nats.storage.records import read_record

if TYPE_CHECKING:
    from romancy_nats.runtime.engine import Engine

_log = logging.getLogger("romancy.worker")
_AFTER_A_REFUSAL = 60.0


class _Queue:
    """Those who want to decide about one instance."""

    __slots__ = ("lock", "wanted")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.wanted = 0


class Ownership:
    """Claims and forwards of one worker."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
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
        engine = self.engine
        owner = held.record.owner
        if owner and owner != engine.lease.incarnation and await self._alive(owner):
            # Beside what decides here: its owner may wait for a message that is in line behind this one.
            engine.handle_soon(self._forward(key, owner, delivery), delivery)
            return None
        if not engine.lease.valid() or engine.draining:
            delivery.nak(0.0 if engine.draining else 1.0)
            return None
        claimed = await claim.take_over(engine, key, held)
        asleep = engine.asleep.pop(key, None)
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
            instance = await claim.load(engine, engine.execution(key, record.generation), record, revision)
            if held.record.status is InstanceStatus.STALLED:
                instance.known_stall = held.record.error
        if record.owner != engine.lease.incarnation or instance.dropped:
            # The lease was lost on the way: the record names a dead incarnation, which commits nothing (L10).
            instance.drop()
            delivery.nak()
            return None
        engine.instances[key] = instance
        return instance

    async def held(self, key: InstanceKey) -> Held | None:
        """The record as it is known here without asking, if the instance rested here last, else the leader's."""
        asleep = self.engine.asleep.get(key)
        if asleep is not None:
            return Held(asleep.record, asleep.revision)
        return await read_record(self.engine.world, key)

    def go_on(self, instance: Instance) -> None:
        """Let a loaded instance go on where its history ends."""
        if instance.stalled is not None:
            self.engine.turn_over(instance)
        else:
            instance.take_up(instance.execution.owed)

    async def park(self, delivery: Delivery, reason: str, id: str = "") -> None:
        """Write the dead letter, then acknowledge: nothing is lost in between (L9). `id` is the instance's."""
        id = id or delivery.id
        letter = DeadLetter(delivery.workflow, reason, delivery.data, delivery.headers, delivery.source, id)
        _log.warning(
            "message %s for %s/%s is parked: %s", delivery.source, delivery.workflow, id or "?", reason
        )
        if await write_letter(self.engine.world, letter):
            delivery.ack()
        else:
            delivery.nak(_AFTER_A_REFUSAL)

    async def _alive(self, owner: str) -> bool:
        while True:
            try:
                return await self.engine.world.leases.alive(owner)
            except ServerUnavailableError:
                await anyio.sleep(0.2)

    async def _forward(self, key: InstanceKey, owner: str, delivery: Delivery) -> None:
        """Tell the owner where the message is; ack only what the resting record covers (L5, L6)."""
        tuning, world = self.engine.tuning, self.engine.world
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

    async def answer(self, question: bytes) -> bytes:
        """Another worker forwards a message to this one: commit it at once, answer once the instance rests."""
        workflow, id, stream, sequence = msgpack.unpackb(question)
        try:
            delivery = await self.engine.world.queues.fetch(Source(stream, sequence))
        except ServerUnavailableError:
            delivery = None
        if delivery is None:
            return msgpack.packb(0)
        key = InstanceKey(workflow, id)
        await self.engine.handle(delivery)
        instance = self.engine.instances.get(key)
        if instance is None:
            return msgpack.packb(0)
        commits = await asyncio.shield(instance.rested)
        known = (stream, sequence) in instance.execution.seen
        return msgpack.packb(commits if known else 0)
