"""Starting by a bare message, from any language: forms of body, headers, ids, answers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgpack
import pytest
from pydantic import BaseModel

from romancy_nats import Client, WorkflowContext, workflow
from romancy_nats.core.events import WorkflowStarted
from tests.integration.outsider import Outsider, outsider
from tests.integration.place import Place, until

pytestmark = pytest.mark.anyio

bodies: list[Any] = []


@pytest.fixture(autouse=True)
def fresh() -> None:
    bodies.clear()


class Order(BaseModel):
    customer: str
    total: Decimal


@dataclass
class Parcel:
    weight: int


@workflow
async def pair(ctx: WorkflowContext, a: str, b: str = "B") -> str:
    bodies.append((a, b))
    return a + b


@workflow
async def modelled(ctx: WorkflowContext, order: Order) -> str:
    return f"{order.customer} {order.total!r}"


@workflow
async def classed(ctx: WorkflowContext, parcel: Parcel) -> int:
    return parcel.weight


@workflow
async def bare(ctx: WorkflowContext) -> str:
    return "nothing needed"


@workflow
async def dated(ctx: WorkflowContext, at: datetime, price: Decimal) -> tuple[datetime, Decimal]:
    return at, price


@workflow(name="with.dots and spaces")
async def dotted(ctx: WorkflowContext) -> str:
    return "dotted"


async def result_of(client: Client, program: Outsider, workflow: str, body: Any, **headers: str) -> Any:
    answer = await program.ask(workflow, body, **headers)
    assert answer["workflow"] == workflow
    return await client.get(answer["id"], answer["workflow"]).result(10)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"args": ["a", "b"]}, {}),
        ({"args": ["a"], "kwargs": {"b": "b"}}, {}),
        ({"kwargs": {"a": "a", "b": "b"}}, {}),
        ({"a": "a", "b": "b"}, {}),
        ({"a": "a", "b": "b"}, {"Content_Type": "application/json; charset=utf-8"}),
        (msgpack.packb({"args": ["a", "b"]}), {}),
        (msgpack.packb({"a": "a", "b": "b"}), {"Content_Type": "application/msgpack"}),
        (b'  \n{"args": ["a", "b"]}', {}),
    ],
    ids=["args", "args and kwargs", "kwargs", "object", "typed json", "msgpack", "typed msgpack", "blanks"],
)
async def test_forms_of_a_body(place: Place, body: Any, headers: dict[str, str]) -> None:
    async with place.run(pair) as client, outsider(place) as program:
        assert await result_of(client, program, "pair", body, **headers) == "ab"
    assert bodies == [("a", "b")]


async def test_a_default_may_be_left_out(place: Place) -> None:
    async with place.run(pair) as client, outsider(place) as program:
        assert await result_of(client, program, "pair", {"a": "x"}) == "xB"


async def test_the_one_model_parameter_itself(place: Place) -> None:
    async with place.run(modelled, classed) as client, outsider(place) as program:
        order = {"customer": "ann", "total": "1.10"}
        for body in (order, {"order": order}, {"args": [order]}):
            assert await result_of(client, program, "modelled", body) == "ann Decimal('1.10')"
        for body in ({"weight": 3}, {"parcel": {"weight": 3}}):
            assert await result_of(client, program, "classed", body) == 3


async def test_no_body_is_a_call_without_arguments(place: Place) -> None:
    async with place.run(bare) as client, outsider(place) as program:
        for body in (b"", {}, {"args": []}):
            assert await result_of(client, program, "bare", body) == "nothing needed"


async def test_plain_values_become_what_the_workflow_declares(place: Place) -> None:
    async with place.run(dated) as client, outsider(place) as program:
        answer = await program.ask("dated", {"at": "2026-01-02T03:04:05Z", "price": "1.10"})
        at, price = await client.get(answer["id"], dated).result(10)
    assert (at.isoformat(), price) == ("2026-01-02T03:04:05+00:00", Decimal("1.10"))


async def test_the_id_of_the_header_is_the_id(place: Place) -> None:
    async with place.run(pair) as client, outsider(place) as program:
        answer = await program.ask("pair", {"a": "1"}, Romancy_Instance_Id="order 17.x")
        assert answer == {"workflow": "pair", "id": "order 17.x"}
        assert await client.get("order 17.x").result(5) == "1B"


async def test_without_an_id_it_is_derived_from_stream_and_sequence(place: Place) -> None:
    async with place.run(pair) as client, outsider(place) as program:
        sequence = await program.start("pair", {"a": "1"})
        id = f"{place.namespace.upper()}_START-{sequence}"
        await until(lambda: bool(bodies))
        assert await client.get(id, pair).result(5) == "1B"


async def test_the_server_drops_a_second_message_with_the_same_id(place: Place) -> None:
    async with place.run(pair) as client, outsider(place) as program:
        first = await program.start("pair", {"a": "1"}, Nats_Msg_Id="m1")
        assert await program.start("pair", {"a": "1"}, Nats_Msg_Id="m1") == first
        await until(lambda: bool(bodies))
        assert await client.count() == 1


async def test_the_same_instance_id_twice_is_one_instance_for_a_typed_client_too(place: Place) -> None:
    async with place.run(pair) as client, outsider(place) as program:
        for body in ({"a": "1"}, {"args": ["1", "B"]}):
            answer = await program.ask("pair", body, Romancy_Instance_Id="one")
            assert answer["id"] == "one"
        assert await client.execute(pair.options(id="one"), "1") == "1B"
    assert bodies == [("1", "B")]


async def test_a_conflict_is_answered_and_parked(place: Place) -> None:
    async with place.run(pair) as client, outsider(place) as program:
        await program.ask("pair", {"a": "1"}, Romancy_Instance_Id="one")
        answer = await program.ask("pair", {"a": "2"}, Romancy_Instance_Id="one")
        assert answer["error"] == "InstanceConflictError"
        assert "one" in answer["message"]
        (letter,) = await program.dead_letters("pair")
        assert letter.headers is not None
        assert "InstanceConflictError" in letter.headers["Romancy-Reason"]
        assert await client.get("one").result(5) == "1B"


async def test_the_trace_is_kept_in_history(place: Place) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with place.run(bare) as client, outsider(place) as program:
        answer = await program.ask("bare", b"", traceparent=trace)
        started = (await client.get(answer["id"]).history())[0].events[0]
    assert isinstance(started, WorkflowStarted)
    assert started.trace == trace


async def test_a_name_with_dots_is_spelled_encoded_in_the_subject(place: Place) -> None:
    async with place.run(dotted) as client, outsider(place) as program:
        answer = await program.ask("with=2Edots=20and=20spaces")
        assert answer["workflow"] == "with.dots and spaces"
        assert await client.get(answer["id"]).result(5) == "dotted"


async def test_a_start_that_comes_before_its_worker_is_kept(place: Place) -> None:
    async with place.client() as client, outsider(place) as program:
        await client.send_event("first.write")  # the streams are there from now on
        await program.start("pair", {"a": "1"}, Romancy_Instance_Id="early")
        assert await client.get("early", "pair").status() == "queued"
        async with place.worker(pair):
            assert await client.get("early", pair).result(5) == "1B"
