"""Events and registrations: who hears what, once registered; none lost to a replica that lags; any number of them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from romancy_nats.core.plain import decode_plain, encode_plain
from romancy_nats.errors import InvalidNameError, PayloadError
from romancy_nats.ports import Event, PublishedEvent, Refusal, Registration, World
from tests.conformance.stage import ACK_WAIT, Play, Stage, stored, why


def event(stage: Stage, key: str | None = None, data: object = None, type: str = "paid") -> Event:
    return Event("e1", f"{stage.name}.{type}", "shop", encode_plain(data), key)


async def register(
    stage: Stage, id: str, key: str | None = None, type: str = "paid", wait: str = "event:1"
) -> int:
    reply = await stage.first.events.register(stage.key(id), 0, wait, f"{stage.name}.{type}", key)
    return stored(reply)


async def publish(stage: Stage, key: str | None = None, type: str = "paid") -> int:
    return stored(await stage.second.events.publish(event(stage, key, type=type), ""))


async def pull(stage: Stage, world: World | None = None, within: float = 5.0) -> PublishedEvent | None:
    """The next event of this scenario; the consumer is the whole namespace's."""
    try:
        async with asyncio.timeout(within):
            while True:
                for one in await (world or stage.first).events.pull(1):
                    if one.event is not None and one.event.type.startswith(f"{stage.name}."):
                        return one
                    one.ack()
    except TimeoutError:
        return None


async def pulled(stage: Stage) -> PublishedEvent:
    one = await pull(stage)
    assert one is not None, "expected an event"
    return one


async def heard(stage: Stage, one: PublishedEvent) -> list[Registration]:
    return [registration async for registration in stage.second.events.matching(one)]


async def ids(stage: Stage, one: PublishedEvent) -> list[str]:
    return sorted(registration.key.id for registration in await heard(stage, one))


