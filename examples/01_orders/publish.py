"""How orders come in: half through the typed client, half as bare messages of a shop that has never heard of us.

What is done with nats-py here, any client of NATS can do.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import nats
from main import Order, order_workflow
from nats.aio.client import Client as NatsClient
from nats.js import JetStreamContext
from nats.js.errors import BucketNotFoundError, NoKeysError

from romancy_nats import Client

ORDERS = Path(__file__).with_name("orders.jsonl")
GAP = 0.05
"""Seconds between two orders."""


def read_orders() -> list[str]:
    """The orders, one JSON text each."""
    return ORDERS.read_text(encoding="utf-8").splitlines()


async def at_work(url: str, workers: int) -> None:
    """Return when so many workers hold a lease: the keys of a bucket that any tool can read."""
    connection = await nats.connect(url)  # pyright: ignore[reportUnknownMemberType]
    try:
        stream = connection.jetstream()  # pyright: ignore[reportUnknownMemberType]
        while len(await _leases(stream)) < workers:
            await asyncio.sleep(GAP)
    finally:
        await connection.close()


async def _leases(stream: JetStreamContext) -> list[str]:
    try:
        bucket = await stream.key_value("romancy_workers")
        return await bucket.keys()  # pyright: ignore[reportUnknownMemberType]
    except (BucketNotFoundError, NoKeysError):
        return []  # the first worker makes the bucket, and then its key


async def publish(client: Client, url: str, orders: Sequence[str]) -> None:
    """Place every order; each fifth one twice, for shops do that too."""
    shop = await nats.connect(url)  # pyright: ignore[reportUnknownMemberType]
    try:
        for number, text in enumerate(orders):
            times = 2 if number % 5 == 0 else 1
            for _ in range(times):
                if number % 2:
                    await place_typed(client, text)
                else:
                    await place_bare(shop, text)
            await asyncio.sleep(GAP)
    finally:
        await shop.close()


async def place_typed(client: Client, text: str) -> None:
    """With this package: arguments are checked before anything is sent."""
    order = Order.model_validate_json(text)
    await client.start(order_workflow.options(id=order.id), order)


async def place_bare(shop: NatsClient, text: str) -> None:
    """With any client of NATS: `nats pub romancy.start.order_workflow '{"id": ...}'`."""
    headers = {"Romancy-Instance-Id": json.loads(text)["id"]}
    await shop.jetstream().publish(  # pyright: ignore[reportUnknownMemberType]
        "romancy.start.order_workflow", text.encode(), headers=headers
    )
