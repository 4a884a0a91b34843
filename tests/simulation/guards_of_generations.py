"""The engine with one guard of `ctx.recur` taken out: each function patches one."""

from __future__ import annotations

import pytest

from romancy_nats.core.events import WorkflowRecurred
from romancy_nats.core.ids import InstanceKey
from romancy_nats.runtime import messages as messages_module
from romancy_nats.runtime.held import HeldMessages
from romancy_nats.runtime.host import Host
from romancy_nats.runtime.instance import Instance
from romancy_nats.runtime.janitor import Janitor
from romancy_nats.testing.memory.archive import MemoryArchive

Patch = pytest.MonkeyPatch


def earlier_messages_are_forgotten(patch: Patch) -> None:
    """After the end only the last history says which messages there were."""
    patch.setattr(messages_module, "inherited_message", lambda *_: False)


def acked_between_generations(patch: Patch) -> None:
    """A worker that drains there acks what it holds, as at any rest."""
    real = Host._at_rest

    def at_rest(self: Host, instance: Instance, *, let_go: bool) -> None:
        if isinstance(instance.execution.state.ending, WorkflowRecurred):
            for held in instance.held:
                held.delivery.ack()
            instance.held = HeldMessages()
        real(self, instance, let_go=let_go)

    patch.setattr(Host, "_at_rest", at_rest)


def old_histories_stay(patch: Patch) -> None:
    """Only the last generation leaves the ledger."""

    async def nothing(*_: object) -> None: ...

    async def clear_the_last(self: MemoryArchive, key: InstanceKey, revision: int) -> bool:
        shard = self._shard(key)
        last = max((place.generation for place in shard.commits if place.token == key.token), default=0)
        return await self.clear(key, last)

    patch.setattr(Janitor, "clear", nothing)
    patch.setattr(MemoryArchive, "clear_before", clear_the_last)
