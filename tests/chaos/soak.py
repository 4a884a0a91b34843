"""Faults for long: `python -m tests.chaos.soak --seconds N --seed S`. Prints counts; exits 1 on any violation."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.chaos.checker import Verdict, check, vacuous
from tests.chaos.evidence import Evidence
from tests.chaos.stage import Stage, staged

_SHOWN = 20


async def trouble(stage: Stage, seconds: float, chance: random.Random) -> None:
    """A fault every two seconds or so: mostly kills, now and then a pause past the lease or a kill of the server."""
    end = time.monotonic() + seconds
    for turn in range(1_000_000):
        await asyncio.sleep(0.5 + 2 * chance.random())
        if time.monotonic() > end:
            return
        kind = ("kill", "pause", "server", "kill", "kill")[turn % 5]
        if kind == "kill":
            await stage.kill_one()
        elif kind == "pause":
            await stage.pause_one()
        else:
            await stage.restart_server()


async def soak(
    directory: Path, seconds: float, seed: int, workers: int, rate: float
) -> tuple[Evidence, Verdict]:
    """One long run."""
    async with staged(directory, seed=seed, workers=workers) as stage:
        async with asyncio.TaskGroup() as group:
            group.create_task(trouble(stage, seconds, random.Random(seed + 1)))
            await stage.load(max(1, int(seconds * rate)), seconds, 0.3, patience=120)
        evidence = await stage.evidence()
    return evidence, check(evidence)


def report(evidence: Evidence, verdict: Verdict, took: float) -> list[str]:
    """The counts, a line each."""
    fired = Counter(fault.what for fault in evidence.faults)
    hits = fired["kill"] + fired["pause"]
    slow, mixed = verdict.recoveries, verdict.mixed_recoveries
    at = lambda share: f"{slow[min(len(slow) - 1, int(share * len(slow)))]:.2f} s" if slow else "none"  # noqa: E731
    losses = sum(life.kind == "lost" for life in evidence.lives)
    counts = verdict.counts
    return [
        f"workflows {counts['workflows']} ({took:.0f} s): "
        + ", ".join(f"{name} {counts[name]}" for name in ("completed", "failed", "cancelled", "unended")),
        f"recorded results {counts['results']}, attempts {sum(x.kind == 'begin' for x in evidence.lines)}",
        f"kills {fired['kill']}, pauses {fired['pause']}, server kills {fired['server']}, leases lost {losses}",
        f"changes of owner {counts['changes of owner in a history']}, begun by a zombie {counts['begun by a zombie']}",
        f"attempts in the window {len(verdict.window)}, per kill or pause {len(verdict.window) / max(1, hits):.2f}",
        f"recovery after kill -9: {len(slow)} instances, p50 {at(0.5)}, p99 {at(0.99)}, longest {at(1)}",
        f"recovery with another fault meanwhile: {len(mixed)} instances, longest {max(mixed, default=0):.2f} s",
        f"violations {len(verdict.violations)}",
    ]


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--rate", type=float, default=15, help="instances a second")
    parser.add_argument("--keep", type=Path, help="a directory to keep record, store and logs in")
    given = parser.parse_args()
    directory = given.keep or Path(tempfile.mkdtemp(prefix="romancy-soak-"))
    began = time.monotonic()
    evidence, verdict = asyncio.run(soak(directory, given.seconds, given.seed, given.workers, given.rate))
    print(f"seed {given.seed}, files in {directory}")
    print("\n".join(report(evidence, verdict, time.monotonic() - began)))
    for violation in verdict.violations[:_SHOWN]:
        print(f"  {violation.where}: {violation.rule}: {violation.text}")
    reasons = vacuous(evidence, verdict, "kill")
    for reason in reasons:
        print(f"  proves nothing: {reason}")
    return 1 if verdict.violations or reasons else 0


if __name__ == "__main__":
    sys.exit(main())
