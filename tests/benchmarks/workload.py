"""The workflows that are measured, and the external record of what their activities really did."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import NamedTuple

from romancy_nats import App, WorkflowContext, activity, activity_context, workflow

RECORD = "ROMANCY_BENCHMARK_RECORD"
BEAT = 0.02


class Entry(NamedTuple):
    """One run of an activity: of which instance, in which process, when (the system-wide monotonic clock)."""

    instance: str
    pid: int
    time: float


class Record:
    """A file with one line per run of an activity; appended to by workers, read by the driver."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def write(self, instance: str) -> None:
        """Add a line, in one write so that processes do not mix theirs."""
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(self._descriptor, f"{instance} {os.getpid()} {time.monotonic()}\n".encode())

    def entries(self) -> list[Entry]:
        """All lines so far."""
        if not self.path.exists():
            return []
        rows = (line.split() for line in self.path.read_text().splitlines())
        return [Entry(instance, int(pid), float(at)) for instance, pid, at in rows]

    def count(self) -> int:
        """How many lines there are."""
        return len(self.entries())


_record = Record(Path(os.environ.get(RECORD, os.devnull)))


@activity
async def nothing() -> None:
    """The no-op of all measurements."""


@activity
async def beat() -> None:
    """Leaves a trace and takes a moment."""
    _record.write(activity_context().instance_id)
    await asyncio.sleep(BEAT)


@activity
async def long(seconds: float) -> None:
    """Leaves a trace and takes its time."""
    _record.write(activity_context().instance_id)
    await asyncio.sleep(seconds)


@workflow
async def chain(ctx: WorkflowContext, steps: int) -> int:
    """`steps` no-op activities, one after another."""
    for _ in range(steps):
        await ctx.run(nothing)
    return steps


@workflow
async def beats(ctx: WorkflowContext, count: int) -> None:
    """Activities that can be seen to go on."""
    for _ in range(count):
        await ctx.run(beat)


@workflow
async def patient(ctx: WorkflowContext, seconds: float) -> None:
    """One long activity."""
    await ctx.run(long, seconds)


app = App("benchmark", workflows=[chain, beats, patient])
