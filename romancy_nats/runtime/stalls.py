"""What this worker knows of the instances that its code cannot carry on, and when their messages come again."""

from __future__ import annotations

from collections import OrderedDict

from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.record import InstanceRecord, InstanceStatus
from romancy_nats.ports import Clock

_MOST_REMEMBERED = 10_000
_TRIED_AGAIN_SECONDS = 30.0
_SHORTEST_SECONDS = 0.5
_LONGEST_SECONDS = 30.0
_SPACING_SECONDS = 0.01


class Stalls:
    """The stalled instances that this worker tried, so that their messages cost a read and no replay each."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: OrderedDict[InstanceKey, tuple[str, float]] = OrderedDict()
        self._next = 0.0

    def found(self, key: InstanceKey, reason: str) -> None:
        """This worker's code stalls the instance with this reason."""
        self._known[key] = (reason, self._clock.monotonic() + _TRIED_AGAIN_SECONDS)
        self._known.move_to_end(key)
        if len(self._known) > _MOST_REMEMBERED:
            self._known.popitem(last=False)

    def forget(self, key: InstanceKey) -> None:
        """Somebody asks for another try: the next message of the instance tries it at once."""
        self._known.pop(key, None)

    def is_known(self, key: InstanceKey, record: InstanceRecord) -> bool:
        """Whether the instance is stalled just as this worker found it a while ago: trying again tells nothing new."""
        reason, until = self._known.get(key, ("", 0.0))
        stalled = record.status is InstanceStatus.STALLED and record.error == reason
        return stalled and self._clock.monotonic() < until

    def pause(self) -> float:
        """Seconds until a message for a stalled instance comes again.

        Half a second while they are few, so that all is heard at once when it is healed, wherever that is; when they
        are many, as long as keeps it to a hundred a second.
        """
        now = self._clock.monotonic()
        turn = max(now + _SHORTEST_SECONDS, self._next + _SPACING_SECONDS)
        # Not beyond the longest: else the spacing of many would go on long after they have gone.
        self._next = min(turn, now + _LONGEST_SECONDS)
        return self._next - now
