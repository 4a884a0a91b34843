"""Rules of workflow code on a real worker: another input stalls or is warned of, and bad calls are named."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

import anyio
import pytest

from romancy_nats import App, WorkflowContext, WorkflowStalledError, activity, workflow
from romancy_nats.settings import Settings
from tests.integration.place import Place, until_status

pytestmark = pytest.mark.anyio

given: dict[str, Any] = {}


@activity
async def price(city: str) -> str:
    return f"price in {city}"


@workflow
async def compare(ctx: WorkflowContext) -> str:
    found = await ctx.run(price, given["city"])
    with suppress(TimeoutError):
        await ctx.receive("go on", timeout=given["seconds"])
    return found


async def test_another_input_stalls_the_instance_until_code_that_fits(place: Place) -> None:
    given.update(city="Oslo", seconds=3600)
    async with place.client() as client:
        async with place.worker(compare):
            handle = await client.start(compare)
            await until_status(handle, "waiting_for_message")
        given["city"] = "Rome"
        async with place.worker(compare):
            await handle.send("something else", 1)
            with pytest.raises(WorkflowStalledError) as stalled:
                await handle.result(20)
            assert "- expected: ActivityScheduled" in str(stalled.value)
            assert 'city="Oslo"' in str(stalled.value)
            assert 'city="Rome"' in str(stalled.value)
            assert "ctx.run(price" in str(stalled.value)
            given["city"] = "Oslo"
            await handle.retry()
            await handle.send("go on", 1)
            assert await handle.result(20) == "price in Oslo"


async def test_with_warn_it_goes_on_with_what_was_recorded(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    given.update(city="Oslo", seconds=3600)
    async with place.client() as client:
        async with place.worker(compare):
            handle = await client.start(compare)
            await until_status(handle, "waiting_for_message")
        given["city"] = "Rome"
        async with place.worker(compare, inputs="warn"):
            await handle.send("go on", 1)
            assert await handle.result(20) == "price in Oslo"
    warned = [
        record for record in caplog.records if "goes on with what was recorded (" in record.getMessage()
    ]
    assert len(warned) == 1


async def test_a_recorded_time_counts_after_a_deploy_that_asks_for_another(place: Place) -> None:
    given.update(city="Oslo", seconds=4.0)
    async with place.client() as client:
        async with place.worker(compare):
            handle = await client.start(compare)
            await until_status(handle, "waiting_for_message")
            began = time.time()
        given["seconds"] = 3600
        async with place.worker(compare):
            # The server's schedule wakes it: its code is replayed, and asks for an hour.
            assert await handle.result(20) == "price in Oslo"
            assert time.time() > began + 3.0


@workflow
async def reads_the_clock(ctx: WorkflowContext) -> bool:
    return time.time() > 0


@pytest.mark.parametrize(("setting", "expected"), [(None, True), (False, False)], ids=["as it is", "off"])
async def test_app_run_with_a_server_of_its_own_names_the_line(
    setting: bool | None, expected: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("a", workflows=[reads_the_clock], settings=Settings(watch_workflow_code=setting, shards=1))
    async with app.run() as client:
        assert await client.execute(reads_the_clock)
    told = [record.getMessage() for record in caplog.records if "time.time()" in record.getMessage()]
    assert bool(told) is expected
    assert all(line.startswith(f"{__file__}:") for line in told)


WORKER = """
import asyncio, logging, sys
from romancy_nats import App
logging.basicConfig(level="WARNING")
async def main():
    app = App("hashes", workflows=[])
    for _ in range(2):
        async with app.worker(sys.argv[1]):
            pass
asyncio.run(main())
"""


@pytest.mark.parametrize(("seed", "lines"), [("random", 1), ("7", 0), ("0", 0)])
async def test_a_worker_of_its_own_program_warns_once_of_random_hashes(
    place: Place, seed: str, lines: int
) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": seed, "ROMANCY_NAMESPACE": place.namespace}
    done = await anyio.run_process(
        [sys.executable, "-c", WORKER, place.url],
        env={**environment, "ROMANCY_SHARDS": "1"},
        stderr=subprocess.STDOUT,
    )
    assert done.stdout.decode().count("PYTHONHASHSEED") == lines, done.stdout.decode()
