"""SIGKILLs of workers and of the server under load: every acknowledged start ends exactly once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.chaos.checker import Verdict, check, vacuous
from tests.chaos.flows import patient
from tests.chaos.stage import Stage, staged

pytestmark = [pytest.mark.anyio, pytest.mark.chaos]


async def judged(stage: Stage, *wanted: str) -> Verdict:
    """Nothing is wrong, and the faults were real."""
    evidence = await stage.evidence()
    verdict = check(evidence)
    assert verdict.violations == [], f"seed {stage.seed}, record {stage.fleet.record}"
    assert vacuous(evidence, verdict, *wanted) == []
    return verdict


async def test_workers_killed_under_load(tmp_path: Path) -> None:
    async with staged(tmp_path, seed=17, workers=3) as stage:

        async def kills() -> None:
            for _ in range(4):
                await asyncio.sleep(1.5)
                await stage.kill_one()

        async with asyncio.TaskGroup() as group:
            group.create_task(kills())
            await stage.load(200, 10, 0.15)
        verdict = await judged(stage, "kill")
    assert verdict.counts["workflows"] + verdict.counts["cancelled before the first claim"] == 200


async def test_the_server_killed_under_load(tmp_path: Path) -> None:
    async with staged(tmp_path, seed=18, workers=2) as stage:

        async def kills() -> None:
            for _ in range(2):
                await asyncio.sleep(1.5)
                await stage.restart_server()

        async with asyncio.TaskGroup() as group:
            group.create_task(kills())
            await stage.load(60, 5, 0.1)
        await judged(stage, "server")


async def test_a_cancel_while_nobody_holds_the_instance(tmp_path: Path) -> None:
    """The owner is dead and its lease is not: the cancel waits for whoever takes over."""
    async with staged(tmp_path, seed=19, workers=1) as stage:
        doomed = stage.fleet.workers[0]
        handles = [await stage.start(patient, f"i{n}", 0.0) for n in range(10)]
        stage.must_cancel.update((patient.name, f"i{n}") for n in range(10))
        await stage.at_work("touch", 10)
        successor = stage.fleet.spawn()
        stage.fleet.kill(doomed)
        await asyncio.to_thread(successor.await_ready)
        async with asyncio.TaskGroup() as group:
            for handle in handles:
                assert handle is not None
                group.create_task(stage.cancel(handle))
                group.create_task(stage.result(handle))
        verdict = await judged(stage, "kill")
    assert verdict.counts["cancelled"] == 10
