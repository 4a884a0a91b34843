"""A seed is a run: the same one twice in a process, after other runs, and under any order of sets and dicts by hash."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.schedule import plan, run

SEEDS = range(40)
_TRACES = "import sys, logging; logging.disable(); from tests.simulation.schedule import plan, run; " + (
    "[print(run(plan(seed)).trace) for seed in map(int, sys.argv[1:])]"
)


def _traces() -> list[str]:
    return [run(plan(seed)).trace for seed in SEEDS]


def test_the_same_process_gives_the_same_run_again() -> None:
    """Also backwards: what ran before leaves nothing behind."""
    first = _traces()
    assert len(set(first)) == len(first)
    assert [run(plan(seed)).trace for seed in reversed(SEEDS)] == first[::-1]


@pytest.mark.parametrize("hash_seed", ["0", "1", "random"])
def test_no_order_by_hash_matters(hash_seed: str) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", _TRACES, *map(str, SEEDS)]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.split() == _traces()
