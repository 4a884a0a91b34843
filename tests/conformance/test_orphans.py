"""Starts that no queue takes: found, read by age, removed; never those of a queue."""

from __future__ import annotations

from romancy_nats.core.ids import encode_token
from romancy_nats.ports import QueueKind, Unclaimed
from tests.conformance.stage import ACK_WAIT, Play, Stage, stored

FUTURE = 4_000_000_000_000_000


async def waiting(stage: Stage, workflow: str | None = None) -> list[Unclaimed]:
    """Scenarios share a namespace: what others left is not ours."""
    token = encode_token(workflow or stage.workflow)
    return [one for one in await stage.first.orphans.unclaimed() if one.token == token]


async def put(stage: Stage, body: str, workflow: str | None = None) -> int:
    return stored(await stage.second.queues.start(workflow or stage.workflow, body.encode(), {"Own": body}))


def test_starts_without_a_queue_are_counted_by_workflow(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        other = f"{stage.workflow} with spaces, dots. and ÿ"
        assert await waiting(stage) == []
        for body in "12":
            await put(stage, body)
        await put(stage, "3", other)
        assert await waiting(stage) == [Unclaimed(stage.workflow, stage.workflow, 2)]
        assert await waiting(stage, other) == [Unclaimed(encode_token(other), other, 1)]

    play(scenario)


def test_a_queue_takes_its_starts_handed_out_or_not(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await put(stage, "early")
        assert await waiting(stage) != []
        await stage.make_queues(None)
        assert await waiting(stage) == []
        await stage.pull_one(stage.first, QueueKind.START)
        await put(stage, "later")
        assert await waiting(stage) == []

    play(scenario)


def test_the_oldest_comes_first_and_only_when_it_is_old_enough(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        orphans = stage.first.orphans
        assert await orphans.oldest(stage.workflow, FUTURE) is None
        first = await put(stage, "1")
        second = await put(stage, "2")
        one = await orphans.oldest(stage.workflow, FUTURE)
        assert one is not None
        assert (one.source.sequence, one.workflow, one.id, one.data) == (first, stage.workflow, "", b"1")
        assert one.headers["Own"] == "1"
        assert await orphans.oldest(stage.workflow, one.time) is None
        assert await orphans.oldest(stage.workflow, one.time + 1) is not None
        for answer in (one.ack, one.nak, one.in_progress):
            answer()  # nobody handed it out: it stays
        assert [one.starts for one in await waiting(stage)] == [2]
        await orphans.remove(one.source)
        after = await orphans.oldest(stage.workflow, FUTURE)
        assert after is not None
        assert after.source.sequence == second

    play(scenario)


def test_removing_twice_is_removing(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await put(stage, "1")
        one = await stage.first.orphans.oldest(stage.workflow, FUTURE)
        assert one is not None
        await stage.first.orphans.remove(one.source)
        await stage.second.orphans.remove(one.source)
        assert await waiting(stage) == []
        assert await stage.first.queues.fetch(one.source) is None

    play(scenario)


def test_what_is_removed_is_not_delivered_when_the_queue_comes_meanwhile(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await put(stage, "1")
        kept = await put(stage, "2")
        handed = await put(stage, "3")
        one = await stage.first.orphans.oldest(stage.workflow, FUTURE)
        assert one is not None
        await stage.make_queues(None)
        await stage.first.orphans.remove(one.source)
        found = await stage.pull_one(stage.first, QueueKind.START)
        assert found.source.sequence == kept
        found.ack()
        again = await stage.pull_one(stage.first, QueueKind.START)
        assert again.source.sequence == handed
        await stage.second.orphans.remove(again.source)
        assert await stage.pull(stage.first, QueueKind.START, within=ACK_WAIT + 1) == []

    play(scenario)
