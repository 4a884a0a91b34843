"""Spin as a function: a model with its defines in, what the search found out. Knows nothing of this model."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TOOLS = ("spin", "gcc")
DEPTH = 20_000
MEGABYTES = 6_000
_STORED = re.compile(r"(\d+) states, stored")
_VIOLATION = re.compile(r"^pan:\d+: (.*) \(at depth (\d+)\)", re.MULTILINE)


class IncompleteSearchError(Exception):
    """The search ended before it had seen every state, so that it says nothing."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a search found: no violation if every reachable state is fine."""

    states: int
    seconds: float
    violation: str = ""
    steps: int = 0
    """Length of the trail that leads to the violation."""


def missing() -> list[str]:
    """The tools that this machine lacks."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def verify(
    model: Path, defines: Sequence[str], *, optimise: str = "-O0", cycles: bool = False, depth: int = DEPTH
) -> Verdict:
    """Search all states of the model; with `cycles` for runs that never end instead of for violations."""
    flags = [f"-D{define}" for define in defines]
    with tempfile.TemporaryDirectory(prefix="spin") as name:
        folder = Path(name)
        _run(["spin", *flags, "-a", str(model)], folder)
        mode = ["-DNP"] if cycles else ["-DSAFETY"]
        common = ["-w", "-DCOLLAPSE", "-DNOFAIR", f"-DMEMLIM={MEGABYTES}", "-o", "pan", "pan.c"]
        _run(["gcc", optimise, *mode, *common], folder)
        began = time.monotonic()
        text = _run(["./pan", f"-m{depth}", "-w23", *(["-l"] if cycles else [])], folder)
        return _read(text, time.monotonic() - began)


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise IncompleteSearchError(f"{' '.join(command)}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def _read(text: str, seconds: float) -> Verdict:
    stored = _STORED.search(text)
    states = int(stored[1]) if stored else 0
    if found := _VIOLATION.search(text):
        return Verdict(states, seconds, found[1], int(found[2]))
    if "errors: 0" not in text or "max search depth too small" in text or "out of memory" in text:
        raise IncompleteSearchError(text[-2000:])
    return Verdict(states, seconds)
