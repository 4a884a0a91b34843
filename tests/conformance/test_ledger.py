"""The ledger: compare-and-set, fencing, write-once, the order of the checks, reads."""

from __future__ import annotations

import asyncio

import pytest

from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.record import InstanceRecord
from romancy_nats.ports import Held, Listed, Refusal, World
from tests.conformance.stage import Play, Stage, record, stored, why


def test_a_record_is_created_once_and_replaced_by_its_revision(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        ledger, key = stage.first.ledger, stage.key()
        assert await ledger.read(key) is None
        first = stored(await ledger.write(key, record("w1"), 0))
        assert why(await stage.second.ledger.write(key, record("w2"), 0)) is Refusal.STALE
        second = stored(await stage.second.ledger.write(key, record("w2"), first))
        assert second > first
        assert why(await ledger.write(key, record("w1"), first)) is Refusal.STALE
        assert await ledger.read(key) == Held(record("w2"), second)

    play(scenario)


def test_replacing_what_is_not_there_is_stale(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        assert why(await stage.first.ledger.write(stage.key(), record(), 1)) is Refusal.STALE
        assert await stage.first.ledger.read(stage.key()) is None

    play(scenario)


def test_records_and_commits_share_one_sequence(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        key = stage.key()
        one = stored(await stage.first.ledger.write(key, record(), 0))
        two = stored(await stage.append(stage.first, key, 1, b"x", one))
        three = stored(await stage.first.ledger.write(key, record(commits=1), one))
        four = stored(await stage.append(stage.first, key, 2, b"y", three))
        assert [two, three, four] == [one + 1, one + 2, one + 3]

    play(scenario)


def test_a_commit_is_written_once(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        key = stage.key()
        fence = stored(await stage.first.ledger.write(key, record(), 0))
        stored(await stage.append(stage.first, key, 1, b"first", fence))
        assert why(await stage.append(stage.first, key, 1, b"second", fence)) is Refusal.EXISTS
        assert await stage.second.ledger.read_commit(key, 0, 1) == b"first"

    play(scenario)


def test_a_takeover_fences_the_old_owner(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        key = stage.key()
        old = stored(await stage.first.ledger.write(key, record("w1"), 0))
        stored(await stage.append(stage.first, key, 1, b"1", old))
        new = stored(await stage.second.ledger.write(key, record("w2", 1), old))
        assert why(await stage.append(stage.first, key, 2, b"zombie", old)) is Refusal.STALE
        stored(await stage.append(stage.second, key, 2, b"2", new))
        assert await stage.first.ledger.read_commit(key, 0, 2) == b"2"

    play(scenario)


def test_a_stale_fence_is_found_before_a_commit_that_exists(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        key = stage.key()
        old = stored(await stage.first.ledger.write(key, record("w1"), 0))
        stored(await stage.append(stage.first, key, 1, b"1", old))
        stored(await stage.second.ledger.write(key, record("w2", 1), old))
        assert why(await stage.append(stage.first, key, 1, b"1", old)) is Refusal.STALE

    play(scenario)


def test_a_commit_without_a_record_needs_the_fence_zero(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        key = stage.key()
        assert why(await stage.append(stage.first, key, 1, b"x", 5)) is Refusal.STALE
        stored(await stage.append(stage.first, key, 1, b"x", 0))

    play(scenario)


def test_a_commit_sent_twice_at_once(play: Play) -> None:
    """R3 calls the second stale while the first is in flight, R1 knows that it exists; both call it so later."""

    async def scenario(stage: Stage) -> None:
        key = stage.key()
        fence = stored(await stage.first.ledger.write(key, record(), 0))
        both = [stage.append_now(stage.first, key, 1, b"same", fence) for _ in range(2)]
        first, second = [await reply for reply in both]
        stored(first)
        assert why(second) is (Refusal.EXISTS if stage.replicas == 1 else Refusal.STALE)
        assert why(await stage.append(stage.first, key, 1, b"same", fence)) is Refusal.EXISTS

    play(scenario)


def test_two_claims_at_once_have_one_winner(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        key = stage.key()
        before = stored(await stage.first.ledger.write(key, record(""), 0))
        claims = [(world, record(f"w{n}")) for n, world in enumerate((stage.first, stage.second) * 3)]
        replies = await asyncio.gather(*(world.ledger.write(key, claim, before) for world, claim in claims))
        won = [n for n, reply in enumerate(replies) if isinstance(reply, int)]
        assert len(won) == 1
        assert {why(reply) for n, reply in enumerate(replies) if n not in won} == {Refusal.STALE}
        assert await stage.first.ledger.read(key) == Held(claims[won[0]][1], stored(replies[won[0]]))

    play(scenario)


def test_too_large_is_refused_and_the_connection_lives(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        key = stage.key()
        fence = stored(await stage.first.ledger.write(key, record(), 0))
        large = bytes(stage.max_payload + 1)
        assert why(await stage.append(stage.first, key, 1, large, fence)) is Refusal.TOO_LARGE
        big = record()
        big.result = "x" * (stage.max_payload + 1)
        assert why(await stage.first.ledger.write(key, big, fence)) is Refusal.TOO_LARGE
        stored(await stage.append(stage.first, key, 1, b"small", fence))

    play(scenario)


async def write_history(stage: Stage, key: InstanceKey, numbers: list[int]) -> None:
    fence = stored(await stage.first.ledger.write(key, record(), 0))
    for n in numbers:
        stored(await stage.append(stage.first, key, n, f"{n}".encode(), fence))


async def read_until(world: World, key: InstanceKey, first: int, most: int, count: int) -> list[bytes]:
    """A replica may lag, never show anything else."""
    for _ in range(200):
        found = await world.ledger.read_history(key, 0, first, most)
        if len(found) >= count:
            return found
        await asyncio.sleep(0.02)
    pytest.fail("the replica never caught up")


def test_a_history_is_read_in_order_and_in_parts(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        key = stage.key("a b/*.>é")
        await write_history(stage, key, list(range(1, 31)))
        everything = [f"{n}".encode() for n in range(1, 31)]
        assert await read_until(stage.second, key, 1, 1000, 30) == everything
        assert await read_until(stage.second, key, 5, 3, 3) == everything[4:7]
        assert await stage.second.ledger.read_history(key, 0, 31, 10) == []
        assert await stage.second.ledger.read_history(key, 1, 1, 10) == []
        assert await stage.first.ledger.read_commit(key, 0, 30) == b"30"
        assert await stage.first.ledger.read_commit(key, 0, 31) is None

    play(scenario)


def test_a_history_ends_before_a_gap(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        key = stage.key()
        await write_history(stage, key, [1, 2, 4, 5])
        assert await read_until(stage.second, key, 1, 10, 2) == [b"1", b"2"]
        assert await stage.second.ledger.read_history(key, 0, 3, 10) == []
        assert await read_until(stage.second, key, 4, 10, 2) == [b"4", b"5"]

    play(scenario)


def test_a_scan_lists_each_record_once(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        revisions = {
            key: stored(await stage.first.ledger.write(key, record(key.id), 0))
            for key in (stage.key(id) for id in ("a", "b", "ü.*"))
        }
        again = stage.key("a")
        revisions[again] = stored(await stage.first.ledger.write(again, record("a2"), revisions[again]))

        async def listed(id: str | None) -> list[Listed]:
            found = [line async for line in stage.second.ledger.scan(stage.workflow, id)]
            return sorted(found, key=lambda line: line.key.id)

        async def all_there() -> bool:
            return {line.key: line.revision for line in await listed(None)} == revisions

        await stage.until(all_there)
        assert [(line.key.id, line.record.owner) for line in await listed(None)] == [
            ("a", "a2"),
            ("b", "b"),
            ("ü.*", "ü.*"),
        ]
        assert [line.key for line in await listed("b")] == [stage.key("b")]
        assert await listed("nobody") == []
        everywhere = [line.key async for line in stage.second.ledger.scan(None, "ü.*")]
        assert stage.key("ü.*") in everywhere

    play(scenario)


def test_which_instances_have_a_record(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        there = [stage.key(f"there-{n}.*") for n in range(12)]
        for key in there:
            assert isinstance(await stage.first.ledger.write(key, InstanceRecord(), 0), int)
        missing = [stage.key(f"missing-{n}") for n in range(5)]

        async def found() -> bool:
            return set(await stage.second.ledger.existing([*missing, *there])) == set(there)

        await stage.until(found)
        assert list(await stage.second.ledger.existing([])) == []

    play(scenario)
