"""Attempts, put together from the lines of the external record. Facts only; check.py says what they mean."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from entry import Entry, Kind


@dataclass(slots=True)
class Attempt:
    """One attempt that began. `outcome` is None when nothing was heard of it again: its process died."""

    begun: Entry
    outcome: Kind | None = None
    over: int = 0
    """When it ended, in µs since the epoch."""


def attempts(entries: Iterable[Entry]) -> dict[tuple[str, str], list[Attempt]]:
    """All attempts of each (order, activity id), in the order in which they began."""
    found: dict[tuple[str, str], list[Attempt]] = {}
    for entry in entries:
        of_activity = found.setdefault((entry.order, entry.activity_id), [])
        if entry.kind == "begin":
            of_activity.append(Attempt(entry))
            continue
        for attempt in of_activity:
            same = (attempt.begun.attempt, attempt.begun.pid) == (entry.attempt, entry.pid)
            if same and attempt.outcome is None:
                attempt.outcome, attempt.over = entry.kind, entry.wall
                break
    return found
