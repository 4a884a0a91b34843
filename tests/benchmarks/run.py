"""`make bench`: measures everything beside a raw baseline, prints a table, writes JSON. Below target is no error."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from tests.benchmarks import measurements, waiting_measurements
from tests.benchmarks.loops import LOOPS
from tests.benchmarks.measurements import FULL, QUICK, Scale
from tests.benchmarks.processes import Stage, stage
from tests.benchmarks.targets import Result, judge, table

SYNCS = ("default", "always")
MEASUREMENTS = {**measurements.MEASUREMENTS, **waiting_measurements.MEASUREMENTS}


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help=f"measurements, separated by commas: {', '.join(MEASUREMENTS)}")
    parser.add_argument("--quick", action="store_true", help="a quarter or less of everything")
    parser.add_argument("--json", type=Path, default=Path("benchmark-results/latest.json"), metavar="PATH")
    parser.add_argument("--loop", choices=LOOPS, help="one loop instead of both")
    parser.add_argument("--sync", choices=SYNCS, help="one way to sync instead of both")
    found = parser.parse_args(arguments)
    found.names = found.only.split(",") if found.only else list(MEASUREMENTS)
    if unknown := set(found.names) - set(MEASUREMENTS):
        parser.error(f"no measurement {', '.join(sorted(unknown))}; there are {', '.join(MEASUREMENTS)}")
    return found


def measured(on: Stage, sync: str, names: list[str], scale: Scale) -> list[Result]:
    """All measurements on one server; a broken one is told and left out."""
    results: list[Result] = []
    for name in names:
        numbers = MEASUREMENTS[name](on, scale)
        target, ok = judge(name, sync, numbers)
        results.append(Result(sync, on.loop, name, numbers, target, ok))
        print(table(results[-1:]).splitlines()[1], file=sys.stderr, flush=True)
    return results


def main() -> None:
    """Measure, print, write."""
    chosen = options()
    scale = QUICK if chosen.quick else FULL
    loops = [chosen.loop] if chosen.loop else [one for one in LOOPS if one == "asyncio" or find_spec(one)]
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="romancy-bench-") as directory:
        for sync in [chosen.sync] if chosen.sync else SYNCS:
            for loop in loops:
                folder = Path(directory, f"{sync}-{loop}")
                folder.mkdir()
                with stage(loop, folder, sync_always=sync == "always") as on:
                    results += measured(on, sync, chosen.names, scale)
    print(table(results))
    report = {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "os": platform.platform()},
        "scale": asdict(scale),
        "results": [asdict(result) for result in results],
    }
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    chosen.json.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {chosen.json}")


if __name__ == "__main__":
    main()
