"""Converters, checks against the clock and hidden state through a real server: once, live as in replay."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
from pydantic import (
    AfterValidator,
    Base64Bytes,
    BaseModel,
    BeforeValidator,
    Json,
    PrivateAttr,
    model_validator,
)

from romancy_nats import WorkflowContext, activity, compensation, workflow
from tests.integration.outsider import outsider
from tests.integration.place import Place, until

pytestmark = pytest.mark.anyio

Cents = Annotated[int, BeforeValidator(lambda euros: round(float(euros) * 100))]
Next = Annotated[int, AfterValidator(lambda n: n + 1)]
clock = {"expired": False}
seen: list[Any] = []


@pytest.fixture(autouse=True)
def fresh() -> None:
    clock["expired"] = False
    seen.clear()


@dataclass
class Quote:
    price: int
    total: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if clock["expired"]:
            raise ValueError("this quote has expired")
        self.total = self.price * 2


class Ticket(BaseModel):
    number: int
    _hits: int = PrivateAttr(default=0)

    @model_validator(mode="after")
    def counted(self) -> Ticket:
        if clock["expired"]:
            raise ValueError("this ticket has expired")
        self.number += 1
        return self


@compensation
async def refund(amount: Cents, result: Next) -> None:
    seen.append(("refund", amount, result))


@activity(compensation=refund)
async def charge(amount: Cents) -> Next:
    seen.append(("charge", amount))
    return amount


@activity
async def look(quote: Quote, tickets: list[Ticket]) -> list[Any]:
    return [quote.total, tickets[0].number, tickets[0]._hits]


@workflow
async def all_of_it(
    ctx: WorkflowContext, amount: Cents, n: Next, many: Json[list[Cents]], data: Base64Bytes
) -> tuple[int, int, list[int], str, Next]:
    charged = await ctx.run(charge, "5.25")  # type: ignore[arg-type]
    seen.append(("at", time.monotonic()))
    await ctx.receive("go on")
    return amount, n, many, data.decode(), charged


@workflow
async def carried(ctx: WorkflowContext, quote: Quote, tickets: list[Ticket]) -> list[Any]:
    found = [quote.total, tickets[0].number, tickets[0]._hits, await ctx.run(look, quote, tickets)]
    seen.append("waits")
    await ctx.receive("go on")
    return found


@workflow
async def undone(ctx: WorkflowContext) -> None:
    await ctx.run(charge, "5.25")  # type: ignore[arg-type]
    raise ValueError("no")


async def test_a_start_and_an_activity_convert_once(place: Place) -> None:
    async with place.handed_over(
        all_of_it,
        ready=lambda: any(what[0] == "at" for what in seen),
        start=lambda client: client.start(all_of_it, "5.25", 5, "[1, 2]", b"aGVsbG8="),  # type: ignore[arg-type]
    ) as (_, handle):
        await handle.send("go on", True)
        # the result is annotated with a converter, too: entered once, when it is returned
        assert await handle.result(10) == (525, 6, [100, 200], "hello", 527)
        assert ("charge", 525) in seen


async def test_a_bare_message_converts_once(place: Place) -> None:
    async with place.run(all_of_it) as client, outsider(place) as stranger:
        await stranger.start(
            "all_of_it",
            {"amount": "5.25", "n": 5, "many": "[1, 2]", "data": "aGVsbG8="},
            Romancy_Instance_Id="bare",
        )
        await until(lambda: any(what[0] == "at" for what in seen))
        handle = client.get("bare", all_of_it)
        await handle.send("go on", True)
        assert await handle.result(10) == (525, 6, [100, 200], "hello", 527)


async def test_what_was_valid_is_put_back_as_the_caller_had_it(place: Place) -> None:
    quote, ticket = Quote(5), Ticket(number=1)
    quote.total, ticket._hits = 11, 3
    async with place.handed_over(
        carried,
        ready=lambda: "waits" in seen,
        start=lambda client: client.start(carried, quote, [ticket]),
    ) as (_, handle):
        clock["expired"] = True
        await handle.send("go on", True)
        assert await handle.result(10) == [11, 2, 3, [11, 2, 3]]


async def test_a_compensation_converts_nothing_again(place: Place) -> None:
    async with place.run(undone) as client:
        handle = await client.start(undone)
        with pytest.raises(Exception, match="no"):
            await handle.result(10)
        assert ("refund", 525, 526) in seen
