"""Retry arithmetic: when to try an activity again and after how long. Pure; randomness comes in as a number."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from romancy_nats.errors import ConfigurationError, TerminalError

Duration = float | int | timedelta


def seconds(duration: Duration) -> float:
    """A duration, given in seconds or as a timedelta, in seconds."""
    return duration.total_seconds() if isinstance(duration, timedelta) else float(duration)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how fast an activity is tried again. Intervals are in seconds or timedeltas.

    `max_attempts=0` means without end, `max_duration` counts from the first attempt, `jitter` is the share by which
    a delay may vary in either direction. Defaults are Edda's, plus jitter so that a herd does not retry in step.
    """

    max_attempts: int = 5
    initial_interval: Duration = 1.0
    backoff_coefficient: float = 2.0
    max_interval: Duration = 60.0
    max_duration: Duration | None = None
    jitter: float = 0.1
    retryable: tuple[type[BaseException], ...] = (Exception,)
    non_retryable: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        if self.max_attempts < 0:
            raise ConfigurationError("RetryPolicy.max_attempts is 0 (without end) or more")
        if seconds(self.initial_interval) < 0 or seconds(self.max_interval) < 0:
            raise ConfigurationError("RetryPolicy intervals are not negative")
        if self.backoff_coefficient < 1:
            raise ConfigurationError("RetryPolicy.backoff_coefficient is 1 or more")
        if not 0 <= self.jitter <= 1:
            raise ConfigurationError("RetryPolicy.jitter is between 0 and 1")

    def is_final(self, error: BaseException) -> bool:
        """Whether this error is never retried, however many attempts are left."""
        if isinstance(error, (TerminalError, *self.non_retryable)):
            return True
        return not isinstance(error, self.retryable)

    def delay(self, attempt: int, chance: float) -> float:
        """Seconds to wait after failed attempt number `attempt`; `chance` is a random number in [0, 1)."""
        longest = seconds(self.max_interval)
        first = seconds(self.initial_interval)
        # The exponent is bounded because a float overflows long before anybody's patience does.
        exponent = min(attempt - 1, 1000)
        try:
            wait = min(first * self.backoff_coefficient**exponent, longest)
        except OverflowError:
            wait = longest
        return wait * (1 + self.jitter * (2 * chance - 1))

    def next_delay(self, attempt: int, elapsed: float, chance: float) -> float | None:
        """Seconds until the next attempt, or None when the attempts or the time are used up."""
        if self.max_attempts and attempt >= self.max_attempts:
            return None
        wait = self.delay(attempt, chance)
        if self.max_duration is not None and elapsed + wait > seconds(self.max_duration):
            return None
        return wait


DEFAULT_RETRY = RetryPolicy()
