"""Waiting for people: events with a key, a deadline, a pause that outlives its worker."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import nats
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from pydantic import BaseModel

from romancy_nats import (
    App,
    Client,
    EventTimeoutError,
    InstanceStatus,
    WorkflowContext,
    WorkflowHandle,
    activity,
    workflow,
)
from romancy_nats.jetstream.server import EmbeddedServer


class Decision(BaseModel):
    approved: bool
    by: str


@activity
async def tell(who: str, text: str) -> None:
    """Stands for an e-mail."""


@workflow
async def expense(ctx: WorkflowContext, who: str, amount: int, patience: timedelta) -> str:
    await ctx.run(tell, "manager", f"{who} asks for {amount}")
    try:
        decided = await ctx.wait_event(
            "expense.decided", key=ctx.instance_id, model=Decision, timeout=patience
        )
    except EventTimeoutError:
        await ctx.run(tell, "board", f"nobody looked at the expense of {who}")
        return f"{who}: escalated"
    if not decided.data.approved:
        return f"{who}: refused by {decided.data.by}"
    await ctx.sleep(timedelta(seconds=4))  # the bank is slow
    await ctx.run(tell, who, "paid")
    return f"{who}: {amount} paid, approved by {decided.data.by}"


app = App("approvals", workflows=[expense])


async def until(handle: WorkflowHandle[str], status: InstanceStatus) -> None:
    while await handle.status() is not status:
        await asyncio.sleep(0.02)


async def decide_by_cloudevent(url: str, id: str) -> None:
    """What a program sends that has never heard of this package: a CloudEvent in structured JSON."""
    event = CloudEvent(
        {"type": "expense.decided", "source": "/erp", "id": "1", "specversion": "1.0", "subject": id},
        {"approved": False, "by": "Ben"},
    )
    connection = await nats.connect(url)  # pyright: ignore[reportUnknownMemberType]
    headers = {"Content-Type": "application/cloudevents+json"}
    await connection.publish("romancy.event.expense.decided", JSONFormat().write(event), headers=headers)
    await connection.drain()


async def demo(url: str, client: Client) -> None:
    async with app.worker(url=url):
        ann = await client.start(expense.options(id="ann"), "Ann", 120, timedelta(hours=1))
        bob = await client.start(expense.options(id="bob"), "Bob", 9000, timedelta(hours=1))
        eve = await client.start(expense.options(id="eve"), "Eve", 40, timedelta(seconds=1))
        for handle in (ann, bob):
            await until(handle, InstanceStatus.WAITING_FOR_EVENT)
        print("Ann and Bob wait for an event; no worker holds them")
        await client.send_event("expense.decided", {"approved": True, "by": "Mia"}, key="ann")
        await decide_by_cloudevent(url, "bob")
        print(await bob.result())
        print(await eve.result())
        await until(ann, InstanceStatus.WAITING_FOR_TIMER)
        print("Ann waits for the bank; the worker goes home")
    await asyncio.sleep(4)
    print("her timer has fired, with nobody there")
    async with app.worker(url=url):
        print(await ann.result())


async def main() -> None:
    async with EmbeddedServer() as server, Client.connect(server.url) as client:
        await demo(server.url, client)


if __name__ == "__main__":
    asyncio.run(main())
