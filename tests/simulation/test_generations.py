"""`ctx.recur` while an instance is talked to, under faults: no message lost, none seen twice, no history left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgpack
import pytest

from romancy_nats.core import inheritance
from romancy_nats.core.events import WorkflowRecurred, WorkflowStarted
from romancy_nats.core.state import WorkflowState
from romancy_nats.runtime import generations
from romancy_nats.runtime.instance import Instance
from romancy_nats.runtime.owner import Owner
from tests.simulation.relay import Relay, random_relay, run
from tests.simulation.schedule import plan

CHUNK = 150
CHUNKS = 2
MUST_FIRE = ("crash", "pause", "lost_ack", "late_write_landed", "duplicate", "outage", "drain", "stale_read")

pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")


@pytest.mark.parametrize("first", range(0, CHUNK * CHUNKS, CHUNK))
def test_nothing_is_lost_between_generations(first: int) -> None:
    counted: Counter[str] = Counter()
    for seed in range(first, first + CHUNK):
        chosen = plan(seed)
        relay = run(random_relay(seed, chosen.faults, chosen.replicas, chosen.workers))
        assert not relay.wrong, f"seed {seed}: " + "\n".join(relay.wrong)
        counted += relay.faults.fired
        counted["generations"] += relay.generations
    assert all(counted[fault] for fault in MUST_FIRE), f"a fault never happened in this chunk: {counted}"
    assert counted["generations"] > 2 * CHUNK


def _forgets(*names: str) -> Callable[[pytest.MonkeyPatch], None]:
    """The next generation inherits all but this."""

    def change(patch: pytest.MonkeyPatch) -> None:
        real = inheritance.inherit

        def inherit(state: WorkflowState, carried: bytes) -> None:
            left = msgpack.unpackb(carried)
            left |= {name: type(left[name])() for name in names}
            real(state, msgpack.packb(left))

        patch.setattr("romancy_nats.core.execution.inherit", inherit)

    return change


def _never_looks(patch: pytest.MonkeyPatch) -> None:
    """A takeover does not look whether the next generation has begun."""

    async def none(*_: object) -> None:
        return None

    patch.setattr("romancy_nats.runtime.claim.read_commit", none)


def _too_late_is_acked(patch: pytest.MonkeyPatch) -> None:
    """Messages that came too late for a generation are acked instead of being left to the next."""
    real = generations.next_generation

    def next_generation(
        owner: Owner, instance: Instance, ending: WorkflowRecurred
    ) -> tuple[Instance, WorkflowStarted]:
        for held in instance.held:
            held.moot = held.moot or not held.commit
        return real(owner, instance, ending)

    patch.setattr("romancy_nats.runtime.host.next_generation", next_generation)


MUTANTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], int]] = {
    "unread messages are not inherited": (_forgets("unread"), 0),
    "seen messages are not inherited": (_forgets("seen", "seen_ids"), 3),
    "a takeover begins a generation twice": (_never_looks, 30),
    "what comes between two generations is lost": (_too_late_is_acked, 10),
}
"""The guard that is taken out, and the first seed that shows it, until the engine or the generator changes."""
MOST = 200


def _short(seed: int) -> Relay:
    """A mutant may turn round and round for as long as it is looked at."""
    chosen = plan(seed)
    relay = random_relay(seed, chosen.faults, chosen.replicas, chosen.workers)
    relay.trouble, relay.patience = 40.0, 40.0
    return relay


@pytest.mark.parametrize("name", MUTANTS)
def test_a_missing_guard_is_found(name: str) -> None:
    change, first = MUTANTS[name]
    for seed in range(first, first + MOST):
        with pytest.MonkeyPatch.context() as patch:
            change(patch)
            found = run(_short(seed)).wrong
        if found and not run(_short(seed)).wrong:
            return
    pytest.fail(f"{name!r} survived {MOST} seeds")
