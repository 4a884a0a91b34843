"""Durations as users give them, moments as histories hold them: checked, and kept within what can be told."""

from __future__ import annotations

import math
import sys
from datetime import UTC, datetime, timedelta

from romancy_nats.errors import ConfigurationError

Duration = float | int | timedelta

NEVER = 253_402_300_799_999_999
"""µs since the epoch, the end of the year 9999: what is due then or later is never due."""

_MICROSECONDS = 1_000_000
_NEVER_SECONDS = 253_402_300_799.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def seconds(duration: Duration, what: str = "a duration") -> float:
    """A duration in seconds, given as such or as a timedelta; raises ConfigurationError for anything else."""
    if isinstance(duration, timedelta):
        return duration.total_seconds()
    if not hasattr(type(duration), "__float__"):
        raise ConfigurationError(
            f"{what} is a number of seconds or a timedelta, not {type(duration).__name__}"
        )
    value = finite(duration)
    if math.isnan(value):
        raise ConfigurationError(f"{what} is a number of seconds or a timedelta, not NaN")
    return value


def span(seconds: float) -> str:
    """A duration for people, in the largest unit of which it is a whole number: "1 day", "90 s"."""
    for name, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= size and seconds % size == 0:
            number = seconds / size
            return f"{number:,.0f} {name}" + ("" if number == 1 else "s")
    return f"{seconds:,g} s"


def finite(number: float) -> float:
    """The number as a float; an integer that no float can hold becomes the largest float of its sign."""
    try:
        return float(number)
    except OverflowError:
        return sys.float_info.max if number > 0 else -sys.float_info.max


def micros(moment: float) -> int:
    """Seconds since the epoch as µs, at most NEVER."""
    return NEVER if moment >= _NEVER_SECONDS else round(moment * _MICROSECONDS)


def utc(moment: int) -> datetime:
    """A moment in µs since the epoch as a datetime; what a datetime cannot hold becomes the nearest that it can."""
    return _EPOCH + timedelta(microseconds=min(max(moment, 0), NEVER))
