"""The archive: what is copied is read again, and what is cleared from the ledger is that and nothing else."""

from __future__ import annotations

from romancy_nats.core.ids import InstanceKey
from tests.conformance.stage import Play, Stage, record, stored


async def _commit(stage: Stage, key: InstanceKey, generation: int, n: int, fence: int) -> None:
    data = f"{generation}.{n}".encode()
    stored(await stage.append(stage.first, key, n, data, fence, generation))


async def _keeps(stage: Stage, key: InstanceKey, *expected: str) -> None:
    """That is what the ledger has, once every replica knows."""

    async def there() -> bool:
        found = [await stage.first.ledger.read_history(key, generation, 1, 10) for generation in range(3)]
        return [data.decode() for history in found for data in history] == [*expected]

    await stage.until(there)


def test_clearing_one_generation_leaves_the_others(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        key, other = stage.key(), stage.key("other")
        for each in (key, other):
            fence = stored(await stage.first.ledger.write(each, record(), 0))
            for place in ((0, 1), (0, 2), (1, 1)):
                await _commit(stage, each, *place, fence)
        assert await stage.first.archive.clear(key, 0)
        await _keeps(stage, key, "1.1")
        await _keeps(stage, other, "0.1", "0.2", "1.1")
        assert await stage.first.archive.clear(key, 0), "again is as good as once"

    play(scenario)


def test_clearing_before_a_revision_leaves_what_came_later(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        key, other = stage.key(), stage.key("other")
        fence = stored(await stage.first.ledger.write(key, record(), 0))
        others = stored(await stage.first.ledger.write(other, record(), 0))
        await _commit(stage, other, 0, 1, others)
        for place in ((0, 1), (1, 1), (1, 2)):
            await _commit(stage, key, *place, fence)
        ended = stored(await stage.first.ledger.write(key, record("", 2), fence))
        again = stored(await stage.first.ledger.write(key, record(), ended))
        await _commit(stage, key, 2, 1, again)
        assert await stage.second.archive.clear_before(key, ended)
        await _keeps(stage, key, "2.1")
        await _keeps(stage, other, "0.1")
        held = await stage.first.ledger.read(key)
        assert held is not None
        assert held.revision == again

    play(scenario)


def test_what_is_stored_is_read_from_its_places(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        key, commits = stage.key(), [b"1", b"2" * 1000, b"3"]
        places = await stage.first.archive.store(key, 0, commits)
        assert places
        assert await stage.second.archive.read(places) == commits

    play(scenario)
