"""One worker process under faults: `python -m tests.chaos.worker_main RECORD [WORKFLOW…]`. Says `ready` on stdout.

A WORKFLOW named here is the failing saga under that name; without any, all shapes are run.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from romancy_nats import Settings
from romancy_nats.composition import connect_world, tuning
from romancy_nats.worker import running_worker
from tests.chaos.crash import VARIABLE, CrashPoint, fragile
from tests.chaos.flows import WORKFLOWS, failing_named
from tests.chaos.record import Record


async def work(path: Path, names: list[str]) -> None:
    """Run until SIGTERM."""
    settings = Settings()
    workflows = [failing_named(name) for name in names] or WORKFLOWS
    point = os.environ.get(VARIABLE, "")
    crash = CrashPoint(point) if point else None
    record = Record(path, crash.line) if crash else Record(path)

    @asynccontextmanager
    async def resources() -> AsyncGenerator[Record]:
        yield record

    async with connect_world(settings, name="chaos") as world:
        await world.ensure_consumers({flow.name: flow.max_concurrency for flow in workflows})
        async with running_worker(
            fragile(world, record, crash), workflows, tuning(settings), lifespan=resources, signals=True
        ) as worker:
            print("ready", flush=True)
            await worker.wait()
    record.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(name)s %(message)s")
    asyncio.run(work(Path(sys.argv[1]), sys.argv[2:]))
