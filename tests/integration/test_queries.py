"""Queries look, from wherever the workflow is; updates change, once, and are answered."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from romancy_nats import (
    Client,
    InstanceNotFoundError,
    QueryError,
    UpdateFailedError,
    UpdateRejectedError,
    WorkflowContext,
    WorkflowHandle,
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


class Line(BaseModel):
    item: str
    price: int


@activity
async def price_of(item: str) -> int:
    calls.append(item)
    return len(item)


@activity
async def hold(seconds: float) -> None:
    calls.append("hold")
    await asyncio.sleep(seconds)


def positive(amount: int) -> None:
    if amount <= 0:
        raise ValueError(f"{amount} is not positive")


@workflow
async def cart(ctx: WorkflowContext, held: float = 0.0) -> int:
    total = 0
    lines: list[Line] = []

    def add(amount: int) -> int:
        nonlocal total
        total += amount
        return total

    async def buy(item: str, *, times: int = 1) -> int:
        price = await ctx.run(price_of, item)
        lines.append(Line(item=item, price=price))
        return add(price * times)

    async def fail() -> None:
        raise KeyError("no such thing")

    async def look() -> int:
        return total

    async def wait() -> None:
        await ctx.sleep(1)

    ctx.on_query("total", lambda: total)
    ctx.on_query("look", look)
    ctx.on_query("lines", lambda: lines)
    ctx.on_query("above", lambda least: total > least)
    ctx.on_query("broken", lambda: 1 // 0)
    ctx.on_query("greedy", lambda: ctx.run(price_of, "x"))
    ctx.on_query("emitting", lambda: ctx.emit("x", durable=True))
    ctx.on_query("spawning", lambda: asyncio.create_task(look()))
    ctx.on_query("waiting", wait)
    ctx.on_update("add", add, positive)
    ctx.on_update("buy", buy)
    ctx.on_update("fail", fail)
    if held:
        await ctx.run(hold, held)
    await ctx.receive("done")
    ctx.on_update("late", add)
    await ctx.receive("gone")
    return total


async def started(client: Client, **kwargs: Any) -> WorkflowHandle[int]:
    handle = await client.start(cart, **kwargs)
    await until_status(handle, "running" if kwargs else "waiting_for_message")
    return handle


async def ended(handle: WorkflowHandle[int]) -> int:
    await handle.send("done", None)
    await handle.send("gone", None)
    return await handle.result(10)


async def test_a_query_right_after_the_start(place: Place) -> None:
    async with place.run(cart) as client:
        handle = await client.start(cart)
        assert await handle.query("total") == 0


async def test_the_owner_answers(place: Place) -> None:
    async with place.run(cart) as client:
        handle = await started(client, held=3.0)
        await until(lambda: "hold" in calls)
        assert await handle.query("total") == 0
        assert await handle.query("above", -1) is True
        assert await handle.query("above", least=0) is False
        assert await handle.query("look") == 0
        assert calls == ["hold"]
        await handle.terminate()


async def test_the_cache_answers(place: Place) -> None:
    async with place.run(cart) as client:
        handle = await started(client)
        before = len(await handle.history())
        assert await handle.query("total") == 0
        assert await handle.status() == "waiting_for_message"
        assert len(await handle.history()) == before
        assert await handle.update("add", 3) == 3
        await until_status(handle, "waiting_for_message")
        assert await handle.query("total") == 3


async def test_another_worker_replays(place: Place) -> None:
    async with place.client() as client:
        async with place.worker(cart):
            handle = await started(client)
            assert await handle.update("buy", "tea") == 3
            await until_status(handle, "waiting_for_message")
        revision = (await handle.describe()).updated_at
        async with place.worker(cart):
            assert await handle.query("total") == 3
            assert await handle.query("lines") == [{"item": "tea", "price": 3}]
            assert (await handle.describe()).updated_at == revision
            assert calls == ["tea"]


async def test_any_of_two_workers_answers(place: Place) -> None:
    async with place.worker(cart) as one, place.worker(cart) as other, place.client() as client:
        handle = await started(client, held=5.0)
        await until(lambda: one.instances + other.instances == 1)
        assert [await handle.query("total") for _ in range(20)] == [0] * 20
        assert await handle.update("add", 4) == 4
        assert [await handle.query("total") for _ in range(20)] == [4] * 20
        await handle.terminate()


async def test_two_workers_and_an_instance_at_rest(place: Place) -> None:
    async with place.worker(cart), place.worker(cart), place.client() as client:
        handle = await started(client)
        for n in range(1, 6):
            assert await handle.update("add", 1) == n
            assert {await handle.query("total") for _ in range(6)} == {n}


async def test_an_ended_instance_answers(place: Place) -> None:
    async with place.client() as client:
        async with place.worker(cart):
            handle = await started(client)
            await handle.update("add", 2)
            assert await ended(handle) == 2
            assert await handle.query("total") == 2
        async with place.worker(cart):
            assert await handle.query("total") == 2


async def test_an_archived_instance_answers(place: Place) -> None:
    settings = place.settings(archive_after=0.0)
    async with place.run(cart, settings=settings) as client:
        handle = await started(client)
        await handle.update("add", 2)
        await ended(handle)
        key = await handle._target.key()

        async def archived() -> bool:
            held = await session_of(client).world.ledger.read(key)
            return held is not None and bool(held.record.archived)

        for _ in range(500):
            if await archived():
                break
            await asyncio.sleep(0.02)
        assert await archived()
        assert await handle.query("total") == 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "answers no query 'nothing'"),
        ("broken", "ZeroDivisionError"),
        ("greedy", "only looks"),
        ("emitting", "only looks"),
        ("spawning", "only looks"),
        ("waiting", "only looks"),
    ],
)
async def test_queries_that_cannot_be_answered(place: Place, name: str, said: str) -> None:
    async with place.run(cart) as client:
        handle = await started(client)
        with pytest.raises(QueryError, match=said):
            await handle.query(name)
        assert await handle.query("total") == 0
        assert await handle.update("buy", "x") == 1
        assert await ended(handle) == 1


async def test_wrong_arguments_of_a_query(place: Place) -> None:
    async with place.run(cart) as client:
        handle = await started(client)
        with pytest.raises(QueryError, match="total"):
            await handle.query("total", 1, 2)


async def test_nobody_there(place: Place) -> None:
    async with place.run(cart) as client:
        with pytest.raises(InstanceNotFoundError):
            await client.get("nobody", cart).query("total")
        with pytest.raises(InstanceNotFoundError):
            await client.get("nobody", cart).update("add", 1)


async def test_no_worker_there(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("romancy_nats.client.calls._PATIENCE", 0.3)
    async with place.client() as client:
        async with place.worker(cart):
            handle = await started(client)
        with pytest.raises(QueryError, match="no worker with workflow 'cart'"):
            await handle.query("total")


async def test_updates_are_recorded_and_answered(place: Place) -> None:
    async with place.run(cart) as client:
        handle = await started(client)
        assert await handle.update("add", 3) == 3
        assert await handle.update("buy", "tea", times=2) == 9
        assert calls == ["tea"]
        kinds = [type(e).__name__ for c in await handle.history() for e in c.events]
        assert kinds.count("UpdateRequested") == kinds.count("UpdateAnswered") == 2
        assert await ended(handle) == 9


async def test_updates_at_once(place: Place) -> None:
    async with place.run(cart) as client:
        handle = await started(client)
        answers = await asyncio.gather(*(handle.update("add", 1) for _ in range(20)))
        assert sorted(answers) == list(range(1, 21))


async def test_an_update_is_rejected_by_its_validator(place: Place) -> None:
    async with place.run(cart) as client:
        handle = await started(client)
        with pytest.raises(UpdateRejectedError, match="-1 is not positive") as caught:
            await handle.update("add", -1)
        assert isinstance(caught.value.__cause__, ValueError)
        with pytest.raises(UpdateRejectedError, match="add"):
            await handle.update("add", "text")
        assert await handle.query("total") == 0


async def test_an_update_fails(place: Place) -> None:
    async with place.run(cart) as client:
        handle = await started(client)
        with pytest.raises(UpdateFailedError) as caught:
            await handle.update("fail")
        assert caught.value.error_type == "KeyError"
        assert isinstance(caught.value.__cause__, KeyError)
        assert await handle.update("add", 1) == 1


async def test_the_same_message_id_is_one_update(place: Place) -> None:
    async with place.client() as client:
        async with place.worker(cart):
            handle = await started(client)
            assert await handle.update("add", 3, message_id="once") == 3
            assert await handle.update("add", 3, message_id="once") == 3
            both = [handle.update("buy", "tea", message_id="two") for _ in range(2)]
            assert await asyncio.gather(*both) == [6, 6]
            assert await ended(handle) == 6
            assert await handle.update("add", 3, message_id="once") == 3
            with pytest.raises(UpdateRejectedError):
                await handle.update("add", 3, message_id="other")


async def test_an_update_waits_for_its_handler(place: Place) -> None:
    async with place.run(cart) as client:
        handle = await started(client)
        waiting = asyncio.ensure_future(handle.update("late", 7))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        await handle.send("done", None)
        assert await waiting == 7


async def test_an_update_that_waits_is_rejected_by_the_end(place: Place) -> None:
    async with place.run(cart) as client:
        handle = await started(client)
        waiting = [asyncio.ensure_future(handle.update(name)) for name in ("never", "ever")]
        await asyncio.sleep(0.3)
        await handle.cancel("enough")
        for one in waiting:
            with pytest.raises(UpdateRejectedError, match="ended"):
                await one
        with pytest.raises(UpdateRejectedError, match="ended"):
            await handle.update("add", 1)


async def test_an_update_is_answered_by_the_worker_that_takes_over(place: Place) -> None:
    async with place.client() as client:
        async with place.worker(cart):
            handle = await started(client)
            waiting = asyncio.ensure_future(handle.update("late", 7))
            await until_status(handle, "waiting_for_message")
            await asyncio.sleep(0.3)
        async with place.worker(cart):
            await handle.send("done", None)
            assert await asyncio.wait_for(waiting, 10) == 7
