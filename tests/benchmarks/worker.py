"""One worker process: runs the workload until SIGTERM. Says `ready` on its standard output, then nothing."""

from __future__ import annotations

import logging
import sys

from tests.benchmarks.loops import run_on
from tests.benchmarks.workload import app


async def work() -> None:
    """Run until drained."""
    async with app.worker() as worker:
        print("ready", flush=True)
        await worker.wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    run_on(sys.argv[1], work())
