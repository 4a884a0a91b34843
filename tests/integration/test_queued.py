"""Starts that nobody has claimed yet: found by id alone, shown, waited for, cancelled, and in conflict."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest

from romancy_nats import (
    InstanceConflictError,
    InstanceNotFoundError,
    ResultTimeoutError,
    RomancyError,
    WorkflowCancelledError,
    WorkflowContext,
    WorkflowTerminatedError,
    workflow,
)
from romancy_nats.client.client import session_of
from tests.integration.place import Place, until, until_status

pytestmark = pytest.mark.anyio
entered: list[str] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    entered.clear()


@workflow
async def later(ctx: WorkflowContext, what: str = "x") -> str:
    entered.append(what)
    return what


@workflow
async def other(ctx: WorkflowContext) -> None: ...


@workflow
async def within(ctx: WorkflowContext) -> None:
    await ctx.sleep(0.2)


async def test_a_start_that_nobody_claimed_is_found_by_its_id_alone(place: Place) -> None:
    async with place.client() as client:
        for number in range(3):
            await client.start(other.options(id=f"other-{number}"))
        sent = time.time()
        options = later.options(id="order 17.x", attributes={"customer": "ä"}, memo={"n": 1})
        await client.start(options, "y")
        handle = client.get("order 17.x")
        assert await handle.status() == "queued"
        info = await handle.describe()
        assert (info.workflow, info.status, info.started_at) == ("later", "queued", None)
        assert (info.attributes, info.memo) == ({"customer": "ä"}, {"n": 1})
        assert info.created_at is not None
        assert abs(info.created_at.timestamp() - sent) < 5
        assert await handle.history() == []
        for status in (None, "queued"):
            found = {one.id: one async for one in client.list(status=status)}
            assert set(found) == {"other-0", "other-1", "other-2", "order 17.x"}
            assert found["order 17.x"].created_at == info.created_at
        assert await client.count(workflow="later") == 1
        assert await client.count(status="completed") == 0
        result = asyncio.create_task(client.get("order 17.x").result())
        created = info.created_at
        async with place.worker(later, other):
            assert await asyncio.wait_for(result, 10) == "y"
            info = await handle.describe()
        # When it was sent, which stays; when it was claimed is another time.
        assert info.created_at == created
        assert info.started_at is not None
        assert info.started_at > created
        assert await client.count(workflow="later") == 1


async def test_a_bare_start_without_an_id_is_found_by_the_id_that_it_will_have(place: Place) -> None:
    async with place.client() as client:
        await client.start(other.options(id="first"))  # its streams are there now
        world: Any = session_of(client).world
        reply = await world.connection.call(f"{place.namespace}.start.later", b'{"args": ["bare"]}')
        sequence = reply.json()["seq"]
        handle = client.get(f"{place.namespace.upper()}_START-{sequence}")
        assert await handle.status() == "queued"
        assert handle.workflow == "later"
        async with place.worker(later):
            assert await handle.result(10) == "bare"


async def test_what_is_nowhere_is_not_found(place: Place) -> None:
    async with place.client() as client:
        for id in ("nobody", "T_START-1", f"{place.namespace.upper()}_START-7", "x-99999999999999999999999"):
            with pytest.raises(InstanceNotFoundError):
                await client.get(id).status()
        assert [one async for one in client.list()] == []
        await client.start(later.options(id="Order"))
        with pytest.raises(InstanceNotFoundError):
            await client.get("order").status()
        with pytest.raises(InstanceNotFoundError):
            await client.get("Order", "other").status()


@pytest.mark.parametrize("verb", ["cancel", "terminate"])
async def test_it_can_be_ended_by_its_id_alone(place: Place, verb: str) -> None:
    async with place.client() as client:
        started = await client.start(later.options(id="a"))
        created = (await started.describe()).created_at
        handle = client.get("a")
        assert await getattr(handle, verb)("not any more")
        with pytest.raises((WorkflowCancelledError, WorkflowTerminatedError), match="not any more"):
            await handle.result(5)
        assert (await handle.describe()).created_at == created
        async with place.worker(later):
            await client.execute(later.options(id="b"))
        assert entered == ["x"]


async def test_a_limit_counts_from_the_first_claim_not_from_when_it_was_sent(place: Place) -> None:
    async with place.client() as client:
        handle = await client.start(within.options(id="a", timeout=1.5))
        await asyncio.sleep(2)
        async with place.worker(within):
            await handle.result(10)


async def test_another_input_for_a_queued_start_is_told_once_one_of_them_is_claimed(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async with place.client() as client:
        first = await client.start(later.options(id="one"), "a")
        second = await client.start(later.options(id="one"), "b")
        again = await client.start(later.options(id="one"), "a")
        late = asyncio.create_task(second.result(30))
        assert await first.status() == await again.status() == "queued"
        async with place.worker(later):
            assert await first.result(10) == "a"
            with pytest.raises(InstanceConflictError):
                await late
            with pytest.raises(InstanceConflictError):
                await second.status()

            def told() -> bool:
                return any("'one' exists with another input" in one.getMessage() for one in caplog.records)

            with caplog.at_level(logging.WARNING):
                await until(told)
    assert entered == ["a"]


# --- time-outs


async def test_a_time_out_names_the_instance_and_says_that_nobody_serves_its_workflow(place: Place) -> None:
    async with place.client() as client:
        started = await client.start(later.options(id="order-17"))
        for handle in (started, client.get("order-17"), client.get("order-17", later)):
            with pytest.raises(TimeoutError) as caught:
                await handle.result(0.2)
            error = caught.value
            assert isinstance(error, ResultTimeoutError)
            assert isinstance(error, RomancyError)
            assert (error.instance_id, error.workflow, error.status) == ("order-17", "later", "queued")
            assert error.seconds == 0.2
            assert "no worker serves" in error.unserved
            for part in ("'order-17'", "'later'", "queued", "0.2 s", "no worker serves"):
                assert part in str(error)


async def test_a_time_out_while_it_runs_says_so(place: Place) -> None:
    @workflow
    async def waits(ctx: WorkflowContext) -> None:
        await ctx.wait_event("never")

    async with place.run(waits) as client:
        handle = await client.start(waits)
        await until_status(handle, "waiting_for_event")
        with pytest.raises(TimeoutError, match=f"'{handle.id}'.*waiting_for_event") as caught:
            await handle.result(0.2)
        assert "no worker" not in str(caught.value)
        # A time-out around it stays what it is.
        with pytest.raises(TimeoutError) as outer:
            async with asyncio.timeout(0.2):
                await handle.result()
        assert not isinstance(outer.value, ResultTimeoutError)
        with pytest.raises(InstanceNotFoundError):
            await client.get("nobody").result(0.5)


# --- many


@pytest.mark.long
async def test_thousands_of_queued_starts_are_listed_page_by_page(place: Place) -> None:
    async with place.client() as client:
        many = 3_000
        await asyncio.gather(*(client.start(later.options(id=f"i{n}"), str(n)) for n in range(many)))
        ids = [one.id async for one in client.list(status="queued")]
        assert len(ids) == len(set(ids)) == await client.count() == many
        assert await client.get(f"i{many - 1}").status() == "queued"


async def test_what_is_claimed_is_listed_once(place: Place) -> None:
    @workflow
    async def stays(ctx: WorkflowContext) -> None:
        await ctx.wait_event("never")

    async with place.client() as client:
        await asyncio.gather(*(client.start(stays.options(id=f"i{n}")) for n in range(40)))
        async with place.worker(stays):
            for _ in range(20):
                ids = [one.id async for one in client.list()]
                assert sorted(ids) == sorted(f"i{n}" for n in range(40))
                await asyncio.sleep(0.01)
