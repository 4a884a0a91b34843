"""Messages to instances: kept until they are received, in order, each once, whoever owns the instance."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from romancy_nats import (
    InstanceEndedError,
    InstanceNotFoundError,
    MessageTimeoutError,
    PayloadError,
    WorkflowContext,
    activity,
    workflow,
)
from romancy_nats.client.client import session_of
from tests.integration.place import Place, until, until_status

pytestmark = pytest.mark.anyio
calls: list[str] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    calls.clear()


class Approval(BaseModel):
    ok: bool
    by: str = "nobody"


@activity
async def pause(seconds: float) -> None:
    calls.append("pause")
    await asyncio.sleep(seconds)


@workflow
async def collector(ctx: WorkflowContext, count: int) -> list[Any]:
    return [(await ctx.receive("numbers")).data for _ in range(count)]


@workflow
async def late_collector(ctx: WorkflowContext, count: int) -> list[Any]:
    await ctx.run(pause, 0.5)
    return [(await ctx.receive("numbers")).data for _ in range(count)]


@workflow
async def approval(ctx: WorkflowContext) -> dict[str, Any]:
    message = await ctx.receive("approvals", model=Approval)
    return {
        "ok": message.data.ok,
        "id": message.id,
        "channel": message.channel,
        "metadata": dict(message.metadata),
        "sender": message.sender,
        "time": message.time.tzinfo is not None,
    }


@workflow
async def impatient(ctx: WorkflowContext) -> str:
    try:
        await ctx.receive("never", timeout=0.3)
    except MessageTimeoutError as error:
        return str(error)
    return "received"


@workflow
async def courier(ctx: WorkflowContext, to: str, count: int) -> str:
    for number in range(count):
        await ctx.send_to(to, "numbers", number, workflow="collector")
    return "sent"


@workflow
async def careful_courier(ctx: WorkflowContext, to: str) -> str:
    try:
        await ctx.send_to(to, "numbers", 1, workflow="collector")
    except (InstanceNotFoundError, InstanceEndedError) as error:
        return type(error).__name__
    return "sent"


async def test_messages_arrive_in_order(place: Place) -> None:
    async with place.run(collector) as client:
        handle = await client.start(collector, 50)
        for number in range(50):
            await handle.send("numbers", number)
        assert await handle.result(10) == list(range(50))


async def test_messages_sent_at_once_arrive_in_the_order_of_the_calls(place: Place) -> None:
    async with place.run(collector) as client:
        handle = await client.start(collector, 30)
        await asyncio.gather(*(handle.send("numbers", number) for number in range(30)))
        assert await handle.result(10) == list(range(30))


async def test_messages_are_kept_until_they_are_received(place: Place) -> None:
    async with place.run(late_collector) as client:
        handle = await client.start(late_collector, 3)
        await until(lambda: "pause" in calls)
        for number in range(3):
            await handle.send("numbers", number)
        assert await handle.result(10) == [0, 1, 2]


async def test_a_message_has_all_that_was_sent(place: Place) -> None:
    async with place.run(approval) as client:
        handle = await client.start(approval)
        await handle.send("approvals", Approval(ok=True), {"why": "façade", "n": 1}, message_id="m-1")
        told = await handle.result(10)
        assert told.pop("sender").startswith("client-")
        assert told == {
            "ok": True,
            "id": "m-1",
            "channel": "approvals",
            "metadata": {"why": "façade", "n": 1},
            "time": True,
        }


async def test_the_same_message_id_is_one_message_and_no_gap(place: Place) -> None:
    async with place.run(collector) as client, place.client() as other:
        handle = await client.start(collector.options(id="twice"), 3)
        await handle.send("numbers", 1, message_id="one")
        again = other.get("twice", collector)
        await again.send("numbers", 1, message_id="one")
        await again.send("numbers", 2)
        await handle.send("numbers", 1, message_id="one")
        await handle.send("numbers", 3)
        assert sorted(await handle.result(5)) == [1, 2, 3]


async def test_a_resting_instance_is_woken(place: Place) -> None:
    async with place.run(collector) as client:
        handle = await client.start(collector, 2)
        await until_status(handle, "waiting_for_message")
        assert (await handle.describe()).waiting_for == ("message:numbers",)
        await handle.send("numbers", "a")
        await until_status(handle, "waiting_for_message")
        await handle.send("numbers", "b")
        assert await handle.result(5) == ["a", "b"]


async def test_a_bare_message_from_any_language(place: Place) -> None:
    from romancy_nats.core.ids import InstanceKey
    from romancy_nats.core.messages.envelope import Message

    async with place.run(approval) as client:
        handle = await client.start(approval)
        key = InstanceKey("approval", handle.id)
        await session_of(client).send(
            Message(key, "message", b'{"ok": true}', "", {"Romancy-Channel": "approvals"})
        )
        assert (await handle.result(10))["ok"] is True


async def test_a_message_that_cannot_be_read_is_parked(place: Place) -> None:
    from romancy_nats.core.ids import InstanceKey
    from romancy_nats.core.messages.envelope import Message

    async with place.run(collector) as client:
        handle = await client.start(collector, 1)
        key = InstanceKey("collector", handle.id)
        await session_of(client).send(Message(key, "message", b"{", "", {"Romancy-Channel": "numbers"}))
        await session_of(client).send(Message(key, "message", b"1"))
        await handle.send("numbers", "good")
        assert await handle.result(5) == ["good"]


async def test_a_receive_times_out(place: Place) -> None:
    async with place.run(impatient) as client:
        assert await client.execute(impatient) == "no message on channel 'never' within 0.3 s"


async def test_nobody_there_and_ended(place: Place) -> None:
    async with place.run(impatient) as client:
        with pytest.raises(InstanceNotFoundError):
            await client.get("nobody", impatient).send("never", 1)
        handle = await client.start(impatient)
        await handle.result(10)
        with pytest.raises(InstanceEndedError):
            await handle.send("never", 1)
        other = await client.start(impatient)
        with pytest.raises(PayloadError, match="metadata"):
            await other.send("never", 1, {"bad": object()})
        with pytest.raises(PayloadError, match="'never'"):
            await other.send("never", object())


async def test_two_workers_one_line_of_messages(place: Place) -> None:
    async with place.worker(collector), place.run(collector) as client:
        handles = [await client.start(collector, 20) for _ in range(4)]
        for number in range(20):
            await asyncio.gather(*(handle.send("numbers", number) for handle in handles))
        for handle in handles:
            assert await handle.result(15) == list(range(20))


async def test_another_worker_goes_on_with_what_was_received(place: Place) -> None:
    async def start(client: Any) -> Any:
        handle = await client.start(collector, 3)
        await handle.send("numbers", 0)
        await until_status(handle, "waiting_for_message")
        return handle

    async with place.handed_over(collector, ready=lambda: True, start=start) as (_, handle):
        await handle.send("numbers", 1)
        await handle.send("numbers", 2)
        assert await handle.result(10) == [0, 1, 2]


async def test_workflows_send_to_one_another(place: Place) -> None:
    async with place.run(collector, courier, careful_courier) as client:
        target = await client.start(collector.options(id="target"), 5)
        assert await client.execute(courier, "target", 5) == "sent"
        assert await target.result(10) == [0, 1, 2, 3, 4]
        assert await client.execute(careful_courier, "target") == "InstanceEndedError"
        assert await client.execute(careful_courier, "nobody") == "InstanceNotFoundError"
