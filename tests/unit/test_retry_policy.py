"""What a retry policy and the limits of an activity take, and what they refuse when they are made."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest

from romancy_nats import ConfigurationError, RetryPolicy, activity, compensation
from romancy_nats.core.retry import LONGEST_SECONDS, asked_delay

NO_CLASSES: list[Any] = [
    "ConnectionError",
    b"x",
    3,
    None,
    object(),
    [3],
    [None],
    ["OSError"],
    {"a": 1},
    [int],
    ValueError(),
]


@pytest.mark.parametrize(
    "given", [OSError, [OSError], (OSError,), {OSError}, frozenset([OSError]), {OSError: 1}]
)
def test_classes_are_named_alone_or_in_any_iterable(given: Any) -> None:
    assert RetryPolicy(retryable=given).retryable == (OSError,)
    assert RetryPolicy(non_retryable=given).non_retryable == (OSError,)
    assert RetryPolicy(retryable=(cls for cls in given) if not isinstance(given, type) else given).is_final(
        KeyError()
    )
    assert not RetryPolicy(retryable=given).is_final(ConnectionError())
    assert RetryPolicy(non_retryable=given).is_final(ConnectionError())
    assert list(activity(errors=given, name="a")(nothing).errors.values()) == [OSError]


@pytest.mark.parametrize("given", NO_CLASSES, ids=[str(n) for n in range(len(NO_CLASSES))])
@pytest.mark.parametrize("field", ["retryable", "non_retryable", "errors"])
def test_anything_else_is_refused_when_made_and_named(field: str, given: Any) -> None:
    culprit = given[0] if isinstance(given, list) else "a" if isinstance(given, dict) else given
    if isinstance(given, str):
        culprit = "C"
    if isinstance(given, bytes):
        culprit = 120
    with pytest.raises(ConfigurationError, match=field) as refused:
        if field == "errors":
            activity(errors=given)(nothing)
        else:
            RetryPolicy(**{field: given})
    assert repr(culprit)[:20] in str(refused.value)


OUT_OF_RANGE: list[tuple[str, Any]] = [
    ("max_attempts", -1),
    ("max_attempts", math.nan),
    ("max_attempts", math.inf),
    ("max_attempts", 2.5),
    ("max_attempts", "3"),
    ("max_attempts", None),
    ("max_attempts", True),
    *(
        (name, value)
        for name in ("initial_interval", "max_interval", "max_duration")
        for value in (-1, -0.001, math.nan, -math.inf, -(10**400), timedelta.min, "1", b"", [1], True, 1j)
    ),
    ("initial_interval", None),
    ("max_interval", None),
    *(("backoff_coefficient", value) for value in (0.5, 0, -2, math.nan, math.inf, 10**400, "2", None)),
    *(("jitter", value) for value in (-0.1, 1.1, math.nan, math.inf, "0", None, 10**400)),
    ("retry_if", 3),
    ("retry_if", "later"),
]


@pytest.mark.parametrize(("field", "value"), OUT_OF_RANGE, ids=lambda value: str(value)[:20])
def test_numbers_out_of_range_are_refused_when_made(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"RetryPolicy.{field}"):
        RetryPolicy(**{field: value})


@pytest.mark.parametrize("field", ["initial_interval", "max_interval", "max_duration"])
@pytest.mark.parametrize("value", [math.inf, 10**400, timedelta.max, 1e300, 0, 5e-324])
def test_what_has_no_end_is_the_longest_interval_and_every_delay_is_a_number(field: str, value: Any) -> None:
    policy = RetryPolicy(**{"max_attempts": 0, "jitter": 1.0, "backoff_coefficient": 1e308, field: value})
    for attempt in (1, 2, 3, 1000, 10**9):
        for chance in (0.0, 0.5, 0.999999):
            assert 0 <= policy.delay(attempt, chance) <= 2 * LONGEST_SECONDS


@pytest.mark.parametrize(
    "value", [0, -1, 0.0, math.nan, -math.inf, timedelta(0), timedelta.min, "5", True, [5]]
)
@pytest.mark.parametrize("field", ["timeout", "heartbeat"])
def test_a_limit_of_an_activity_is_more_than_nothing(field: str, value: Any) -> None:
    for decorate in (activity, compensation):
        with pytest.raises(ConfigurationError, match=field):
            decorate(**{field: value})(nothing)
    with pytest.raises(ConfigurationError, match=field):
        activity(nothing).options(**{field: value})


@pytest.mark.parametrize("value", [math.inf, 10**400, timedelta.max])
def test_a_limit_without_end_is_none(value: Any) -> None:
    made = activity(timeout=value, heartbeat=value)(nothing)
    assert (made.timeout, made.heartbeat) == (None, None)
    assert activity(timeout=5)(nothing).options(timeout=value).timeout is None


@pytest.mark.parametrize("value", [0, -1, 1.5, "3", True, math.inf])
def test_max_threads_is_a_whole_number(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_threads"):
        activity(max_threads=value)(nothing)


def test_retry_is_a_policy() -> None:
    with pytest.raises(ConfigurationError, match="retry"):
        activity(retry=3)(nothing)  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match="retry"):
        activity(nothing).options(retry=3)  # type: ignore[arg-type]


def test_retry_if_decides_last_and_one_that_raises_means_no(caplog: pytest.LogCaptureFixture) -> None:
    policy = RetryPolicy(retry_if=lambda error: "busy" in str(error))
    assert not policy.is_final(OSError("busy"))
    assert policy.is_final(OSError("gone"))
    assert RetryPolicy(retry_if=lambda error: True, non_retryable=OSError).is_final(OSError())

    def exits(error: BaseException) -> bool:
        raise SystemExit(3)

    assert RetryPolicy(retry_if=exits).is_final(OSError())
    assert "retry_if raised SystemExit" in caplog.text


class BusyError(Exception):
    def __init__(self, retry_after: object) -> None:
        self.retry_after = retry_after


@pytest.mark.parametrize(
    ("value", "delay"),
    [(3, 3.0), (timedelta(minutes=1), 60.0), (0, 0.0), (math.inf, LONGEST_SECONDS), (-1, None), (math.nan, None),
     ("soon", None), (None, None), (10**400, LONGEST_SECONDS)],
)  # fmt: skip
def test_an_error_may_name_the_next_interval(value: object, delay: float | None) -> None:
    asked = asked_delay(BusyError(value))
    assert asked == delay
    policy = RetryPolicy(jitter=0, initial_interval=7)
    assert policy.next_delay(1, 0, 0.5, asked) == (7 if delay is None else delay)


def nothing() -> None:
    """A function to decorate."""
