"""Lines of `romancy history`: moments are told with their zone, never as numbers, whatever event they are in."""

from __future__ import annotations

import pytest

from romancy_nats.cli.histories import detail_of
from romancy_nats.core.events import (
    ActivityAttemptFailed,
    Event,
    EventReceived,
    MessageReceived,
    TimerStarted,
    WorkflowStarted,
)

MOMENT = 1_796_000_000_123_456
TOLD = "2026-11-30T00:53:20.123+00:00"


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (WorkflowStarted("order", b"", "", deadline=MOMENT), f"deadline={TOLD}"),
        (WorkflowStarted("order", b"", "", begin_at=MOMENT), f"begin_at={TOLD}"),
        (WorkflowStarted("order", b"", "", max_value=1000), ""),
        (ActivityAttemptFailed("pay:1", 2, b"", retry_at=MOMENT), f"attempt=2 retry_at={TOLD}"),
        (TimerStarted("sleep:1", MOMENT), f"due={TOLD}"),
        (MessageReceived("say", b"", time=MOMENT), f"channel=say time={TOLD}"),
        (EventReceived("wait:1", "paid", "7", b"", time="2026-11-29"), "time=2026-11-29"),
    ],
)
def test_a_moment_is_told_with_its_zone(event: Event, told: str) -> None:
    detail = detail_of(event)
    assert detail.endswith(told)
    assert str(MOMENT) not in detail
