"""The messages that an owned instance acknowledges when it rests, and not before (L5)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from romancy_nats.core.headers import KIND
from romancy_nats.core.record import InstanceRecord
from romancy_nats.ports import Delivery


@dataclass(slots=True)
class HeldDelivery:
    """A message that is acknowledged when the instance rests. `commit` is the one that holds it, 0 for none yet."""

    delivery: Delivery
    commit: int = 0
    moot: bool = False
    looks: int = 0
    """How often it was looked at while an earlier message of its sender was missing."""


class HeldMessages:
    """The messages of one instance that have no answer yet."""

    def __init__(self) -> None:
        self._held: list[HeldDelivery] = []

    def __iter__(self) -> Iterator[HeldDelivery]:
        return iter(self._held)

    def add(self, delivery: Delivery, commit: int = 0) -> HeldDelivery:
        """Hold a message; `commit` is the number of the commit that has it, 0 when none has it yet."""
        held = HeldDelivery(delivery, commit)
        self._held.append(held)
        return held

    def acknowledge(self, record: InstanceRecord) -> None:
        """Answer all of them after the rest: ack what a commit of this resting record holds, give back the others.

        Of one that was let go nothing is acked, that would be its only wake: so it is between two generations, too.
        """
        for held in self._held:
            if record.let_go:
                held.delivery.nak()
            elif _is_recorded(held, record) or (record.status.ended and not _needs_answer(held)) or held.moot:
                held.delivery.ack()
            else:
                held.delivery.nak()
        self._held.clear()

    def acknowledge_recorded(self, record: InstanceRecord) -> None:
        """Ack in mid-turn what the record covers since it was written just now: an instance may never rest."""
        left: list[HeldDelivery] = []
        for held in self._held:
            if _is_recorded(held, record):
                held.delivery.ack()
            else:
                left.append(held)
        self._held = left

    def give_back(self, pause: float) -> None:
        """Have all of them delivered again in `pause` seconds."""
        for held in self._held:
            held.delivery.nak(pause)
        self._held.clear()

    def move_to(self, following: HeldMessages) -> None:
        """Hand over to the next generation what a commit holds; what came too late is delivered again, to that one."""
        for held in self._held:
            if held.commit:
                # The first commit of the next generation holds it, too: which messages were seen is carried over.
                held.commit = 1
            if held.commit or held.moot:
                following._held.append(held)
            else:
                held.delivery.nak()
        self._held.clear()


def _is_recorded(held: HeldDelivery, record: InstanceRecord) -> bool:
    return 0 < held.commit <= record.commits


def _needs_answer(held: HeldDelivery) -> bool:
    """Whether it came too late for the workflow, but is not moot by its end: it is answered or parked."""
    return held.commit == 0 and held.delivery.headers.get(KIND) in ("message", "update")
