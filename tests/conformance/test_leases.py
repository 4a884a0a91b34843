"""Lease keys: take, renew, expire, release, and the news of it."""

from __future__ import annotations

import asyncio

from romancy_nats.ports import Refusal
from tests.conformance.stage import Play, Stage, stored, why


def test_a_lease_is_taken_once_and_renewed_by_its_revision(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        leases, me = stage.first.leases, f"{stage.name}-1"
        assert not await leases.alive(me)
        first = stored(await leases.take(me, 5, "label"))
        assert why(await stage.second.leases.take(me, 5, "other")) is Refusal.STALE
        second = stored(await leases.renew(me, first, 5, "label"))
        assert second > first
        assert why(await leases.renew(me, first, 5, "label")) is Refusal.STALE
        assert await stage.second.leases.alive(me)

    play(scenario)


def test_a_lease_ends_not_early_and_hardly_late(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        leases, me = stage.first.leases, f"{stage.name}-1"
        taken = stored(await leases.take(me, 1, "label"))

        async def gone() -> bool:
            return not await stage.second.leases.alive(me)

        assert 0.95 <= await stage.until(gone) < 2.5
        assert why(await leases.renew(me, taken, 1, "label")) is Refusal.STALE
        assert why(await leases.take(me, 1, "label")) is Refusal.STALE

    play(scenario)


def test_a_renewed_lease_lives_on(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        leases, me = stage.first.leases, f"{stage.name}-1"
        revision = stored(await leases.take(me, 2, "label"))
        for _ in range(5):
            await asyncio.sleep(0.6)
            revision = stored(await leases.renew(me, revision, 2, "label"))
        assert await stage.second.leases.alive(me)

    play(scenario)


def test_a_fraction_of_a_second_is_not_cut_off(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        me = f"{stage.name}-1"
        stored(await stage.first.leases.take(me, 1.5, "label"))
        await asyncio.sleep(1.45)
        assert await stage.second.leases.alive(me)

    play(scenario)


def test_a_released_lease_is_gone_at_once(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        leases, me = stage.first.leases, f"{stage.name}-1"
        revision = stored(await leases.take(me, 30, "label"))
        await leases.release(me)
        assert not await stage.second.leases.alive(me)
        assert why(await leases.renew(me, revision, 30, "label")) is Refusal.STALE
        assert why(await leases.take(me, 30, "label")) is Refusal.STALE

    play(scenario)


def test_deaths_tells_of_expiry_and_release(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        told: set[str] = set()

        async def listen() -> None:
            async for incarnation in stage.second.leases.deaths():
                told.add(incarnation)

        async def heard_probe() -> bool:
            # Nothing says when the watch began: a released key that is heard of does.
            probe = f"{stage.name}-p{len(told)}"
            await stage.first.leases.release(probe)
            return probe in told

        stage.spawn(listen())
        await stage.until(heard_probe)
        stored(await stage.first.leases.take(f"{stage.name}-expires", 1, ""))
        stored(await stage.first.leases.take(f"{stage.name}-lives", 30, ""))
        stored(await stage.first.leases.take(f"{stage.name}-released", 30, ""))
        await stage.first.leases.release(f"{stage.name}-released")

        async def all_told() -> bool:
            return {f"{stage.name}-expires", f"{stage.name}-released"} <= told

        await stage.until(all_told)
        assert f"{stage.name}-lives" not in told

    play(scenario)
