"""A saga whose worker dies by SIGKILL at one point of its protocol, one worker per point; another one finishes it."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from romancy_nats import WorkflowHandle
from tests.chaos.flows import failing_named
from tests.chaos.record import wall_clock
from tests.chaos.stage import Stage, staged
from tests.chaos.test_kills import judged

pytestmark = [pytest.mark.anyio, pytest.mark.chaos, pytest.mark.long]
# Record writes: 1 claims, 2 says compensating, 3 rests. Commits: 1 started, 2 and 3 reserved, 4 failed, 5 and 6 undone.
POINTS = (
    "write:1:before",
    "write:1:after",
    "append:1:before",
    "append:1:after",
    "begin:1:after",
    "end:2:after",
    "append:3:before",
    "append:4:after",
    "write:2:before",
    "write:2:after",
    "begin:4:after",
    "append:5:after",
    "append:6:after",
    "write:3:before",
    "write:3:after",
    "ack:1:before",
)


async def test_killed_at_every_sampled_point_of_a_saga(tmp_path: Path) -> None:
    flows = {point: failing_named("saga_" + point.replace(":", "_")) for point in POINTS}
    async with staged(tmp_path, seed=30) as stage:
        stage.flows = {flow.name: flow for flow in flows.values()}
        handles: list[WorkflowHandle[str]] = []
        for point, flow in flows.items():
            stage.fleet.spawn(flow.name, crash=point)
            handle = await stage.start(flow, "i1", 2, 0.0)
            assert handle is not None
            handles.append(handle)
        await all_died(stage)
        await asyncio.to_thread(stage.fleet.spawn(*stage.flows).await_ready)
        async with asyncio.TaskGroup() as group:
            for handle in handles:
                group.create_task(stage.result(handle))
        verdict = await judged(stage, "kill")
    assert verdict.counts["failed"] == len(POINTS)


async def all_died(stage: Stage) -> None:
    """Every victim reached its point."""
    victims = list(stage.fleet.workers)
    async with asyncio.timeout(40):
        for victim in victims:
            assert await asyncio.to_thread(victim.wait) == -signal.SIGKILL
            stage.fleet.died(victim, wall_clock())
