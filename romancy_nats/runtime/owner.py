"""The protocol of what an instance needs from the worker that owns it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from romancy_nats.core.events import UpdateAnswered
from romancy_nats.core.ids import InstanceKey
from romancy_nats.ports import World
from romancy_nats.runtime.lease import Lease
from romancy_nats.runtime.pace import Pace
from romancy_nats.runtime.tuning import Tuning
from romancy_nats.runtime.workshop import Workshop

if TYPE_CHECKING:
    from romancy_nats.runtime.instance import Instance


class Owner(Protocol):
    """What an instance needs from the worker that owns it."""

    world: World
    tuning: Tuning
    lease: Lease
    workshop: Workshop
    pace: Pace

    def spawn(
        self, work: Coroutine[Any, Any, None], broke: Callable[[BaseException], None] | None = None
    ) -> asyncio.Task[None]:
        """Run something in the worker's task group; what it raises goes to `broke`, else to the log."""
        ...

    def bring_to_rest(self, instance: Instance) -> None:
        """The instance has ended, stalled, or has nothing left to wait for: bring it to rest."""

    def update_answered(self, instance: Instance, answered: UpdateAnswered) -> None:
        """Tell whoever waits for an update; it is recorded."""

    def generation_over(self, key: InstanceKey, generation: int) -> None:
        """The record names the next generation: the commits of this one are of no use any more."""

    def discard(self, instance: Instance) -> None:
        """A write was refused: the memory is worthless; look at the record again (L3)."""

    def discard_broken(self, instance: Instance, error: BaseException) -> None:
        """It can neither go on nor be brought to rest: drop it, and look at the record again after a pause (L10)."""
