"""Filters of a list: what they take, and that one which cannot be read says what it may be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from romancy_nats import ConfigurationError, InstanceStatus
from romancy_nats.core.selection import Selection

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("since", "wanted"),
    [
        ("90s", NOW - timedelta(seconds=90)),
        ("30m", NOW - timedelta(minutes=30)),
        (" 2h ", NOW - timedelta(hours=2)),
        ("1.5 d", NOW - timedelta(days=1.5)),
        ("1w", NOW - timedelta(weeks=1)),
        (timedelta(hours=2), NOW - timedelta(hours=2)),
        ("2026-02-28T12:00:00Z", NOW - timedelta(days=1)),
        ("2026-02-28T12:00:00+01:00", datetime(2026, 2, 28, 12, tzinfo=timezone(timedelta(hours=1)))),
        ("2026-02-28", datetime(2026, 2, 28).astimezone()),
        (datetime(2026, 2, 28), datetime(2026, 2, 28).astimezone()),  # noqa: DTZ001 - as a user may give it
        (NOW, NOW),
    ],
)
def test_a_time_is_a_date_or_how_long_ago(since: Any, wanted: datetime) -> None:
    chosen = Selection.of(NOW, since=since)
    assert chosen.since == wanted
    assert chosen.takes(InstanceStatus.RUNNING, wanted, {})
    assert not chosen.takes(InstanceStatus.RUNNING, wanted - timedelta(microseconds=1), {})
    assert not chosen.takes(InstanceStatus.RUNNING, None, {})
    if wanted < NOW:
        assert not Selection.of(NOW, until=since).takes(InstanceStatus.RUNNING, wanted, {})


@pytest.mark.parametrize(
    "wrong", ["", "yesterday", "2x", "-2h", "h", "2026-13-01", "9" * 40 + "d", "999999999w", 5, timedelta.max]
)
def test_what_is_no_time_says_what_one_is(wrong: Any) -> None:
    for name in ("since", "until"):
        with pytest.raises(ConfigurationError, match=rf"{name}: .*2026-01-31.*3d"):
            Selection.of(NOW, **{name: wrong})


def test_statuses_and_attributes() -> None:
    several = Selection.of(NOW, status=["failed", InstanceStatus.STALLED])
    assert several.takes(InstanceStatus.FAILED, None, None)
    assert several.takes(InstanceStatus.STALLED, None, None)
    assert not several.takes(InstanceStatus.RUNNING, None, None)
    assert Selection.of(NOW, status=[]).takes(InstanceStatus.RUNNING, None, None)
    with pytest.raises(ConfigurationError, match="there is queued, running"):
        Selection.of(NOW, status="broken")
    tagged = Selection.of(NOW, attributes={"customer": "ada", "n": 1})
    assert tagged.takes(InstanceStatus.RUNNING, None, {"customer": "ada", "n": 1, "more": None})
    assert not tagged.takes(InstanceStatus.RUNNING, None, {"customer": "ada"})
    assert not tagged.takes(InstanceStatus.RUNNING, None, None)
    with pytest.raises(ConfigurationError, match="is not before until"):
        Selection.of(NOW, since="1h", until="2h")
