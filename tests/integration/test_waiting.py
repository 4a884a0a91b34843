"""Waiting: at rest nothing is in memory that counts; timers, events and back-off wake, here or on another worker."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import timedelta
from typing import Any

import pytest
from cloudevents.core.v1.event import CloudEvent
from pydantic import BaseModel, ValidationError

from romancy_nats import (
    Client,
    EventTimeoutError,
    InstanceEndedError,
    InstanceNotFoundError,
    InstanceStatus,
    InvalidNameError,
    PayloadError,
    RetryPolicy,
    WorkflowCancelledError,
    WorkflowContext,
    WorkflowFailedError,
    WorkflowHandle,
    activity,
    workflow,
)
from romancy_nats.client.client import session_of
from romancy_nats.jetstream.server import LocalServer
from tests.integration.place import Place, until, until_status

pytestmark = pytest.mark.anyio

EVENT = InstanceStatus.WAITING_FOR_EVENT
TIMER = InstanceStatus.WAITING_FOR_TIMER
calls: list[str] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    calls.clear()


class Payment(BaseModel):
    amount: int
    currency: str = "EUR"


@activity
async def note(text: str) -> str:
    calls.append(text)
    return text


@activity(retry=RetryPolicy(max_attempts=3, initial_interval=5.5, jitter=0))
async def flaky() -> str:
    calls.append(f"attempt {time.time()}")
    if len(calls) < 2:
        raise RuntimeError("not yet")
    return "done"


@workflow
async def sleeper(ctx: WorkflowContext, seconds: float) -> list[float]:
    await ctx.run(note, "before")
    began = ctx.now()
    await ctx.sleep(seconds)
    woke = ctx.now()
    await ctx.run(note, "after")
    return [began.timestamp(), woke.timestamp()]


@workflow
async def retrying(ctx: WorkflowContext) -> str:
    return await ctx.run(flaky)


@workflow
async def payer(ctx: WorkflowContext, key: str | None = None, timeout: float | None = None) -> Any:
    event = await ctx.wait_event("payment.completed", key=key, timeout=timeout)
    await ctx.run(note, f"paid {event.data}")
    return [event.type, event.source, event.id, event.subject, event.data, dict(event.extensions)]


@workflow
async def typed(ctx: WorkflowContext) -> int:
    try:
        event = await ctx.wait_event("payment.completed", model=Payment, invalid="raise")
    except ValidationError:
        return -1
    return event.data.amount


@workflow
async def impatient(ctx: WorkflowContext, timeout: float) -> str:
    try:
        await ctx.wait_event("never", timeout=timedelta(seconds=timeout))
    except EventTimeoutError as error:
        return f"{error.type} {error.seconds}"
    return "?"


@workflow
async def both(ctx: WorkflowContext) -> list[Any]:
    first = asyncio.create_task(ctx.wait_event("a"))
    second = asyncio.create_task(ctx.wait_event("b", key="k"))
    return [(await second).data, (await first).data]


@workflow
async def collector(ctx: WorkflowContext, count: int) -> list[int]:
    found: list[int] = []
    async with ctx.events("tick") as ticks:
        async for tick in ticks:
            found.append(tick.data)
            await ctx.run(note, str(tick.data))
            if len(found) == count:
                break
    return found


@workflow
async def announcer(ctx: WorkflowContext, key: str | None) -> None:
    await ctx.send_event("payment.completed", {"amount": 7}, key=key)


@workflow
async def bad_announcer(ctx: WorkflowContext) -> str:
    try:
        await ctx.send_event("no..such", 1)
    except InvalidNameError:
        return "refused"
    return "?"


@workflow
async def receiver(ctx: WorkflowContext) -> list[Any]:
    message = await ctx.receive("inbox")
    return [message.data, message.sender]


@workflow
async def sender(ctx: WorkflowContext, id: str) -> str:
    try:
        await ctx.send_to(id, "inbox", {"hello": 1}, workflow="receiver")
    except (InstanceNotFoundError, InstanceEndedError) as error:
        return type(error).__name__
    return "sent"


async def resting(handle: WorkflowHandle[Any], status: InstanceStatus) -> None:
    """At rest, which is when the record says so."""
    await until_status(handle, status)
    info = await handle.describe()
    assert info.owner is None


async def settled(client: Client, place: Place) -> None:
    """All queues are empty: every message was acknowledged."""

    async def left() -> int:
        total = 0
        for stream in ("START", "MESSAGES", "TIMERS"):
            name = f"{place.namespace.upper()}_{stream}"
            reply = await session_of(client).world.connection.call(f"$JS.API.STREAM.INFO.{name}")  # type: ignore[attr-defined]
            total += json.loads(reply.data)["state"]["messages"]
        return total

    for _ in range(200):
        if await left() == 0:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{await left()} messages are left")


# --- sleeping


async def test_a_long_sleep_rests_and_wakes_never_early(place: Place) -> None:
    async with place.run(sleeper) as client:
        handle = await client.start(sleeper, 4.0)
        await resting(handle, TIMER)
        assert (await handle.describe()).waiting_for == ("timer:1",)
        began, woke = await handle.result(timeout=10)
        assert 4.0 <= woke - began < 5.5
        assert calls == ["before", "after"]
        await settled(client, place)


async def test_another_worker_wakes_it_by_replay(place: Place) -> None:
    async with place.client() as client:
        async with place.worker(sleeper):
            handle = await client.start(sleeper, 4.0)
            await resting(handle, TIMER)
        # Nobody is there when it is due.
        await asyncio.sleep(4.5)
        async with place.worker(sleeper):
            began, woke = await handle.result(timeout=5)
            assert woke - began >= 4.0
            assert calls == ["before", "after"]
            await settled(client, place)


async def test_a_drain_in_a_short_sleep_loses_no_timer(place: Place) -> None:
    async with place.client() as client:
        async with place.worker(sleeper):
            handle = await client.start(sleeper, 2.0)
            await until(lambda: calls == ["before"])
            await asyncio.sleep(0.1)
        async with place.worker(sleeper):
            began, woke = await handle.result(timeout=5)
            assert woke - began >= 2.0
            assert calls == ["before", "after"]


async def test_a_sleeping_instance_can_be_cancelled_and_its_timer_goes(place: Place) -> None:
    async with place.run(sleeper) as client:
        handle = await client.start(sleeper, 3600)
        await resting(handle, TIMER)
        assert await handle.cancel("enough")
        with pytest.raises(WorkflowCancelledError):
            await handle.result(timeout=5)
        await settled(client, place)


async def test_many_sleepers(place: Place) -> None:
    async with place.run(sleeper) as client:
        handles = await asyncio.gather(*(client.start(sleeper, 4.0) for _ in range(100)))
        for began, woke in await asyncio.gather(*(handle.result(timeout=20) for handle in handles)):
            assert woke - began >= 4.0
        assert calls.count("after") == 100
        await settled(client, place)


async def test_a_long_back_off_rests_and_counts_on(place: Place) -> None:
    async with place.client() as client:
        async with place.worker(retrying):
            handle = await client.start(retrying)
            await resting(handle, TIMER)
        async with place.worker(retrying):
            assert await handle.result(timeout=12) == "done"
        first, second = (float(call.split()[1]) for call in calls)
        assert 5.5 <= second - first < 7.5


# --- events


async def test_an_event_wakes_from_the_cache(place: Place) -> None:
    async with place.run(payer) as client:
        handle = await client.start(payer)
        await resting(handle, EVENT)
        assert (await handle.describe()).waiting_for == ("event:payment.completed",)
        await client.send_event(
            "payment.completed", {"amount": 3}, source="shop", key="o-1", id="e 1", extensions={"trace": "ü"}
        )
        result = await handle.result(timeout=5)
        assert result == ["payment.completed", "shop", "e 1", "o-1", {"amount": 3}, {"trace": "ü"}]
        await settled(client, place)


async def test_an_event_wakes_by_replay_on_another_worker(place: Place) -> None:
    async with place.client() as client:
        async with place.worker(payer):
            handle = await client.start(payer, "o-1")
            await resting(handle, EVENT)
        # Nobody dispatches it yet; it is kept.
        await client.send_event("payment.completed", 1, key="o-1")
        async with place.worker(payer):
            assert (await handle.result(timeout=5))[3:5] == ["o-1", 1]
            assert calls == ["paid 1"]
            await settled(client, place)


async def test_a_key_hears_only_its_own(place: Place) -> None:
    async with place.run(payer) as client:
        one, two, any = await asyncio.gather(*(client.start(payer, key) for key in ("k1", "k2", None)))
        for handle in (one, two, any):
            await resting(handle, EVENT)
        await client.send_event("payment.completed", "first", key="k1")
        assert (await one.result(timeout=5))[4] == "first"
        assert (await any.result(timeout=5))[4] == "first"
        await client.send_event("payment.completed.twice", "no", key="k2")
        await client.send_event("payment", "no", key="k2")
        await client.send_event("payment.completed", "second", key="k2")
        assert (await two.result(timeout=5))[4] == "second"
        await settled(client, place)


async def test_an_event_from_before_is_not_heard(place: Place) -> None:
    async with place.run(payer) as client:
        await client.send_event("payment.completed", "early", key="k")
        handle = await client.start(payer, "k")
        await resting(handle, EVENT)
        await client.send_event("payment.completed", "late", key="k")
        assert (await handle.result(timeout=5))[4] == "late"


async def test_a_wait_times_out_at_rest(place: Place) -> None:
    async with place.run(impatient) as client:
        handle = await client.start(impatient, 4.0)
        await resting(handle, EVENT)
        assert await handle.result(timeout=8) == "never 4.0"
        await settled(client, place)


async def test_an_event_comes_before_the_time_out(place: Place) -> None:
    async with place.run(payer) as client:
        handle = await client.start(payer, "k", 3600.0)
        await resting(handle, EVENT)
        await client.send_event("payment.completed", 1, key="k")
        assert (await handle.result(timeout=5))[4] == 1
        await settled(client, place)


async def test_two_waits_and_events_in_any_order(place: Place) -> None:
    async with place.run(both) as client:
        handle = await client.start(both)
        await resting(handle, EVENT)
        assert (await handle.describe()).waiting_for == ("event:a", "event:b/k")
        await client.send_event("a", 1)
        await client.send_event("b", 0)
        await client.send_event("b", 2, key="k")
        assert await handle.result(timeout=5) == [2, 1]
        await settled(client, place)


async def test_a_stream_of_events_misses_none_and_keeps_their_order(place: Place) -> None:
    async with place.run(collector) as client:
        handle = await client.start(collector, 30)
        await resting(handle, EVENT)
        for number in range(30):
            await client.send_event("tick", number)
        assert await handle.result(timeout=10) == list(range(30))
        await settled(client, place)


async def test_data_that_does_not_fit_the_model(place: Place) -> None:
    async with place.run(typed) as client:
        good, bad = await client.start(typed), None
        await resting(good, EVENT)
        await client.send_event("payment.completed", {"amount": 5})
        assert await good.result(timeout=5) == 5
        bad = await client.start(typed)
        await resting(bad, EVENT)
        await client.send_event("payment.completed", {"amount": "much"})
        assert await bad.result(timeout=5) == -1


async def test_an_event_sent_twice_with_one_message_id_is_one(place: Place) -> None:
    async with place.run(collector) as client:
        handle = await client.start(collector, 2)
        await resting(handle, EVENT)
        for _ in range(3):
            await client.send_event("tick", 1, message_id="once")
        await client.send_event("tick", 2)
        assert await handle.result(timeout=5) == [1, 2]


async def test_one_event_wakes_many(place: Place) -> None:
    async with place.run(payer) as client:
        handles = [await client.start(payer) for _ in range(50)]
        for handle in handles:
            await resting(handle, EVENT)
        await client.send_event("payment.completed", "all")
        for handle in handles:
            assert (await handle.result(timeout=10))[4] == "all"
        assert len(calls) == 50
        await settled(client, place)


async def test_what_nobody_could_hear_is_refused_at_once(place: Place) -> None:
    async with place.client() as client:
        for type in ("", "a..b", "x" * 300):
            with pytest.raises(InvalidNameError):
                await client.send_event(type, 1)
        with pytest.raises(InvalidNameError):
            await client.send_event("a", 1, key="")
        with pytest.raises(PayloadError):
            await client.send_event("a", 1, extensions={"Not Allowed": 1})
        with pytest.raises(PayloadError):
            await client.send_event(object(), 1)


async def test_an_event_object_of_the_cloudevents_package(place: Place) -> None:
    attributes = {
        "specversion": "1.0",
        "id": "c1",
        "source": "/shop",
        "type": "payment.completed",
        "subject": "k",
        "color": "red",
    }
    async with place.run(payer) as client:
        handle = await client.start(payer, "k")
        await resting(handle, EVENT)
        await client.send_event(CloudEvent(attributes, {"amount": 9}))
        assert await handle.result(timeout=5) == [
            "payment.completed", "/shop", "c1", "k", {"amount": 9}, {"color": "red"}
        ]  # fmt: skip


# --- events of others


async def publish(client: Client, subject: str, body: bytes, headers: dict[str, str] | None = None) -> None:
    reply = await session_of(client).world.connection.call(subject, body, headers)  # type: ignore[attr-defined]
    assert "seq" in json.loads(reply.data), reply.data


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        (None, b'{"amount": 3}', ["", None, {"amount": 3}]),
        ({"Content-Type": "text/plain"}, b"hello", ["", None, "hello"]),
        ({"ce-specversion": "1.0", "ce-id": "1", "Ce-Source": "/a%20b", "ce-subject": "k"}, b"[1]", ["/a b", "k", [1]]),
        (
            {"Content-Type": "application/cloudevents+json; charset=utf-8"},
            b'{"specversion":"1.0","id":"1","source":"s","type":"other","subject":"k","data":{"x":null}}',
            ["s", "k", {"x": None}],
        ),
        (None, b"", ["", None, None]),
    ],
)  # fmt: skip
async def test_events_of_any_origin(
    place: Place, headers: dict[str, str] | None, body: bytes, expected: list[Any]
) -> None:
    async with place.run(payer) as client:
        handle = await client.start(payer)
        await resting(handle, EVENT)
        await publish(client, f"{place.namespace}.event.payment.completed", body, headers)
        found = await handle.result(timeout=5)
        assert [found[1], found[3], found[4]] == expected
        assert found[0] == "payment.completed"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (None, b"{not json"),
        (None, b"[" * 1000),
        ({"ce-specversion": "0.3"}, b"1"),
        ({"Content-Type": "application/cloudevents+json"}, b"[1]"),
        ({"Content-Type": "application/cloudevents-batch+json"}, b"[]"),
        ({"Content-Type": "application/cloudevents+avro"}, b"x"),
    ],
)
async def test_what_nobody_can_read_is_parked_with_the_reason(
    place: Place, headers: dict[str, str] | None, body: bytes
) -> None:
    async with place.run(payer) as client:
        handle = await client.start(payer)
        await resting(handle, EVENT)
        await publish(client, f"{place.namespace}.event.payment.completed", body, headers)
        await publish(client, f"{place.namespace}.event.payment.completed", b"1")
        assert (await handle.result(timeout=5))[4] == 1
        name = f"{place.namespace.upper()}_DEAD"
        reply = await session_of(client).world.connection.call(  # type: ignore[attr-defined]
            f"$JS.API.STREAM.MSG.GET.{name}", b'{"last_by_subj": ">"}'
        )
        assert "message" in json.loads(reply.data)


# --- sending from workflows


async def test_a_workflow_sends_events(place: Place) -> None:
    async with place.run(payer, announcer, bad_announcer) as client:
        handle = await client.start(payer, "k")
        await resting(handle, EVENT)
        await client.execute(announcer, "k")
        found = await handle.result(timeout=5)
        assert found[3:5] == ["k", {"amount": 7}]
        assert await client.execute(bad_announcer) == "refused"


async def test_overrides_of_a_test_leave_sending_alone(place: Place) -> None:
    async def fake(text: str) -> str:
        return text

    async with place.app(payer, announcer).run(place.url, overrides={note: fake}) as client:
        handle = await client.start(payer)
        await resting(handle, EVENT)
        await client.execute(announcer, None)
        assert (await handle.result(timeout=5))[4] == {"amount": 7}
        assert calls == []


async def test_a_workflow_sends_to_another(place: Place) -> None:
    async with place.run(receiver, sender) as client:
        handle = await client.start(receiver.options(id="r1"))
        assert await client.execute(sender.options(id="s1"), "r1") == "sent"
        assert await handle.result(timeout=5) == [{"hello": 1}, "s1"]
        assert await client.execute(sender, "r1") == "InstanceEndedError"
        assert await client.execute(sender, "nobody") == "InstanceNotFoundError"
        await settled(client, place)


# --- what the server goes through


async def test_waiting_outlives_a_kill_of_the_server(tmp_path: Any) -> None:
    with LocalServer(store=tmp_path, sync_always=False) as server:
        place = Place(server.url)
        async with place.run(sleeper, payer) as client:
            asleep = await client.start(sleeper, 5.0)
            paid = await client.start(payer, "k")
            await resting(asleep, TIMER)
            await resting(paid, EVENT)
            server.kill()
            server.restart()
            await client.send_event("payment.completed", 1, key="k")
            assert (await paid.result(timeout=15))[4] == 1
            began, woke = await asleep.result(timeout=15)
            assert woke - began >= 5.0


async def test_a_failing_wait_type_fails_the_workflow(place: Place) -> None:
    @workflow(name=f"odd_{time.time_ns()}")
    async def odd(ctx: WorkflowContext) -> None:
        await ctx.wait_event("a..b")

    async with place.run(odd) as client:
        with pytest.raises(WorkflowFailedError, match="InvalidNameError"):
            await client.execute(odd)
