"""Thousands of schedules a run, a crash at every boundary of some programs, and the seeds that once found something."""

from __future__ import annotations

import pytest

from romancy_nats.testing.memory import Faults
from tests.simulation.chunks import check_chunk, chunks
from tests.simulation.schedule import Plan, plan, run
from tests.simulation.waits import AT_THE_WAIT, Sending

FOUND_SOMETHING = (
    16,
    142,
    245,
    319,
    365,
    708,
    847,
    1111,
    1188,
    1207,
    1407,
    1519,
    1617,
    3820,
    4345,
    4688,
    5306,
    1004513,
)
"""Seeds are only as lasting as the generator; what they found is kept as a mutant too, where one guard undoes it."""
PROGRAMS: dict[str, tuple[list[object], float | None]] = {
    "saga that fails": (
        [
            ["act", "work", "reserve", "ok", 0.5],
            ["par", [["act", "work", "charge", "flaky1", 0.1], ["act", "work", "pack", "ok", 1.0]]],
            ["act", "plain", "ship", "fatal", 0.2],
        ],
        None,
    ),
    "cancel in flight": (
        [
            ["act", "work", "reserve", "ok", 0.1],
            ["cleanup", ["act", "work", "ship", "ok", 8.0], ["act", "plain", "tidy", "ok", 0.1]],
        ],
        7.0,
    ),
    "in parallel": (
        [
            ["group", [["act", "work", "a", "ok", 0.0], ["act", "work", "b", "ok", 0.05], ["sleep", 1.0]]],
            ["timeout", 0.5, ["act", "plain", "late", "ok", 1.0]],
        ],
        None,
    ),
    "recurs": (
        [
            ["act", "work", "a", "ok", 0.1],
            ["receive", "a", None],
            ["recur", 0.1, ["act", "plain", "broken off", "ok", 5.0]],
            ["act", "work", "b", "flaky1", 0.1],
            ["receive", "a", None],
            ["recur", 0.0, None],
            ["act", "plain", "c", "fatal", 0.1],
        ],
        None,
    ),
    "waits": (
        [
            ["serve"],
            ["par", [["wait", "news", "i0", None], ["receive", "a", None]]],
            ["wait", "other", None, 3.5],
            ["act", "patient", "p", "flaky1", 0.0],
            ["listen", "news", None, 2, 4.0],
        ],
        None,
    ),
    "skips": (
        [["act", "work", "a", "ok", 0.1], ["wait", "news", "i0", None], ["act", "plain", "b", "fatal", 0.1]],
        None,
    ),
    "carries over": (
        [
            ["receive", "a", None],
            ["recur", 0.0, None],
            ["act", "work", "a", "ok", 0.1],
            ["serve"],
            ["receive", "a", None],
        ],
        None,
    ),
}
SENDINGS = {
    "skips": [
        Sending("event", "news", "i0", AT_THE_WAIT, 0.1, misfit=True),
        Sending("event", "news", "i0", AT_THE_WAIT, 1.0, again_every=20.0),
    ],
    "carries over": [
        Sending("update", "put", None, 1, 0.1, seconds=0.5),
        Sending("message", "a", None, AT_THE_WAIT, 1.0),
        Sending("message", "a", None, AT_THE_WAIT, 3.0),
    ],
    "waits": [
        Sending("event", "news", "i0", AT_THE_WAIT, 0.2, again_every=20.0),
        Sending("message", "a", None, AT_THE_WAIT, 0.5, again_every=20.0),
        Sending("event", "other", "x", AT_THE_WAIT, 3.5),
        Sending("update", "put", None, 1, 0.2, seconds=4.0),
    ],
    "recurs": [Sending("message", "a", None, AT_THE_WAIT, delay) for delay in (0.1, 0.5)],
}


@pytest.mark.parametrize("first", chunks(0))
def test_random_schedules(first: int) -> None:
    """Each seed is a run of its own; a failing one reproduces by `python -m tests.simulation.replay SEED`."""
    check_chunk(first)


@pytest.mark.parametrize("seed", FOUND_SOMETHING)
def test_seeds_that_found_something(seed: int) -> None:
    report = run(plan(seed))
    assert not report.violations


def _sweep(program: str, replicas: int, workers: int, slot: int = 0, crash_at: int | None = None) -> Plan:
    ops, cancel = PROGRAMS[program]
    plan = Plan(1, Faults(seed=1), replicas, workers, [ops], [cancel], scheduled=False)
    plan.crash_slot, plan.crash_at = slot, crash_at
    if program in SENDINGS:
        plan.sendings, plan.archive_after = [SENDINGS[program]], 1.0
    return plan


# A program that waits has many more boundaries: its share of the time is bounded by fewer settings.
FEWER = {program: [(1, 2), (3, 2)] for program in ("waits", "skips", "carries over")}
# And that of one of them is minutes, each.
LONG = {"waits": [pytest.mark.long]}
SWEEPS = [
    pytest.param(program, replicas, workers, marks=LONG.get(program, []))
    for program in PROGRAMS
    for replicas, workers in FEWER.get(program, [(1, 1), (1, 2), (3, 1), (3, 2)])
]
REACHED = {"skips": "Skipped", "carries over": "update carried over", "recurs": "WorkflowRecurred"}


@pytest.mark.parametrize(("program", "replicas", "workers"), SWEEPS)
def test_a_crash_at_every_boundary(program: str, replicas: int, workers: int) -> None:
    """One run per port call of the busiest worker before its effect, and one per port call after it."""
    whole = run(_sweep(program, replicas, workers))
    assert not whole.violations
    assert program not in REACHED or whole.reached[REACHED[program]]
    boundaries = max(whole.boundaries)
    slot = whole.boundaries.index(boundaries)
    assert boundaries > 30
    crashes = 0
    for crash_at in range(1, boundaries + 1):
        report = run(_sweep(program, replicas, workers, slot, crash_at))
        assert not report.violations, f"crash at boundary {crash_at}: {report.violations}"
        crashes += report.fired["crash_after"]
    assert crashes == boundaries
