"""`python -m tests.model.run [--full] [NAME ...]`: search the model and its mutants, print what was found."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from tests.model.checks import CYCLES, FULL, MODEL, MUTANTS, SHORT, SMALL, Check
from tests.model.spin import DEPTH, missing, verify


def main() -> int:
    """Exit status 1 if the protocol has a violation or a mutant none."""
    parser = argparse.ArgumentParser(prog="python -m tests.model.run")
    parser.add_argument("--full", action="store_true", help="larger bounds: minutes, and 6 GB of memory")
    parser.add_argument("names", nargs="*", help="only the mutants of these names")
    arguments = parser.parse_args()
    if lacking := missing():
        parser.error(f"not installed: {', '.join(lacking)} (.ci/run installs them)")
    chosen = [mutant for mutant in MUTANTS if not arguments.names or mutant.name in arguments.names]
    wrong = 0
    if not arguments.names:
        wrong += _search((*SMALL, *FULL) if arguments.full else SMALL)
        wrong += _search(CYCLES, cycles=True)
    return 1 if wrong + _search(chosen, must_fail=True) else 0


def _search(checks: Iterable[Check], *, must_fail: bool = False, cycles: bool = False) -> int:
    wrong = 0
    for check in checks:
        optimise, depth = ("-O0", SHORT) if must_fail else ("-O1", DEPTH)
        verdict = verify(MODEL, check.defines, optimise=optimise, cycles=cycles, depth=depth)
        found = f"{verdict.violation} after {verdict.steps} steps" if verdict.violation else "no violation"
        as_wanted = bool(verdict.violation) == must_fail
        wrong += not as_wanted
        mark = "ok   " if as_wanted else "WRONG"
        bounds = " ".join(define for define in check.defines if not define.startswith("MUTANT"))
        print(
            f"{mark} {check.name} [{bounds}]: {verdict.states:,} states, {verdict.seconds:.1f} s: {found}",
            flush=True,
        )
    return wrong


if __name__ == "__main__":
    raise SystemExit(main())
