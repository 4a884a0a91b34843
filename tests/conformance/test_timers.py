"""Wake-ups that the server holds: never early, hardly late, one per instance, replaced and disarmed."""

from __future__ import annotations

import asyncio

from romancy_nats.ports import Delivery, QueueKind
from tests.conformance.stage import ACK_WAIT, Play, Stage, stored

DUE = QueueKind.DUE
TICK = 0.25
"""The server looks for what is due this often."""
BUSY = 1.0
"""What a busy machine may add."""
SECOND = 1_000_000


def soon(stage: Stage, seconds: float) -> int:
    """A due time that far from now."""
    return int((stage.first.clock.now() + seconds) * SECOND)


async def arm(stage: Stage, due: int, id: str = "a", generation: int = 0) -> None:
    stored(await stage.first.timers.arm(stage.key(id), generation, due))


async def fired(stage: Stage, within: float) -> Delivery:
    return await stage.pull_one(stage.second, DUE, within + TICK + BUSY)


def test_it_fires_at_its_time_never_early(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.make_queues(None)
        for away in (0.3, 0.617283, 1.000001):
            due = soon(stage, away)
            await arm(stage, due)
            one = await fired(stage, away)
            assert due <= one.time <= due + (TICK + BUSY) * SECOND
            assert (one.workflow, one.id, one.data) == (stage.workflow, "a", b"")
            one.ack()
        assert await stage.pull(stage.first, DUE, within=ACK_WAIT + 1) == []

    play(scenario)


def test_what_is_overdue_fires_at_once(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.make_queues(None)
        await arm(stage, soon(stage, -3600))
        (await fired(stage, 0)).ack()

    play(scenario)


def test_a_new_schedule_replaces_the_old_one_later_or_sooner(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.make_queues(None)
        await arm(stage, soon(stage, 0.5))
        later = soon(stage, 1.5)
        await arm(stage, later)
        one = await fired(stage, 1.5)
        assert one.time >= later
        one.ack()
        await arm(stage, soon(stage, 3600))
        await arm(stage, soon(stage, 0.3))
        (await fired(stage, 0.3)).ack()
        assert await stage.pull(stage.first, DUE, within=1.0) == []

    play(scenario)


def test_a_disarmed_one_does_not_fire_and_disarming_is_idempotent(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.make_queues(None)
        timers, key = stage.second.timers, stage.key()
        stored(await timers.disarm(key, 0))
        await arm(stage, soon(stage, 0.6))
        stored(await timers.disarm(key, 0))
        stored(await timers.disarm(key, 0))
        assert await stage.pull(stage.second, DUE, within=0.6 + TICK + BUSY) == []
        await arm(stage, soon(stage, 0.3))
        (await fired(stage, 0.3)).ack()
        stored(await timers.disarm(key, 0))

    play(scenario)


def test_instances_and_generations_do_not_touch_each_other(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.make_queues(None)
        strange = "näme with. dots * and >"
        for id, generation in (("a", 0), ("a", 1), (strange, 0)):
            await arm(stage, soon(stage, 0.5), id, generation)
        await arm(stage, soon(stage, 0.5), "gone")
        stored(await stage.first.timers.disarm(stage.key("gone"), 0))
        found: list[str] = []
        while len(found) < 3:
            for one in await stage.pull(stage.first, DUE, within=3.0):
                found.append(one.id)
                one.ack()
        assert sorted(found) == sorted(["a", "a", strange])
        assert await stage.pull(stage.first, DUE, within=1.0) == []

    play(scenario)


def test_several_due_messages_of_one_instance_wait_for_whoever_pulls(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        for _ in range(2):
            await arm(stage, soon(stage, 0.2))
            await asyncio.sleep(0.2 + TICK + 0.3)
        await stage.make_queues(None)
        found = list(await stage.pull(stage.first, DUE))
        while len(found) < 2:
            found += await stage.pull(stage.first, DUE)
        assert [one.id for one in found] == ["a", "a"]
        found[0].nak()
        again = await stage.pull_one(stage.first, DUE)
        assert (again.source, again.deliveries) == (found[0].source, 2)
        again.ack()
        found[1].ack()
        assert await stage.pull(stage.first, DUE, within=ACK_WAIT + 1) == []

    play(scenario)


def test_many_at_the_same_time(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.make_queues(None)
        due = soon(stage, 1.5)
        await asyncio.gather(*(arm(stage, due, f"i{n}") for n in range(200)))
        found: dict[str, int] = {}
        while len(found) < 200:
            batch = await stage.pull(stage.first, DUE, 100, within=5.0)
            assert batch, f"only {len(found)} came"
            for one in batch:
                found[one.id] = one.time
                one.ack()
        assert min(found.values()) >= due
        assert max(found.values()) <= due + (TICK + 2 * BUSY) * SECOND

    play(scenario)
