"""The engine with one guard of L1 to L4 taken out: each function patches one. Which are tried is in `mutants`."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import pytest

from romancy_nats.ports import Refusal, Refused
from romancy_nats.runtime import claim as claim_module
from romancy_nats.runtime import intake as intake_module
from romancy_nats.runtime import rest as rest_module
from romancy_nats.runtime import showing as showing_module
from romancy_nats.runtime.claims import Claims
from romancy_nats.runtime.commits import CommitWriter
from romancy_nats.runtime.effects import Effects
from romancy_nats.runtime.engine import Engine
from romancy_nats.runtime.host import Host
from romancy_nats.runtime.instance import Instance
from romancy_nats.runtime.intake import Intake
from romancy_nats.runtime.lease import Lease
from romancy_nats.storage.records import read_record
from romancy_nats.testing.memory.ledger import Shard
from romancy_nats.testing.memory.world import MemoryChance

Patch = pytest.MonkeyPatch


# --- L1, L2, L3: one writer, commit before effect, unanswered is unknown


def commit_not_fenced(patch: Patch) -> None:
    """The ledger takes a commit whatever its fence says."""
    put = Shard.put_commit

    def unfenced(self: Any, place: Any, data: bytes, fence: int, process: str, answer: Any) -> None:
        put(self, place, data, self.revisions.last.get(place.token, 0), process, answer)

    patch.setattr(Shard, "put_commit", unfenced)


def message_claims_before_the_first_commit(patch: Patch) -> None:
    async def something(*_: Any) -> bytes:
        return b"there"

    patch.setattr("romancy_nats.runtime.messages.read_commit", something)


def conflict_is_joined(patch: Patch) -> None:
    """A start with another input counts as the same start."""

    async def swallow(self: Any, request: Any, delivery: Any) -> None:
        delivery.ack()

    patch.setattr(Intake, "_conflict", swallow)


def conflict_runs(patch: Patch) -> None:
    """A start with another input overwrites a record that has no commit yet."""
    write = intake_module.write_record

    async def over(world: Any, key: Any, record: Any, expected: int) -> Any:
        held = await read_record(world, key)
        fresh = held is not None and not held.record.commits and not held.record.status.ended
        return await write(world, key, record, held.revision if fresh and held is not None else expected)

    patch.setattr(intake_module, "write_record", over)


def effects_before_commit(patch: Patch) -> None:
    commit = Instance._commit

    def early(self: Any, batch: Any, now: int, open: bool) -> None:
        commit(self, batch, now, open)
        carry_out(self.effects, batch)

    carry_out = Effects.carry_out
    patch.setattr(Instance, "_commit", early)
    patch.setattr(Effects, "carry_out", lambda self, batch: None)


def refused_commit_counts(patch: Patch) -> None:
    """The memory is kept after a refused commit."""

    async def settle(self: Any, reply: Any) -> None:
        while reply is None:
            await asyncio.sleep(0.05)
            reply = await self._append_again()
        self._stored()

    patch.setattr(CommitWriter, "_settle", settle)


def unanswered_counts_as_stored(patch: Patch) -> None:
    settle = CommitWriter._settle

    async def hopeful(self: Any, reply: Any) -> None:
        if reply is None:
            self._stored()
        else:
            await settle(self, reply)

    patch.setattr(CommitWriter, "_settle", hopeful)


def resent_under_another_number(patch: Patch) -> None:
    async def next_number(self: Any) -> Any:
        self._sent = self._sent._replace(n=self._sent.n + 1)
        return await again(self)

    again = CommitWriter._append_again
    patch.setattr(CommitWriter, "_append_again", next_number)


def refused_record_counts_as_ours(patch: Patch) -> None:
    """A record write that is refused as stale adopts the record that is there."""
    for module in (claim_module, rest_module, showing_module):
        write = module.write_record

        async def adopt(world: Any, key: Any, record: Any, expected: int, write: Any = write) -> Any:
            reply = await write(world, key, record, expected)
            if isinstance(reply, Refused) and reply.why is Refusal.STALE:
                held = await read_record(world, key)
                return held.revision if held is not None else reply
            return reply

        patch.setattr(module, "write_record", adopt)


# --- L4: claim, then load


def claim_without_cas(patch: Patch) -> None:
    _write_without_cas(patch, claim_module)


def rest_without_cas(patch: Patch) -> None:
    _write_without_cas(patch, rest_module)


def _write_without_cas(patch: Patch, module: Any) -> None:
    """Records are written over whatever is there."""
    write = module.write_record

    async def blind(world: Any, key: Any, record: Any, expected: int) -> Any:
        while True:
            held = await read_record(world, key)
            reply = await write(world, key, record, held.revision if held is not None else 0)
            if not isinstance(reply, Refused):
                return reply
            await asyncio.sleep(0.05)

    patch.setattr(module, "write_record", blind)


def load_before_claim(patch: Patch) -> None:
    take_over, read = claim_module.take_over, claim_module.read_commits
    before: dict[Any, Any] = {}

    async def early(owner: Any, key: Any, held: Any) -> Any:
        before[owner, key] = await read(owner.world, key, held.record.generation)
        return await take_over(owner, key, held)

    async def load(owner: Any, execution: Any, record: Any, revision: int) -> Any:
        loading.set(before[owner, execution.state.key])
        return await real_load(owner, execution, record, revision)

    async def known(world: Any, key: Any, *where: Any) -> Any:
        return loading.get() if len(where) == 1 else await read(world, key, *where)

    # Not patched for the while of a call: calls overlap, and the last to end would put back what another had put.
    loading: ContextVar[Any] = ContextVar("loading")
    real_load = claim_module.load
    patch.setattr(claim_module, "take_over", early)
    patch.setattr(claim_module, "load", load)
    patch.setattr(claim_module, "read_commits", known)


def replica_is_believed(patch: Patch) -> None:
    """The history is read without asking the leader for the next number."""

    async def read(world: Any, key: Any, generation: int, first: int = 1) -> Any:
        return await world.ledger.read_history(key, generation, first, 1000)

    patch.setattr(claim_module, "read_commits", read)


def owner_is_not_asked(patch: Patch) -> None:
    """Whoever gets a message takes the instance, its owner living or not."""

    async def dead(self: Any, owner: str) -> bool:
        return False

    patch.setattr(Claims, "_alive", dead)


def incarnation_used_again(patch: Patch) -> None:
    """Whoever lost its lease takes the next one under the old name."""
    take, fresh = Lease.take, MemoryChance.id
    old: ContextVar[str] = ContextVar("old", default="")

    async def again(self: Any) -> None:
        token = old.set(self.incarnation)
        await take(self)
        old.reset(token)

    patch.setattr(Lease, "take", again)
    patch.setattr(MemoryChance, "id", lambda self: old.get() or fresh(self))


def lost_lease_drops_nothing(patch: Patch) -> None:
    """Instances are kept in memory under the incarnation that is gone."""

    async def lost(self: Any, incarnation: str) -> None:
        await self._unserve()

    async def regained(self: Any) -> None:
        token = keeping.set(True)
        await real(self)
        keeping.reset(token)

    def forgotten(self: Any, instance: Any, pause: float = 0.0) -> None:
        if not keeping.get():
            forget(self, instance, pause)

    forget = Host.discard
    keeping: ContextVar[bool] = ContextVar("keeping", default=False)
    patch.setattr(Host, "discard", forgotten)
    real = Engine._lease_regained
    patch.setattr(Engine, "_lease_lost", lost)
    patch.setattr(Engine, "_lease_regained", regained)
