"""Run one seed and say what happened: `python -m tests.simulation.replay SEED [-v]`."""

from __future__ import annotations

import logging
import os
import sys

from tests.simulation.schedule import plan, run


def main() -> int:
    """0 when nothing was violated."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation.replay", *sys.argv[1:]],
            {**os.environ, "PYTHONHASHSEED": "0"},
        )
    if "-v" in sys.argv:
        logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(message)s")
    report = run(plan(int(sys.argv[1])))
    for line in report.violations:
        print(line)
    print(f"seed {report.seed}: {len(report.violations)} violations, faults {dict(report.fired)}")
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
