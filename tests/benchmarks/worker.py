"""One worker process: runs a workload until SIGTERM. Says `ready` on its standard output, then nothing."""

from __future__ import annotations

import logging
import sys

from tests.benchmarks import waiting_workload, workload
from tests.benchmarks.loops import run_on

APPS = {app.name: app for app in (workload.app, waiting_workload.app)}


async def work(name: str) -> None:
    """Run until drained."""
    async with APPS[name].worker() as worker:
        print("ready", flush=True)
        await worker.wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    run_on(sys.argv[1], work(sys.argv[2]))
