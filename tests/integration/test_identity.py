"""Which instance a start, a handle or an id means; and starts that are refused."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any, cast

import pytest
from pydantic import ValidationError

from romancy_nats import (
    AmbiguousInstanceError,
    InstanceConflictError,
    InstanceNotFoundError,
    InvalidNameError,
    StartRejectedError,
    WorkflowContext,
    WorkflowFailedError,
    WorkflowTimeoutError,
    activity,
    activity_context,
    compensation,
    workflow,
)
from tests.integration.place import Place, until, until_status

pytestmark = pytest.mark.anyio

calls: list[Any] = []
held: set[str] = set()


@pytest.fixture(autouse=True)
def fresh() -> None:
    calls.clear()
    held.clear()


@activity
async def notes(what: str) -> int:
    calls.append(what)
    while what in held:
        await asyncio.sleep(0.005)
    return len(calls)


@workflow
async def once(ctx: WorkflowContext, what: str = "x") -> int:
    return await ctx.run(notes, what)


@workflow
async def twin(ctx: WorkflowContext, what: str = "x") -> int:
    return await ctx.run(notes, what)


@pytest.mark.parametrize("id", ["a.b", "a b*>", "ü€", "x" * 128, "line\r\nbreak\0", "A", "=41"])
async def test_any_id_works(place: Place, id: str) -> None:
    async with place.run(once) as client:
        handle = await client.start(once.options(id=id))
        assert handle.id == id
        assert await handle.result(5) == 1
        assert await client.get(id).result(5) == 1
        assert [info.id async for info in client.list()] == [id]


@pytest.mark.parametrize("id", ["", "x" * 129, "\ud800"])
async def test_ids_that_cannot_be_are_refused_before_sending(id: str) -> None:
    with pytest.raises(InvalidNameError):
        once.options(id=id)


async def test_case_matters(place: Place) -> None:
    async with place.run(once) as client:
        assert await client.execute(once.options(id="a")) == 1
        assert await client.execute(once.options(id="A")) == 2


async def test_an_id_is_made_up(place: Place) -> None:
    async with place.run(once) as client:
        first, second = await client.start(once), await client.start(once)
        assert first.id != second.id
        assert first.workflow == "once"


async def test_the_same_id_twice_is_one_instance(place: Place) -> None:
    mine = once.options(id="one")
    async with place.run(once) as client:
        handles = await asyncio.gather(*(client.start(mine, "x") for _ in range(5)))
        handles.append(await client.start(mine))  # the default, spelt otherwise
        assert [await handle.result(5) for handle in handles] == [1] * 6
        assert await client.execute(mine, what="x") == 1
    assert calls == ["x"]


async def test_the_same_id_with_another_input_is_a_conflict(place: Place) -> None:
    mine = once.options(id="one")
    async with place.run(once) as client:
        await client.execute(mine, "x")
        with pytest.raises(InstanceConflictError) as conflict:
            await client.start(mine, "y")
    assert (conflict.value.instance_id, conflict.value.workflow) == ("one", "once")
    assert calls == ["x"]


async def test_a_conflict_that_shows_later_is_raised_by_result(place: Place) -> None:
    mine = once.options(id="one")
    async with place.client() as client:
        async with place.worker(once):
            pass  # its queues are there now, nobody pulls
        first, second = await client.start(mine, "x"), await client.start(mine, "y")
        async with place.worker(once):
            assert await first.result(5) == 1
            with pytest.raises(InstanceConflictError):
                await second.result(5)
    assert calls == ["x"]


async def test_fail_on_conflict_always_raises(place: Place) -> None:
    mine = once.options(id="one", on_conflict="fail")
    async with place.client() as client:
        async with place.worker(once):
            pass
        first, second = await client.start(mine), await client.start(mine)
        async with place.worker(once):
            assert await first.result(5) == 1
            with pytest.raises(InstanceConflictError):
                await second.result(5)
            with pytest.raises(InstanceConflictError):
                await client.start(mine)
            assert await client.execute(once.options(id="one")) == 1
    assert calls == ["x"]


async def test_restart_ended_begins_a_new_generation(place: Place) -> None:
    mine = once.options(id="one", on_conflict="restart_ended")
    async with place.run(once) as client:
        assert await client.execute(mine) == 1
        again = await client.start(mine, "y")
        assert await again.result(5) == 2
        assert (await again.describe()).generation == 1
        assert await client.execute(mine, "y") == 3
        assert (await again.describe()).generation == 2
        with pytest.raises(InstanceConflictError):
            await client.start(once.options(id="one"), "x")
        assert await client.execute(once.options(id="one"), "y") == 3
    assert calls == ["x", "y", "y"]


async def test_each_generation_has_idempotency_keys_of_its_own(place: Place) -> None:
    @activity
    async def key_of() -> str:
        return activity_context().idempotency_key

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        return await ctx.run(key_of)

    mine = flow.options(id="a/b", on_conflict="restart_ended")
    async with place.run(flow) as client:
        keys = [await client.execute(mine), await client.execute(mine)]
        keys.append(await client.execute(flow.options(id="a")))
    assert len(set(keys)) == 3


async def test_restart_ended_joins_a_live_one(place: Place) -> None:
    mine = once.options(id="one", on_conflict="restart_ended")
    held.add("x")
    async with place.run(once) as client:
        first = await client.start(mine)
        await until(lambda: calls == ["x"])
        second = await client.start(mine)
        with pytest.raises(TimeoutError):
            await second.result(0.3)
        held.clear()
        assert await asyncio.gather(first.result(5), second.result(5)) == [1, 1]
    assert calls == ["x"]


async def test_by_name_without_types(place: Place) -> None:
    async with place.run(once) as client:
        handle = await client.start("once", what="z")
        assert await handle.result(5) == 1
        with pytest.raises(StartRejectedError):
            await client.execute("once", wrong=1)
    assert calls == ["z"]


async def test_a_start_waits_for_a_worker(place: Place) -> None:
    async with place.client() as client:
        handle = await client.start(once.options(id="early"))
        assert await handle.status() == "queued"
        assert await client.get("early", once).status() == "queued"
        async with place.worker(once):
            assert await handle.result(5) == 1


async def test_get_with_types_and_ambiguity(place: Place) -> None:
    async with place.run(once, twin) as client:
        await client.execute(once.options(id="both"))
        await client.execute(twin.options(id="both"))
        with pytest.raises(AmbiguousInstanceError) as ambiguous:
            await client.get("both").result(5)
        assert ambiguous.value.workflows == ("once", "twin")
        assert await client.get("both", twin).result(5) == 2
        assert await client.get("both", "once", result_type=int).result(5) == 1


async def test_an_unknown_id_is_not_found_when_awaited(place: Place) -> None:
    async with place.run(once) as client:
        for handle in (client.get("nobody"), client.get("nobody", once)):
            for awaited in (handle.result(5), handle.status(), handle.describe(), handle.cancel()):
                with pytest.raises(InstanceNotFoundError):
                    await awaited


@pytest.mark.parametrize("wrong", [(1,), ("a", "b"), (None,)])
async def test_arguments_that_do_not_fit_are_refused_before_sending(
    place: Place, wrong: tuple[Any, ...]
) -> None:
    async with place.run(once) as client:
        with pytest.raises(StartRejectedError) as refused:
            await client.start(cast("Any", once).options(id="bad"), *wrong)
        assert "once" in str(refused.value)
        if len(wrong) == 1:
            assert isinstance(_root_cause(refused.value), ValidationError)
        with pytest.raises(InstanceNotFoundError):
            await client.get("bad", once).status()


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


async def test_arguments_that_are_too_large_are_refused_before_sending(place: Place) -> None:
    async with place.run(once) as client:
        with pytest.raises(StartRejectedError, match="bytes"):
            await client.start(once, "x" * 2_000_000)


async def test_waiting_with_a_limit_harms_nothing(place: Place) -> None:
    held.add("x")
    async with place.run(once) as client:
        handle = await client.start(once)
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await handle.result(timeout=0.1)
        waiting = asyncio.create_task(handle.result())
        await asyncio.sleep(0.05)
        waiting.cancel()
        assert await handle.status() == "running"
        held.clear()
        assert await handle.result(5) == 1


async def test_list_and_count(place: Place) -> None:
    held.add("held")
    async with place.run(once, twin) as client:
        await client.execute(once.options(id="a"))
        await client.execute(twin.options(id="b"))
        running = await client.start(once.options(id="c"), "held")
        await until_status(running, "running")
        listed = {info.id async for info in client.list(workflow=once)}
        assert listed == {"a", "c"}
        assert {info.id async for info in client.list(status="completed")} == {"a", "b"}
        assert await client.count() == 3
        assert await client.count(workflow="once", status="running") == 1
        held.clear()


async def test_describe(place: Place) -> None:
    async with place.run(once) as client:
        handle = await client.start(once)
        await handle.result(5)
        info = await handle.describe()
    assert (info.id, info.workflow, info.status, info.generation) == (handle.id, "once", "completed", 0)
    assert (info.owner, info.error, info.parent, info.compensations) == (None, None, None, ())
    assert info.started_at is not None
    assert info.ended_at is not None
    assert info.started_at <= info.ended_at


async def test_a_workflow_that_takes_too_long_is_compensated_and_fails(place: Place) -> None:
    @compensation
    async def undo() -> None:
        calls.append("undone")

    @activity(compensation=undo)
    async def do() -> None:
        calls.append("done")

    @workflow
    async def endless(ctx: WorkflowContext) -> None:
        await ctx.run(do)
        await ctx.sleep(60)

    async with place.run(endless) as client:
        began = time.monotonic()
        with pytest.raises(WorkflowFailedError) as failed:
            await client.execute(endless.options(timeout=timedelta(seconds=0.3)))
        assert 0.3 <= time.monotonic() - began < 30
    assert failed.value.error_type == "WorkflowTimeoutError"
    assert isinstance(failed.value.__cause__, WorkflowTimeoutError)
    assert calls == ["done", "undone"]
