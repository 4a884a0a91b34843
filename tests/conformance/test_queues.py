"""The work queues: delivery, answers, redelivery, limits, deduplication, parking."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from romancy_nats.core.messages.envelope import Message
from romancy_nats.ports import DeadLetter, Delivery, QueueKind, Refusal, Source, WriteReply
from tests.conformance.stage import ACK_WAIT, Play, Stage, stored, why

START, MESSAGE = QueueKind.START, QueueKind.MESSAGE
SETTLED = 0.3
"""After this long an unanswered ack has arrived."""


async def put(stage: Stage, *bodies: str) -> list[int]:
    return [stored(await stage.first.queues.start(stage.workflow, body.encode(), {})) for body in bodies]


def places(found: Sequence[Delivery]) -> list[tuple[int, int]]:
    return [(one.source.sequence, one.deliveries) for one in found]


def test_a_start_is_delivered_once_and_gone_after_the_ack(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.make_queues(None)
        headers = {"Romancy-Instance-Id": "x", "Own": "é"}
        sequence = stored(await stage.first.queues.start(stage.workflow, b"body", headers))
        one = await stage.pull_one(stage.second, START)
        assert (one.workflow, one.id, one.data, one.deliveries) == (stage.workflow, "", b"body", 1)
        assert {name: one.headers[name] for name in headers} == headers
        assert one.source.sequence == sequence
        assert abs(one.time / 1e6 - stage.first.clock.now()) < 5
        one.ack()
        assert await stage.pull(stage.first, START, within=ACK_WAIT + 1) == []
        assert await stage.first.queues.fetch(one.source) is None

    play(scenario)


def test_messages_come_in_order_up_to_most(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.make_queues(None)
        first, second, third = await put(stage, "1", "2", "3")
        found = list(await stage.pull(stage.first, START, 2))
        while len(found) < 2:
            found += await stage.pull(stage.first, START, 2 - len(found))
        assert places(found) == [(first, 1), (second, 1)]
        assert places(await stage.pull(stage.first, START, 2)) == [(third, 1)]

    play(scenario)


def test_what_was_published_before_the_queue_exists_is_delivered(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        (sequence,) = await put(stage, "early")
        await stage.make_queues(None)
        assert (await stage.pull_one(stage.first, START)).source.sequence == sequence

    play(scenario)


def test_an_unacked_message_comes_again_after_ack_wait(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.make_queues(None)
        await put(stage, "1")
        first = await stage.pull_one(stage.first, START)
        assert await stage.pull(stage.second, START, within=ACK_WAIT - 0.5) == []
        again = await stage.pull_one(stage.second, START)
        assert (again.source, again.deliveries) == (first.source, 2)
        first.ack()  # any delivery's ack is the message's
        assert await stage.pull(stage.second, START, within=ACK_WAIT + 1) == []

    play(scenario)


def test_nak_brings_it_back_at_once_or_after_the_delay(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.make_queues(None)
        await put(stage, "1")
        loop = asyncio.get_running_loop()
        (await stage.pull_one(stage.first, START)).nak()
        second = await stage.pull_one(stage.first, START, within=1)
        assert second.deliveries == 2
        began = loop.time()
        second.nak(0.8)
        third = await stage.pull_one(stage.second, START)
        assert third.deliveries == 3
        assert loop.time() - began >= 0.75

    play(scenario)


def test_in_progress_restarts_the_wait(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.make_queues(None)
        await put(stage, "1")
        one = await stage.pull_one(stage.first, START)
        for _ in range(4):
            await asyncio.sleep(ACK_WAIT / 2)
            one.in_progress()
        assert await stage.pull(stage.second, START, within=ACK_WAIT / 2) == []
        assert (await stage.pull_one(stage.second, START)).deliveries == 2

    play(scenario)


def test_in_progress_ends_the_delay_of_a_nak_too(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.make_queues(None)
        await put(stage, "1")
        one = await stage.pull_one(stage.first, START)
        one.nak(0.5)
        one.in_progress()
        assert await stage.pull(stage.second, START, within=ACK_WAIT - 0.5) == []
        assert (await stage.pull_one(stage.second, START)).deliveries == 2

    play(scenario)


def test_an_ack_after_a_nak_still_ends_it(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.make_queues(None)
        await put(stage, "1")
        one = await stage.pull_one(stage.first, START)
        one.nak(0.5)
        one.ack()
        assert await stage.pull(stage.second, START, within=1.5) == []

    play(scenario)


def test_what_comes_again_comes_first(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.make_queues(1)
        first, second = await put(stage, "1", "2")
        (await stage.pull_one(stage.first, START)).nak()
        await asyncio.sleep(SETTLED)
        again = await stage.pull_one(stage.first, START)
        assert (again.source.sequence, again.deliveries) == (first, 2)
        again.ack()
        assert (await stage.pull_one(stage.first, START)).source.sequence == second

    play(scenario)


def test_starts_at_work_are_limited_messages_are_not(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.make_queues(2)
        await put(stage, "1", "2", "3", "4")
        one, two = await stage.pull_one(stage.first, START), await stage.pull_one(stage.first, START)
        assert (one.data, two.data) == (b"1", b"2")
        one.nak(1.5)  # waiting for its turn it still counts
        assert await stage.pull(stage.second, START, 1, within=0.5) == []
        two.ack()
        assert (await stage.pull_one(stage.second, START)).data == b"3"
        for n in range(4):
            stored(await stage.first.queues.send(Message(stage.key(), "cancel", f"{n}".encode())))
        messages: list[Delivery] = []
        while len(messages) < 4:
            messages += await stage.pull(stage.second, MESSAGE, 10, within=2)
        assert [one.data for one in messages] == [b"0", b"1", b"2", b"3"]

    play(scenario)


def test_a_pull_that_was_given_up_still_draws(play: Play) -> None:
    """What comes for it waits in that process, its ack wait running: the others do not get it."""

    async def scenario(stage: Stage) -> None:
        await stage.make_queues(None)
        assert await stage.pull(stage.first, START, within=0.3) == []
        (sequence,) = await put(stage, "1")
        assert await stage.pull(stage.second, START, within=ACK_WAIT - 0.5) == []
        assert places(await stage.pull(stage.first, START, 1)) == [(sequence, 1)]

    play(scenario)


def test_pulls_of_several_processes_take_turns(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.make_queues(None)
        for world in (stage.first, stage.second):
            assert await stage.pull(world, START, within=0.3) == []
        one, two, three, four = await put(stage, "1", "2", "3", "4")
        await asyncio.sleep(SETTLED)
        assert places(await stage.pull(stage.first, START)) == [(one, 1), (three, 1)]
        assert places(await stage.pull(stage.second, START)) == [(two, 1), (four, 1)]

    play(scenario)


def test_a_message_names_its_instance(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.make_queues(None)
        key = stage.key("a.b *>ü")
        stored(await stage.first.queues.send(Message(key, "cancel", b"why", headers={"Own": "1"})))
        one = await stage.pull_one(stage.second, MESSAGE)
        assert (one.workflow, one.id, one.data) == (stage.workflow, key.id, b"why")
        assert one.headers["Romancy-Kind"] == "cancel"
        assert one.headers["Own"] == "1"
        fetched = await stage.first.queues.fetch(one.source)
        assert fetched is not None
        assert (fetched.source, fetched.id, fetched.data) == (one.source, key.id, b"why")
        fetched.ack()  # the forwarder's business: this does nothing
        await asyncio.sleep(SETTLED)
        assert await stage.first.queues.fetch(one.source) is not None

    play(scenario)


def test_fetch_of_nothing(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        (sequence,) = await put(stage, "1")
        await stage.make_queues(None)
        one = await stage.pull_one(stage.first, START)
        assert await stage.first.queues.fetch(Source(one.source.stream, sequence + 1000)) is None
        assert await stage.first.queues.fetch(Source("NO_SUCH_STREAM", 1)) is None

    play(scenario)


def test_the_same_message_id_is_stored_once_even_after_its_ack(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.make_queues(None)
        headers = {"Nats-Msg-Id": f"{stage.name}.1"}
        first = stored(await stage.first.queues.start(stage.workflow, b"1", headers))
        assert await stage.second.queues.start(stage.workflow, b"1", headers) == first
        (await stage.pull_one(stage.first, START)).ack()
        await asyncio.sleep(SETTLED)
        assert await stage.second.queues.start(stage.workflow, b"1", headers) == first
        assert await stage.pull(stage.first, START, within=0.5) == []
        message = Message(stage.key(), "cancel", b"", message_id=f"{stage.name}.1")
        second = stored(await stage.first.queues.send(message))  # another stream
        assert await stage.first.queues.send(message) == second

    play(scenario)


def test_parking_is_once_per_source(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        async def park(sequence: int) -> WriteReply:
            letter = DeadLetter(stage.workflow, "why", b"x", {"Own": "1"}, Source(stage.name, sequence))
            return await stage.first.queues.park(letter)

        first = stored(await park(1))
        assert await park(1) == first
        assert stored(await park(2)) != first

    play(scenario)


def test_a_parked_message_keeps_no_header_that_the_server_obeys(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        headers = {"Nats-Msg-Id": "same", "Nats-Expected-Last-Sequence": "9999999"}
        letters = [
            DeadLetter(stage.workflow, "why", b"x", headers, Source(stage.name, sequence))
            for sequence in (1, 2)
        ]
        one, two = [stored(await stage.first.queues.park(letter)) for letter in letters]
        assert one != two

    play(scenario)


def test_too_large_for_a_queue(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        large = bytes(stage.max_payload + 1)
        assert why(await stage.first.queues.start(stage.workflow, large, {})) is Refusal.TOO_LARGE
        assert why(await stage.first.queues.send(Message(stage.key(), "x", large))) is Refusal.TOO_LARGE
        letter = DeadLetter(stage.workflow, "why", bytes(stage.max_payload), {}, Source(stage.name, 7))
        stored(await stage.first.queues.park(letter))  # cut, rather than pulled for ever

    play(scenario)


def test_waiting_start_finds_the_start_that_nobody_acked(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.make_queues(None)
        for id in ("a", "b"):
            stored(await stage.first.queues.start(stage.workflow, id.encode(), {"Romancy-Instance-Id": id}))

        # From a replica, and not always the same one: seen once, it may be gone again in the next answer.
        seen: list[Delivery] = []

        async def visible() -> bool:
            found = await stage.second.queues.waiting_start(stage.key("b"))
            seen.extend([found] if found is not None else [])
            return bool(seen)

        await stage.until(visible)
        waiting = seen[0]
        assert (waiting.data, waiting.workflow, waiting.id) == (b"b", stage.workflow, "")
        assert await stage.second.queues.waiting_start(stage.key("c")) is None
        for _ in range(2):
            (await stage.pull_one(stage.first, START)).ack()

        async def gone() -> bool:
            return await stage.second.queues.waiting_start(stage.key("b")) is None

        await stage.until(gone)

    play(scenario)


def test_a_pull_that_waits_is_served_when_something_comes(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.make_queues(None)
        waiting = asyncio.create_task(stage.pull(stage.second, START, within=5))
        await asyncio.sleep(0.2)
        began = asyncio.get_running_loop().time()
        (sequence,) = await put(stage, "1")
        assert places(await waiting) == [(sequence, 1)]
        assert asyncio.get_running_loop().time() - began < 1

    play(scenario)


def test_a_pull_that_was_given_up_loses_nothing(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.make_queues(None)
        assert await stage.pull(stage.first, START, within=0.2) == []
        (sequence,) = await put(stage, "1")
        await asyncio.sleep(SETTLED)
        assert places(await stage.pull(stage.first, START)) == [(sequence, 1)]

    play(scenario)


def test_starts_are_read_oldest_first_and_found_by_their_place(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.make_queues(None)
        sequences = [
            stored(await stage.first.queues.start(stage.workflow, id.encode(), {"Romancy-Instance-Id": id}))
            for id in ("a", "b", "c")
        ]

        async def read(workflow: str | None) -> list[bytes]:
            found = [one async for one in stage.second.queues.stored_starts(workflow)]
            return [one.data for one in found if one.workflow == stage.workflow]

        async def all_there() -> bool:
            return await read(stage.workflow) == await read(None) == [b"a", b"b", b"c"]

        await stage.until(all_there)
        second = await stage.second.queues.start_at(sequences[1])
        assert second is not None
        assert (second.data, second.workflow, second.source.sequence) == (b"b", stage.workflow, sequences[1])
        assert second.time > 0
        assert await stage.second.queues.start_at(10**9) is None
        assert stage.workflow in await stage.second.orphans.workflows()
        assert [one async for one in stage.second.queues.stored_starts(f"{stage.workflow}-unknown")] == []
        for _ in sequences:
            (await stage.pull_one(stage.first, START)).ack()

        async def gone() -> bool:
            return await read(None) == [] and await stage.second.queues.start_at(sequences[1]) is None

        await stage.until(gone)

    play(scenario)
