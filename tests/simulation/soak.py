"""Schedules by the million: `python -m tests.simulation.soak --schedules 1000000 --seconds 600 --jobs 2`.

Stops at whichever of the two comes first, prints the line that reproduces each failing seed, exits 1 if there is one.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator

from tests.simulation.chunks import CHUNK, MUST_FIRE, MUST_REACH, reproduce, run_chunk

_SHOWN = 20
_EVERY = 10.0
AFTER_THE_TESTS = 1_000_000
"""`make test` runs the first seeds; the soak begins where nobody has been."""


def work(first: int) -> tuple[int, dict[int, list[str]], Counter[str]]:
    """One chunk, in a process of the pool."""
    logging.disable(logging.CRITICAL)
    found, counted = run_chunk(first)
    return CHUNK, found, counted


def results(
    first: int, schedules: int, jobs: int
) -> Iterator[tuple[int, dict[int, list[str]], Counter[str]]]:
    """The chunks as they are done. Fresh processes now and then, so that no leak of ours ends a long soak."""
    starts = range(first, first + schedules, CHUNK)
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=40) as pool:
        yield from pool.imap_unordered(work, starts)


def soak(first: int, schedules: int, seconds: float, jobs: int) -> int:
    """0 when nothing was violated and everything happened that has to."""
    begun = told = time.monotonic()
    done, failing, counted = 0, 0, Counter[str]()
    for count, found, more in results(first, schedules, jobs):
        done += count
        counted += more
        for seed, violations in found.items():
            failing += 1
            if failing <= _SHOWN:
                print(f"{reproduce(seed)}    # {violations[0]}", flush=True)
        now = time.monotonic()
        if now - told > _EVERY:
            told = now
            print(f"{done:,} schedules, {done / (now - begun):.0f} a second, {failing} violated", flush=True)
        if now - begun > seconds:
            break
    missing = [what for what in (*MUST_FIRE, *MUST_REACH) if not counted[what]]
    fired = ", ".join(f"{name} {counted[name]:,}" for name in MUST_FIRE)
    print(f"{done:,} schedules in {time.monotonic() - begun:.0f} s, {failing} violated; {fired}")
    if missing:
        print(f"never happened, so it proves nothing: {missing}")
    return 1 if failing or missing or not done else 0


def main() -> int:
    """Read the command line and soak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--first", type=int, default=AFTER_THE_TESTS, help="the first seed")
    said = parser.parse_args()
    return soak(said.first, said.schedules, said.seconds, said.jobs)


if __name__ == "__main__":
    sys.exit(main())
