"""Retry arithmetic: when to try an activity again and after how long. Pure; randomness comes in as a number."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

from romancy_nats.core.error_text import is_one_of, shown
from romancy_nats.core.times import Duration as Duration
from romancy_nats.core.times import seconds as seconds
from romancy_nats.errors import ConfigurationError, TerminalError

ErrorClasses = type[BaseException] | Iterable[type[BaseException]]
_log = logging.getLogger("romancy.activity")

LONGEST_SECONDS = 10 * 365 * 86_400.0
"""The longest duration around an activity: a time limit from here on is none, a back-off is never longer."""


def checked_seconds(duration: Any, what: str) -> float:
    """The same for a number of a user: not negative, at most `LONGEST_SECONDS`; raises ConfigurationError."""
    if isinstance(duration, bool) or not isinstance(duration, int | float | timedelta):
        raise ConfigurationError(f"{what} is a number of seconds or a timedelta, not {_described(duration)}")
    found = seconds(duration, what)
    if not found >= 0:
        raise ConfigurationError(f"{what} is 0 or more, not {_described(duration)}")
    return min(found, LONGEST_SECONDS)


def checked_limit(duration: Duration | None, what: str) -> float | None:
    """A time limit in seconds, None for none; raises ConfigurationError for zero and less."""
    if duration is None:
        return None
    found = checked_seconds(duration, what)
    if found == 0:
        raise ConfigurationError(f"{what} is more than 0 seconds; leave it out for no limit")
    return None if found >= LONGEST_SECONDS else found


def error_classes(given: ErrorClasses, what: str) -> tuple[type[BaseException], ...]:
    """One class of exceptions, or an iterable of them, as a tuple; raises ConfigurationError for anything else."""
    if isinstance(given, type):
        given = (given,)
    try:
        found = tuple(cast("Iterable[object]", given))
    except TypeError:
        found = (given,)
    for cls in found:
        if not (isinstance(cls, type) and type.__subclasscheck__(BaseException, cls)):
            raise ConfigurationError(
                f"{what} takes a class of exceptions or an iterable of such classes, not {_described(cls)}"
            )
    return cast("tuple[type[BaseException], ...]", found)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how fast an activity is tried again. Intervals are in seconds or timedeltas.

    `max_attempts=0` means without end, `max_duration` counts from the first attempt, `jitter` is the share by which
    a delay may vary in either direction. `retryable` and `non_retryable` take a class of exceptions or any iterable
    of such classes; `retry_if` is asked last and answers whether an error is worth another attempt. An error with an
    attribute `retry_after` (seconds or a timedelta) names the next interval itself. Defaults are Edda's, plus jitter
    so that a herd does not retry in step. What is out of range raises ConfigurationError here; an interval without
    end means the longest one, ten years.
    """

    max_attempts: int = 5
    initial_interval: Duration = 1.0
    backoff_coefficient: float = 2.0
    max_interval: Duration = 60.0
    max_duration: Duration | None = None
    jitter: float = 0.1
    retryable: ErrorClasses = (Exception,)
    non_retryable: ErrorClasses = ()
    retry_if: Callable[[BaseException], object] | None = None

    def __post_init__(self) -> None:
        most: Any = self.max_attempts
        if not isinstance(most, int) or isinstance(most, bool) or most < 0:
            raise ConfigurationError(
                f"RetryPolicy.max_attempts is a whole number, 0 (without end) or more, not {_described(most)}"
            )
        for name in ("initial_interval", "max_interval", "max_duration"):
            duration: Any = getattr(self, name)
            if duration is not None or name != "max_duration":
                object.__setattr__(self, name, checked_seconds(duration, f"RetryPolicy.{name}"))
        if not 1 <= _number(self.backoff_coefficient) < math.inf:
            raise ConfigurationError(
                "RetryPolicy.backoff_coefficient is a number, 1 or more, "
                f"not {_described(self.backoff_coefficient)}"
            )
        if not 0 <= _number(self.jitter) <= 1:
            raise ConfigurationError(
                f"RetryPolicy.jitter is a number between 0 and 1, not {_described(self.jitter)}"
            )
        for name in ("retryable", "non_retryable"):
            object.__setattr__(self, name, error_classes(getattr(self, name), f"RetryPolicy.{name}"))
        if self.retry_if is not None and not callable(self.retry_if):
            raise ConfigurationError(
                f"RetryPolicy.retry_if is a function of the error, not {_described(self.retry_if)}"
            )

    def is_final(self, error: BaseException) -> bool:
        """Whether this error is never retried, however many attempts are left. Never raises."""
        never = cast("tuple[type[BaseException], ...]", self.non_retryable)
        again = cast("tuple[type[BaseException], ...]", self.retryable)
        if is_one_of(error, (TerminalError, *never)) or not is_one_of(error, again):
            return True
        return self.retry_if is not None and not _agrees(self.retry_if, error)

    def delay(self, attempt: int, chance: float) -> float:
        """Seconds to wait after failed attempt number `attempt`; `chance` is a random number in [0, 1)."""
        longest = seconds(self.max_interval)
        first = seconds(self.initial_interval)
        # The exponent is bounded because a float overflows long before anybody's patience does.
        exponent = min(attempt - 1, 1000)
        try:
            wait = min(first * self.backoff_coefficient**exponent, longest)
        except OverflowError:
            wait = longest if first else 0.0
        return wait * (1 + self.jitter * (2 * chance - 1))

    def next_delay(
        self, attempt: int, elapsed: float, chance: float, asked: float | None = None
    ) -> float | None:
        """Seconds until the next attempt, or None when the attempts or the time are used up.

        `asked` is what the error itself asks for (`retry_after`), in place of the interval of this policy.
        """
        if self.max_attempts and attempt >= self.max_attempts:
            return None
        wait = self.delay(attempt, chance) if asked is None else asked
        if self.max_duration is not None and elapsed + wait > seconds(self.max_duration):
            return None
        return wait


def asked_delay(error: BaseException) -> float | None:
    """The `retry_after` of an error in seconds; None when it has none, or one that is no duration."""
    try:
        asked: Any = getattr(error, "retry_after", None)
        return None if asked is None else checked_seconds(asked, "retry_after")
    except BaseException:  # noqa: BLE001 - the boundary: the attribute is code of a user
        return None


def _agrees(predicate: Callable[[BaseException], object], error: BaseException) -> bool:
    try:
        return bool(predicate(error))
    except BaseException as problem:  # noqa: BLE001 - the boundary: a predicate is code of a user
        _log.warning("RetryPolicy.retry_if raised %s: no further attempt", shown(problem))
        return False


def _number(value: Any) -> float:
    """The number, not-a-number for what is none."""
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return math.inf


def _described(value: object) -> str:
    """A value of a user in an error message."""
    try:
        return str.__getitem__(repr(value), slice(80)).encode("utf-8", "backslashreplace").decode()
    except BaseException:  # noqa: BLE001 - the boundary: `__repr__` is code of a user
        return f"an object of {type(value).__name__}"


DEFAULT_RETRY = RetryPolicy()
