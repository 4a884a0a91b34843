"""The order example: activities, the saga and the app. `python main.py` runs the demo, which is in demo.py.

A worker for it: `romancy worker main:app` in this folder.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, PositiveInt
from record import Record, visit

from romancy_nats import (
    App,
    RetryPolicy,
    TerminalError,
    WorkflowContext,
    activity,
    activity_context,
    compensation,
    workflow,
)

WORK = 0.15
"""How long a talk with the outside world takes (seconds)."""
LOADING = 60.0
"""How long it takes to load a pallet: long enough for second thoughts."""


class Line(BaseModel):
    sku: str
    quantity: PositiveInt
    price: Decimal


class Order(BaseModel):
    id: str
    customer: str
    card: str
    delivery: Literal["parcel", "pallet"] = "parcel"
    lines: list[Line]

    @property
    def total(self) -> Decimal:
        return sum((line.price * line.quantity for line in self.lines), Decimal(0))


class Receipt(BaseModel):
    order: str
    charged: Decimal
    payment: str
    tracking: str


class PaymentDeclinedError(TerminalError):
    """The bank said no; asking again does not help."""


@compensation
async def release_inventory(line: Line) -> None:
    async with visit("release_inventory"):
        await asyncio.sleep(WORK)


@activity(compensation=release_inventory)
async def reserve_inventory(line: Line) -> str:
    async with visit("reserve_inventory"):
        await asyncio.sleep(WORK)
        return f"{line.sku} x {line.quantity}"


@compensation
async def cancel_courier(order_id: str) -> None:
    async with visit("cancel_courier"):
        await asyncio.sleep(WORK)


@activity(compensation=cancel_courier)
async def book_courier(order_id: str) -> str:
    async with visit("book_courier"):
        await asyncio.sleep(WORK)
        return f"courier-{order_id}"


@compensation
def refund_payment(order_id: str, result: str) -> None:
    with visit("refund_payment"):
        time.sleep(WORK)


# Plain functions run in threads: a blocking client of a bank needs nothing special.
@activity(compensation=refund_payment, retry=RetryPolicy(max_attempts=4, initial_interval=0.2))
def charge_payment(order_id: str, card: str, amount: Decimal) -> str:
    with visit("charge_payment"):
        time.sleep(WORK)
        if card == "tok_declined":
            raise PaymentDeclinedError(f"the bank declined {amount} for {order_id}")
        if card == "tok_unstable" and activity_context().attempt == 1:
            raise ConnectionError("the bank did not answer")
        # A real bank is given this key, and charges once however often it is asked.
        return activity_context().idempotency_key


@compensation
async def recall_shipment(order: Order) -> None:
    async with visit("recall_shipment"):
        await asyncio.sleep(WORK)


@activity(compensation=recall_shipment)
async def ship(order: Order) -> str:
    async with visit("ship"):
        await asyncio.sleep(LOADING if order.delivery == "pallet" else WORK)
        return f"track-{order.id}"


@activity
async def send_invoice(order: Order) -> None:
    async with visit("send_invoice"):
        await asyncio.sleep(WORK)


@workflow
async def order_workflow(ctx: WorkflowContext, order: Order) -> Receipt:
    await asyncio.gather(*(ctx.run(reserve_inventory, line) for line in order.lines))
    await ctx.run(book_courier, order.id)
    payment = await ctx.run(charge_payment, order.id, order.card, order.total)
    tracking, _ = await asyncio.gather(ctx.run(ship, order), ctx.run(send_invoice, order))
    return Receipt(order=order.id, charged=order.total, payment=payment, tracking=tracking)


@asynccontextmanager
async def resources() -> AsyncGenerator[Record]:
    path = os.environ.get("ORDERS_RECORD") or Path(tempfile.gettempdir()) / "romancy-orders.sqlite3"
    record = Record(Path(path))
    try:
        yield record
    finally:
        record.close()


app = App("orders", workflows=[order_workflow], lifespan=resources)


if __name__ == "__main__":
    # By name, because the demo imports this module in turn, as `main`, just as its workers do.
    sys.exit(import_module("demo").main())
