"""Schedules in chunks, for the test files beside it and the soak: clean, every fault fired, every event reached.

The files share the schedules out, because a file is what pytest-xdist gives to one process.
"""

from __future__ import annotations

import gc
import os
from collections import Counter

import pytest
from _pytest.mark import ParameterSet

from tests.simulation.races import RACES
from tests.simulation.schedule import FAULTS, plan, run

SCHEDULES = int(os.environ.get("ROMANCY_SCHEDULES", "20000"))
SHORT = 10_000
"""So many of them are in `make test`, which has twelve minutes; `make test-long` runs the others."""
CHUNK = 1000
FILES = 6
MUST_FIRE = (*FAULTS, "late_write_landed", "sent_into_outage", "slow", "drain", "purged", "rival")
MUST_REACH = (
    "WorkflowStarted",
    "ActivityScheduled",
    "ActivityCompleted",
    "ActivityAttemptFailed",
    "ActivityFailed",
    "ActivityAbandoned",
    "TimerStarted",
    "TimerFired",
    "TimerCancelled",
    "CancelRequested",
    "CompensationBegun",
    "WorkflowCompleted",
    "WorkflowFailed",
    "WorkflowCancelled",
    "takeover",
    "conflict",
    "cancelled before its start",
    "WaitStarted",
    "EventReceived",
    "MessageReceived",
    "UpdateAnswered",
    "WorkflowRecurred",
    "Skipped",
    "stalled",
    *RACES,
)


def chunks(file: int) -> list[ParameterSet]:
    """The first seeds of the chunks of one test file, those marked that only the long tests run."""
    firsts = range(file * CHUNK, SCHEDULES, FILES * CHUNK)
    return [pytest.param(first, marks=pytest.mark.long if first >= SHORT else ()) for first in firsts]


def reproduce(seed: int) -> str:
    """The line that runs one seed again."""
    return f"python -m tests.simulation.replay {seed}"


def run_chunk(first: int, count: int = CHUNK) -> tuple[dict[int, list[str]], Counter[str]]:
    """The violations of each seed that has some, and how often everything that matters happened."""
    found: dict[int, list[str]] = {}
    counted: Counter[str] = Counter()
    # What is there before is no garbage of a run: without it a collection takes half as long.
    gc.freeze()
    for seed in range(first, first + count):
        report = run(plan(seed))
        if report.violations:
            found[seed] = report.violations
        counted.update(report.fired)
        counted.update(report.reached)
    return found, counted


def check_chunk(first: int) -> None:
    """Fails with the line that reproduces it, or when something never happened: such a chunk proves nothing."""
    found, counted = run_chunk(first)
    lines = [f"{reproduce(seed)}\n" + "\n".join(violations) for seed, violations in found.items()]
    assert not found, "\n".join(lines)
    missing = [what for what in (*MUST_FIRE, *MUST_REACH) if not counted[what]]
    assert not missing, f"never happened in this chunk: {missing}"
