"""A worker process of the tests of its life, and its workflows: `python -m tests.integration.lives`. Judges nothing.

Settings come from the environment; activities write what they really did to the file LIVES_RECORD.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path
from typing import NamedTuple

from romancy_nats import App, RetryPolicy, WorkflowContext, activity, activity_context, workflow

RECORD = "LIVES_RECORD"


class Line(NamedTuple):
    """What an activity did: `begin` or `end`, its id, where and when (wall clock)."""

    what: str
    id: str
    pid: int
    at: float


def write(what: str) -> None:
    context = activity_context()
    line = f"{what} {context.instance_id}/{context.activity_id} {os.getpid()} {time.time()}\n"
    with Path(os.environ[RECORD]).open("a") as file:
        file.write(line)


def read(path: Path) -> list[Line]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [Line(what, id, int(pid), float(at)) for what, id, pid, at in (line.split() for line in lines)]


@activity
async def step(pause: float) -> int:
    write("begin")
    await asyncio.sleep(pause)
    write("end")
    return os.getpid()


@activity
async def block(pause: float, flag: str) -> int:
    """Blocks the loop the first time only."""
    write("begin")
    if Path(flag).exists():
        Path(flag).unlink()
        time.sleep(pause)
    write("end")
    return os.getpid()


@activity
async def die(flag: str) -> int:
    write("begin")
    if Path(flag).exists():
        os._exit(9)
    write("end")
    return os.getpid()


@activity(retry=RetryPolicy(max_attempts=3, initial_interval=6.0, jitter=0))
async def falter() -> int:
    """Fails the first time; then says which attempt it is."""
    write("begin")
    if activity_context().attempt == 1:
        raise OSError("not yet")
    write("end")
    return activity_context().attempt


@workflow
async def faltering(ctx: WorkflowContext) -> int:
    return await ctx.run(falter)


@workflow
async def chain(ctx: WorkflowContext, pauses: list[float]) -> list[int]:
    return [await ctx.run(step, pause) for pause in pauses]


@workflow
async def blocking(ctx: WorkflowContext, pause: float, flag: str) -> list[int]:
    return [await ctx.run(step, 0.0), await ctx.run(block, pause, flag), await ctx.run(step, 0.0)]


@workflow
async def deadly(ctx: WorkflowContext, flag: str) -> list[int]:
    return [await ctx.run(step, 0.0), await ctx.run(die, flag)]


WORKFLOWS = (chain, blocking, deadly, faltering)


async def main() -> None:
    async with App("lives", workflows=WORKFLOWS).worker() as worker:
        print("ready", flush=True)
        await worker.wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(name)s %(message)s")
    asyncio.run(main())
