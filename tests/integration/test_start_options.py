"""Options of a start on a real server: delayed starts, and what is kept with an instance."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from romancy_nats import (
    ConfigurationError,
    InstanceNotFoundError,
    PayloadError,
    WorkflowCancelledError,
    WorkflowContext,
    workflow,
)
from tests.integration.outsider import outsider
from tests.integration.place import Place, until_status

pytestmark = pytest.mark.anyio

entered: list[float] = []


@pytest.fixture(autouse=True)
def fresh() -> None:
    entered.clear()


@workflow
async def note(ctx: WorkflowContext, what: str = "x") -> str:
    entered.append(time.time())
    return what


async def test_a_delayed_start_is_queued_and_begins_in_time(place: Place) -> None:
    async with place.run(note) as client:
        began = time.time()
        handle = await client.start(note.options(start_delay=timedelta(seconds=3)), "late")
        # At rest, so that no worker holds it.
        await _at_rest(handle)
        info = await handle.describe()
        assert (info.status, info.started_at, info.waiting_for) == ("queued", None, ("start",))
        assert await handle.result(8) == "late"
        assert 3.0 <= entered[0] - began < 4.0
        assert ((await handle.describe()).started_at or datetime.max.replace(tzinfo=UTC)).timestamp() > began


async def test_it_begins_with_a_worker_that_came_later(place: Place) -> None:
    async with place.client() as client:
        when = datetime.now(UTC) + timedelta(seconds=2.5)
        async with place.worker(note):
            handle = await client.start(note.options(id="planned", start_at=when))
            await _at_rest(handle)
        # Nobody is there when it is due.
        await asyncio.sleep(2.7)
        assert entered == []
        async with place.worker(note):
            assert await handle.result(5) == "x"
            assert entered[0] >= when.timestamp()
            # Both starts are the same one.
            assert await client.execute(note.options(id="planned", start_at=when)) == "x"
        assert len(entered) == 1


async def test_a_past_start_at_begins_at_once(place: Place) -> None:
    async with place.run(note) as client:
        past = datetime.now(UTC) - timedelta(days=1)
        assert await client.execute(note.options(start_at=past)) == "x"


async def test_a_delayed_start_can_be_cancelled(place: Place) -> None:
    async with place.run(note) as client:
        handle = await client.start(note.options(start_delay=3600))
        await _at_rest(handle)
        assert await handle.cancel("not any more")
        with pytest.raises(WorkflowCancelledError, match="not any more"):
            await handle.result(5)
        assert entered == []


async def test_the_timeout_of_a_delayed_start_counts_from_its_beginning(place: Place) -> None:
    @workflow
    async def slow(ctx: WorkflowContext) -> str:
        await asyncio.sleep(0.3)
        return "in time"

    async with place.run(slow) as client:
        assert await client.execute(slow.options(start_delay=1.5, timeout=1.0)) == "in time"


async def test_attributes_and_memo_are_kept_with_the_instance(place: Place) -> None:
    async with place.run(note) as client:
        mine = note.options(id="tagged", attributes={"city": "Köln", "size": 3}, memo={"by": "shop"})
        await client.execute(mine)
        info = await client.get("tagged", note).describe()
        assert (info.attributes, info.memo) == ({"city": "Köln", "size": 3}, {"by": "shop"})
        assert [i.attributes async for i in client.list(workflow=note)] == [info.attributes]


async def test_an_instance_is_kept_as_long_as_its_start_says(place: Place) -> None:
    quick = place.settings(archive_after=0.1)
    async with place.run(note, settings=quick) as client:
        short = await client.start(note.options(id="short", retention=1))
        await client.execute(note.options(id="usual"))
        assert await short.result(5) == "x"
        seen = client.get("short", note)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            try:
                await seen.status()
            except InstanceNotFoundError:
                break
            await asyncio.sleep(0.1)
        else:
            pytest.fail("it is still there")
        assert await client.get("usual", note).result(5) == "x"


async def test_a_bare_start_may_have_them_too(place: Place) -> None:
    when = datetime.now(UTC) + timedelta(seconds=2)
    headers = {
        "Romancy-Instance-Id": "bare",
        "Romancy-Start-At": when.isoformat(),
        "Romancy-Attributes": json.dumps({"a": 1}),
    }
    async with place.run(note) as client, outsider(place) as outside:
        await outside.start("note", b'{"what": "y"}', **headers)
        handle = client.get("bare", note)
        await until_status(handle, "completed")
        assert entered[0] >= when.timestamp()
        assert (await handle.describe()).attributes == {"a": 1}
        await outside.start("note", {"what": "y"}, Romancy_Instance_Id="bad", Romancy_Start_At="tomorrow")
        await until_status(client.get("bad", note), "rejected")


def test_options_that_make_no_sense_are_refused() -> None:
    now: datetime = datetime.now(UTC)
    with pytest.raises(ConfigurationError, match="not both"):
        note.options(start_delay=1, start_at=now)
    with pytest.raises(ConfigurationError, match="time zone"):
        note.options(start_at=now.replace(tzinfo=None))
    for bad in ({"x": object()}, {"x": float("nan")}, {"x": "y" * 20_000}):
        with pytest.raises(PayloadError):
            note.options(attributes=bad)


async def _at_rest(handle: Any) -> None:
    while True:
        info = await handle.describe()
        if info.updated_at is not None and info.owner is None:
            return
        await asyncio.sleep(0.01)
