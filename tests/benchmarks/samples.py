"""What many samples of a time come to."""

from __future__ import annotations

import statistics


def spread(samples: list[float]) -> dict[str, float]:
    """The middle one, and the one that 99 of 100 do not exceed."""
    return {"p50": statistics.median(samples), "p99": statistics.quantiles(samples, n=100)[98]}
