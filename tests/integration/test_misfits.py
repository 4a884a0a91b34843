"""Events and messages that do not fit, on the server: logged once, counted, parked; the instance waits on."""

from __future__ import annotations

import asyncio
import json
import logging
import re

import pytest
from pydantic import BaseModel

from romancy_nats import WorkflowContext, WorkflowFailedError, workflow
from romancy_nats.jetstream.connection import Connection
from tests.integration.place import Place, until, until_status

pytestmark = pytest.mark.anyio
BOUND = 15.0


class Paid(BaseModel):
    amount: int


@workflow
async def order(ctx: WorkflowContext) -> int:
    first = await ctx.wait_event("paid", key=ctx.instance_id, model=Paid)
    async with ctx.events("paid", key=ctx.instance_id, model=Paid) as events:
        ctx.emit("listening", durable=True)
        second = await anext(events)
    third = await ctx.receive("more", model=Paid, invalid="skip")
    return first.data.amount + second.data.amount + third.data.amount


@workflow
async def strict(ctx: WorkflowContext) -> int:
    return (await ctx.wait_event("paid", key=ctx.instance_id, model=Paid, invalid="raise")).data.amount


async def letters(place: Place) -> list[tuple[dict[str, str], bytes]]:
    """The dead letters of the namespace: headers and data."""
    stream = f"{place.namespace.upper()}_DEAD"
    found: list[tuple[dict[str, str], bytes]] = []
    async with Connection.open(place.url) as connection:
        info = (await connection.call(f"$JS.API.STREAM.INFO.{stream}")).json()["state"]
        for sequence in range(1, info["last_seq"] + 1):  # type: ignore[index]
            got = await connection.call(
                f"$JS.API.DIRECT.GET.{stream}", json.dumps({"seq": sequence}).encode()
            )
            found.append((dict(got.headers), got.data))
    return found


async def test_a_malformed_event_harms_nothing(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with asyncio.timeout(60), place.client() as client:
        async with place.worker(order):
            handle = await client.start(order.options(id="order-17"))
            await until_status(handle, "waiting_for_event")
            await client.send_event(
                "paid", {"amount": "much", "secret": "s3cr3t"}, key="order-17", id="bad-1"
            )
            await until(lambda: "bad-1" in caplog.text)
            await until_status(handle, "waiting_for_event")
            assert (await handle.describe()).skipped == 1
        # Another worker replays it: nothing is parked or logged a second time.
        async with place.worker(order):
            await client.send_event("paid", {"amount": 1}, key="order-17")
            async for item in handle.watch():
                if item.type == "Emitted":
                    break
            await until_status(handle, "waiting_for_event")
            await client.send_event("paid", "not even an object", key="order-17", id="bad-2")
            await client.send_event("paid", {"amount": 20}, key="order-17")
            await handle.send("more", [1, 2], message_id="bad-3")
            await handle.send("more", {"amount": 300})
            assert await handle.result() == 321
            assert (await handle.describe()).skipped == 3
    lines = [
        record.getMessage() for record in caplog.records if "is skipped and parked" in record.getMessage()
    ]
    assert len(lines) == 3
    assert "s3cr3t" not in caplog.text
    found = await letters(place)
    assert len(found) == 3
    (first, data), (second, text), (third, _) = found
    for headers, wait in ((first, "event:1"), (second, "event:2"), (third, "(message:3|receive)")):
        assert re.match(f"order/order-17, {wait}: ", headers["Romancy-Reason"]), headers
    assert "does not fit Paid: " in first["Romancy-Reason"]
    assert "data.amount: Input should be a valid integer" in first["Romancy-Reason"]
    assert (first["ce-id"], first["ce-type"], first["ce-subject"]) == ("bad-1", "paid", "order-17")
    assert json.loads(data) == {"amount": "much", "secret": "s3cr3t"}
    assert json.loads(text) == "not even an object"
    assert third["Romancy-Channel"] == "more"


async def test_it_raises_where_that_was_asked_for(place: Place) -> None:
    async with asyncio.timeout(BOUND), place.run(strict) as client:
        handle = await client.start(strict)
        await until_status(handle, "waiting_for_event")
        await client.send_event("paid", {}, key=handle.id)
        with pytest.raises(WorkflowFailedError) as failed:
            await handle.result()
        assert failed.value.error_type == "ValidationError"
        assert await letters(place) == []