def test_an_event_comes_as_it_was_published_and_is_gone_after_the_ack(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.make_queues(None)
        data = {"amount": 3, "text": "ü\n\"%'", "list": [1.5, None, True]}
        extensions = {"traceparent": "00-é\r\nx: y", "count": 7, "flag": True}
        sent = Event(
            'id "1"\r\nX: 1',
            f"{stage.name}.größe is.odd>",
            "/shop ü?a=%41",
            encode_plain(data),
            "order 17 \r\n",
            "2026-01-02T03:04:05Z",
            encode_plain(extensions),
        )
        sequence = stored(await stage.second.events.publish(sent, "m1"))
        one = await pulled(stage)
        found = one.event
        assert found is not None
        assert (found.id, found.type, found.source) == (sent.id, sent.type, sent.source)
        assert (found.key, found.time, one.deliveries) == (sent.key, sent.time, 1)
        assert decode_plain(found.data) == data
        # Attributes are text on the wire.
        assert decode_plain(found.extensions) == {**extensions, "count": "7", "flag": "true"}
        assert one.source.sequence == sequence
        one.ack()
        assert await pull(stage, within=ACK_WAIT + 1) is None

    play(scenario)


def test_an_unacked_event_comes_again(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.make_queues(None)
        await publish(stage)
        first = await pulled(stage)
        again = await pulled(stage)
        assert (again.source, again.deliveries) == (first.source, 2)
        again.nak()
        third = await pulled(stage)
        assert third.deliveries == 3
        third.ack()

    play(scenario)


def test_a_message_id_counts_once_per_type(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.make_queues(None)
        events = stage.first.events
        first = stored(await events.publish(event(stage), "m 1\r\n"))
        assert stored(await stage.second.events.publish(event(stage), "m 1\r\n")) == first
        other = stored(await events.publish(event(stage, type="refunded"), "m 1\r\n"))
        assert other != first
        found = [await pulled(stage), await pulled(stage)]
        assert [one.source.sequence for one in found] == [first, other]
        for one in found:
            one.ack()

    play(scenario)


@pytest.mark.parametrize(
    "bad",
    [
        {"type": ""},
        {"type": "."},
        {"type": "a..b"},
        {"type": ".a"},
        {"type": "a."},
        {"type": "x" * 300},
        {"type": "\ud800"},
        {"key": ""},
        {"key": "\ud800"},
        {"id": "\ud800"},
        {"data": encode_plain(float("nan"))},
        {"extensions": encode_plain({"Not-Allowed": "x"})},
        {"extensions": encode_plain({"id": "x"})},
        {"extensions": encode_plain({"deep": {}})},
    ],
    ids=str,
)
def test_what_nobody_could_read_is_not_sent(play: Play, bad: dict[str, object]) -> None:
    async def scenario(stage: Stage) -> None:
        fields: dict[str, object] = {"id": "1", "type": "t", "source": "s", "data": encode_plain(1), **bad}
        with pytest.raises((PayloadError, InvalidNameError)):
            await stage.first.events.publish(Event(**fields), "")  # type: ignore[arg-type]

    play(scenario)


def test_an_event_too_large_is_refused(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        extensions = encode_plain({"large": "y" * 100_000})
        large = replace(event(stage, data="x" * 990_000), extensions=extensions)
        assert why(await stage.first.events.publish(large, "")) is Refusal.TOO_LARGE

    play(scenario)


def test_a_registration_hears_its_key_and_its_type_only(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.make_queues(None)
        await register(stage, "any")
        await register(stage, "k1", "k1")
        await register(stage, "k1 too", "k1")
        await register(stage, "odd", "k.1 *>=")
        await register(stage, "equal", "=")
        await register(stage, "other", "k1", "refunded")
        await register(stage, "longer", "k1", "paid.twice")
        for key, hear in (
            (None, ["any"]),
            ("k1", ["any", "k1", "k1 too"]),
            ("k.1 *>=", ["any", "odd"]),
            ("=", ["any", "equal"]),
            ("*", ["any"]),
        ):
            await publish(stage, key)
            one = await pulled(stage)
            assert await ids(stage, one) == hear
            one.ack()

    play(scenario)


def test_a_registration_says_who_waits_and_for_what(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.make_queues(None)
        key = stage.key("an id. with *, > and ü")
        type, event_key = f"{stage.name}.paid", "ключ " * 100
        events = stage.first.events
        stored(await events.register(key, 3, "event:17", type, event_key))
        await publish(stage, event_key)
        await publish(stage, event_key + "x")
        one = await pulled(stage)
        assert await heard(stage, one) == [Registration(key, 3, "event:17")]
        one.ack()
        two = await pulled(stage)
        assert await heard(stage, two) == []
        two.ack()

    play(scenario)


def test_it_is_registered_once_and_unregistered_as_often_as_one_likes(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.make_queues(None)
        events, key, type = stage.first.events, stage.key(), f"{stage.name}.paid"
        stored(await events.unregister(key, 0, "event:1", type, None))
        await register(stage, "a")
        again = await stage.second.events.register(key, 0, "event:1", type, None)
        assert why(again) is Refusal.STALE
        await register(stage, "a", wait="event:2")
        await register(stage, "a", "k")
        for _ in range(2):
            stored(await stage.second.events.unregister(key, 0, "event:1", type, None))
        await publish(stage, "k")
        one = await pulled(stage)
        assert sorted(r.wait for r in await heard(stage, one)) == ["event:1", "event:2"]
        await register(stage, "a")
        one.ack()

    play(scenario)


def test_an_event_from_before_the_registration_is_not_heard(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.make_queues(None)
        await register(stage, "early")
        await publish(stage)
        await register(stage, "late")
        one = await pulled(stage)
        assert await ids(stage, one) == ["early"]
        await publish(stage)
        two = await pulled(stage)
        assert await ids(stage, one) == ["early"]
        assert await ids(stage, two) == ["early", "late"]
        one.ack()
        two.ack()

    play(scenario)


def test_more_registrations_than_one_answer_holds(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.make_queues(None)
        for start in range(0, 2600, 200):
            numbers = range(start, start + 200)
            await asyncio.gather(*(register(stage, f"i{n}", "k" if n % 2 else None) for n in numbers))
        await asyncio.gather(*(register(stage, f"x{n}", "other") for n in range(50)))
        await publish(stage, "k")
        await asyncio.gather(*(register(stage, f"late{n}") for n in range(50)))
        one = await pulled(stage)
        assert await ids(stage, one) == sorted(f"i{n}" for n in range(2600))
        one.ack()

    play(scenario)


def test_a_race_of_registrations_against_events_is_decided_by_their_places(play: Play) -> None:
    """The barrier: whichever replica answers, an event is heard by exactly those who registered before it."""

    async def scenario(stage: Stage) -> None:
        await stage.make_queues(None)
        rounds, each = 60, 10
        registered: dict[str, int] = {}
        unheard: list[str] = []

        async def one_registers(id: str, key: str) -> None:
            reply = await stage.first.events.register(stage.key(id), 0, "event:1", f"{stage.name}.paid", key)
            registered[id] = stored(reply)

        async def check(one: PublishedEvent) -> None:
            assert one.event is not None
            found = await ids(stage, one)
            round = one.event.key
            for id, place in registered.items():
                if id.startswith(f"{round}/") and (place < one.source.sequence) != (id in found):
                    unheard.append(f"{id} at {place}, the event at {one.source.sequence}")
            one.ack()

        for number in range(rounds):
            key = f"r{number}"
            registering = [one_registers(f"{key}/{n}", key) for n in range(each)]
            publishing = [publish(stage, key) for _ in range(3)]
            mixed = [work for pair in zip(registering[:3], publishing, strict=True) for work in pair]
            dispatching = asyncio.gather(*(pull(stage) for _ in range(1)))
            await asyncio.gather(*mixed, *registering[3:])
            (first,) = await dispatching
            assert first is not None
            await check(first)
            for _ in range(2):
                await check(await pulled(stage))
        assert unheard == []

    play(scenario)
