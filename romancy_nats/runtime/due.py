"""Wake-ups: the server says that a resting instance has something due. One delivery in, one answer out (L8)."""

from __future__ import annotations

from romancy_nats.core.ids import InstanceKey
from romancy_nats.errors import InvalidNameError
from romancy_nats.ports import Delivery
from romancy_nats.runtime.claims import Claims
from romancy_nats.runtime.host import Host
from romancy_nats.storage.records import microseconds, read_record

_OWNED_PAUSE = 0.5
_LONGEST_OWNED_PAUSE = 30.0


class Due:
    """Handles the due messages of one worker."""

    def __init__(self, host: Host, claims: Claims) -> None:
        self._host = host
        self._claims = claims

    async def handle(self, delivery: Delivery) -> None:
        """Wake the instance, unless there is nothing left to wake it for."""
        host = self._host
        if not host.lease.valid() or host.draining:
            delivery.nak(0.0 if host.draining else 1.0)
            return
        try:
            key = InstanceKey(delivery.workflow, delivery.id)
        except InvalidNameError as error:
            await self._claims.park(delivery, str(error))
            return
        async with self._claims.claiming(key):
            await self._wake(key, delivery)

    async def _wake(self, key: InstanceKey, delivery: Delivery) -> None:
        host = self._host
        if key in host.instances:
            # Its owner's local timers are at it; only the record at rest tells whether this wake-up is used up.
            delivery.nak(_pause(delivery))
            return
        held = await read_record(host.world, key)
        if held is None or held.record.status.ended:
            delivery.ack()
            return
        record = held.record
        if record.owner:
            # The sweeper wakes it if that owner is dead; acked now, a rest that is under way could miss it (L6).
            delivery.nak(_pause(delivery))
            return
        # The server's clock fired it: that time has come, whatever the clock here says (L8).
        now = max(delivery.time, microseconds(host.world))
        if not record.next_due or record.next_due > now:
            delivery.ack()
            return
        instance = await self._claims.claim(key, held, delivery)
        if instance is None:
            return
        instance.held.add(delivery, max(1, instance.commits))
        instance.effects.fire_due(now)
        self._claims.resume(instance)


def _pause(delivery: Delivery) -> float:
    """A rest is over soon, or else it is something that takes long."""
    return min(_OWNED_PAUSE * 1.5 ** min(delivery.deliveries - 1, 20), _LONGEST_OWNED_PAUSE)
