"""What each measurement has to reach, and the table of verdicts. Plain data in, text out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Numbers = dict[str, float]


@dataclass(frozen=True)
class Result:
    """One measurement in one setting."""

    sync: str
    loop: str
    name: str
    numbers: Numbers
    target: str
    ok: bool | None


def judge(name: str, sync: str, numbers: Numbers) -> tuple[str, bool | None]:
    """The target in words, and whether it is reached; None where the figure is only reported."""
    if name not in _TARGETS:
        return "reported", None
    if name == "w2" and sync == "always":
        return "≥ 1,000 workflows/s", numbers["workflows/s"] >= 1000
    text, reached = _TARGETS[name]
    return text, reached(numbers)


_TARGETS: dict[str, tuple[str, Callable[[Numbers], bool]]] = {
    "w1": ("≥ 0.8 of raw sequential", lambda n: n["ratio"] >= 0.8),
    "w2": ("≥ 0.075 per raw append", lambda n: n["ratio"] >= 0.075),
    "w3": ("p50 ≤ 6 raw round trips", lambda n: n["ratio"] <= 6),
    "kill": ("≤ lease + 2 s", lambda n: n["seconds"] <= n["lease"] + 2),
    "sigterm": ("< 1 s", lambda n: n["seconds"] < 1),
    "crowd": ("none lost", lambda n: n["completed"] == n["instances"]),
    "event": ("p50 ≤ 8 raw round trips", lambda n: n["ratio"] <= 8),
    "event_far": ("p50 ≤ 12 raw round trips", lambda n: n["ratio"] <= 12),
    "asleep": ("< 100 bytes each beyond the cache", lambda n: n["worker bytes each"] < 100),
    "broadcast": (
        "≥ 1,000/s, none lost",
        lambda n: n["woken/s"] >= 1000 and n["completed"] == n["instances"],
    ),
    "timers": ("p99 ≤ 300 ms, never early", lambda n: n["p99 ms"] <= 300 and n["earliest ms"] >= 0),
}


def table(results: list[Result]) -> str:
    """All results, one a line."""
    rows = [("sync", "loop", "what", "ratio", "target", "verdict", "figures")]
    for one in results:
        ratio = f"{one.numbers['ratio']:.3f}" if "ratio" in one.numbers else ""
        verdict = {True: "ok", False: "below", None: ""}[one.ok]
        figures = ", ".join(f"{k} {_shown(v)}" for k, v in one.numbers.items() if k != "ratio")
        rows.append((one.sync, one.loop, one.name, ratio, one.target, verdict, figures))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _shown(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"
