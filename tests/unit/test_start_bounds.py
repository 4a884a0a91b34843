"""Options of a start out of range: refused where they are given, and by the worker when a bare start brings them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from romancy_nats import (
    ConfigurationError,
    PayloadError,
    RomancyError,
    StartRejectedError,
    WorkflowContext,
    workflow,
)
from romancy_nats.core.start_options import StartOptions, read_options
from romancy_nats.core.starting import read_start

CENTURY = timedelta(days=36_525)
YEARS = r"1,000,000,000 \(about 31 years\)"


@workflow
async def flow(ctx: WorkflowContext) -> None: ...


OUT_OF_RANGE: list[tuple[str, Any]] = [
    *(
        (name, value)
        for name in ("timeout", "start_delay", "retention")
        for value in (
            -1, -0.001, float("nan"), float("inf"), -float("inf"), CENTURY, CENTURY.total_seconds(), 1e300,
            10**400, -(10**400), timedelta.max, timedelta.min,
        )
    ),
    ("timeout", 0),
    ("timeout", 0.0),
    ("timeout", timedelta(0)),
    ("retention", 0),
    ("retention", 0.5),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE, ids=repr)
def test_a_duration_out_of_range_is_refused_with_the_bound(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is .*{YEARS}"):
        flow.options(**{name: value})


HEADERS = {
    "timeout": "Romancy-Timeout",
    "start_delay": "Romancy-Start-Delay",
    "retention": "Romancy-Retention",
    "start_at": "Romancy-Start-At",
    "on_conflict": "Romancy-On-Conflict",
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, value in OUT_OF_RANGE if isinstance(value, float)]
    + [("timeout", "0"), ("retention", "0.5"), ("timeout", "soon"), ("start_delay", "1e400")],
    ids=repr,
)
def test_the_worker_refuses_the_same_of_a_bare_start(name: str, value: Any) -> None:
    header = HEADERS[name]
    with pytest.raises(StartRejectedError, match=f"{header} is a number of seconds"):
        read_start(flow, {header: str(value)}, b"", "id", 1_000_000)


@pytest.mark.parametrize(
    "value",
    ["1", True, b"1", [1], {"seconds": 1}, datetime.now(UTC), object()],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("name", ["timeout", "start_delay", "retention"])
def test_what_is_no_duration_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is a number of seconds or a timedelta"):
        flow.options(**{name: value})


@pytest.mark.parametrize(
    "moment",
    [datetime.fromisoformat("2026-01-01"), "2026-01-01T00:00:00Z", 17e8, timedelta(days=1), object()],
    ids=lambda value: type(value).__name__,
)
def test_a_start_at_without_a_zone_is_refused(moment: Any) -> None:
    with pytest.raises(ConfigurationError, match="start_at is an aware datetime"):
        flow.options(start_at=moment)


FAR = [datetime(2126, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=timezone(-timedelta(hours=14)))]


@pytest.mark.parametrize("moment", FAR)
def test_a_start_at_in_a_hundred_years_is_refused_with_the_bound(moment: datetime) -> None:
    with pytest.raises(ConfigurationError, match="start_at is before 2100-01-01"):
        flow.options(start_at=moment)
    for text in (moment.isoformat(), str(round(moment.timestamp() * 1e6))):
        with pytest.raises(StartRejectedError, match="Romancy-Start-At is "):
            read_start(flow, {"Romancy-Start-At": text}, b"", "id", 1_000_000)


@pytest.mark.parametrize(
    "moment", [datetime(1960, 1, 1, tzinfo=UTC), datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))]
)
def test_a_start_at_in_the_past_begins_at_once(moment: datetime) -> None:
    options = flow.options(start_at=moment).start_options
    assert read_options(options.headers()).begins(10**15) <= 10**15


@pytest.mark.parametrize("value", ["", "JOIN", "replace", None, 1, ["join"]], ids=repr)
def test_an_unknown_on_conflict_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="join, fail, restart_ended"):
        flow.options(on_conflict=value)


def test_an_unknown_on_conflict_of_a_bare_start_is_refused() -> None:
    with pytest.raises(StartRejectedError, match="join, fail, restart_ended"):
        read_start(flow, {"Romancy-On-Conflict": "replace"}, b"", "id", 1_000_000)


@pytest.mark.parametrize(
    "value", [1, [1], {1: 2}, {"a": object()}, {"a": float("nan")}, {"a": "\ud800"}], ids=range(6)
)
@pytest.mark.parametrize("name", ["attributes", "memo"])
def test_attributes_that_are_no_json_are_refused(name: str, value: Any) -> None:
    with pytest.raises(PayloadError, match="names and JSON values"):
        flow.options(**{name: value})


@pytest.mark.parametrize("id", ["", "x" * 129, "\ud800", 17, b"id"], ids=range(5))
def test_an_id_that_is_none_is_refused(id: Any) -> None:
    with pytest.raises(RomancyError):
        flow.options(id=id)


def test_what_is_in_range_goes_through_the_headers_unchanged() -> None:
    options = StartOptions.checked(
        timeout=0.001, start_delay=1e9, attributes={"a": [1, "é"]}, retention=1, on_conflict="fail"
    )
    assert read_options(options.headers()) == options
    assert flow.options(start_delay=0).start_options.headers() == {}
