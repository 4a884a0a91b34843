"""Thousands of schedules a run, a crash at every boundary of a saga, and the seeds that once found something."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from romancy_nats.testing.memory import Faults
from tests.simulation.schedule import Plan, plan, run

SCHEDULES = int(os.environ.get("ROMANCY_SCHEDULES", "20000"))
CHUNK = 500
MUST_FIRE = ("crash", "pause", "lost_ack", "committed_error", "late_write_landed", "duplicate", "outage", "drain")
FOUND_SOMETHING = (16, 3287, 3820, 7266, 142, 245, 319, 365, 1207, 1519, 1617)
SAGA: list[object] = [
    ["act", "work", "reserve", "ok", 0.5],
    ["par", [["act", "work", "charge", "flaky1", 0.1], ["act", "work", "pack", "ok", 1.0]]],
    ["act", "plain", "ship", "fatal", 0.2],
]
fired: Counter[str] = Counter()


@pytest.mark.parametrize("first", range(0, SCHEDULES, CHUNK))
def test_random_schedules(first: int) -> None:
    """Each seed is a run of its own; a failing one reproduces by `python -m tests.simulation.replay SEED`."""
    counted: Counter[str] = Counter()
    for seed in range(first, first + CHUNK):
        report = run(plan(seed))
        assert not report.violations, f"python -m tests.simulation.replay {seed}\n" + "\n".join(report.violations)
        counted += report.fired
    assert all(counted[fault] for fault in MUST_FIRE), f"a fault never happened in this chunk: {counted}"


@pytest.mark.parametrize("seed", FOUND_SOMETHING)
def test_seeds_that_found_something(seed: int) -> None:
    report = run(plan(seed))
    assert not report.violations


def _sweep(replicas: int, crash_at: int | None) -> Plan:
    return Plan(1, Faults(seed=1), replicas, 1, [SAGA], [None], crash_at=crash_at, scheduled=False)


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_crash_at_every_boundary_of_a_saga(replicas: int) -> None:
    """One run per port call before its effect, and one per port call after it."""
    whole = run(_sweep(replicas, None))
    assert not whole.violations
    boundaries = whole.first_worker_boundaries
    assert boundaries > 30
    crashes = 0
    for crash_at in range(1, boundaries + 1):
        report = run(_sweep(replicas, crash_at))
        assert not report.violations, f"crash at boundary {crash_at}: {report.violations}"
        crashes += report.fired["crash_after"]
    assert crashes == boundaries
