"""Records and dead letters always fit: what is too large of them is left out, and no write is tried in a loop."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from romancy_nats.core.headers import (
    DROPPED_HEADERS,
    LARGEST_KEPT,
    LONGEST_REASON,
    ORIGIN_MESSAGE_ID,
    REASON,
    dead_letter_headers,
)
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.record import InstanceRecord, InstanceStatus
from romancy_nats.ports import DeadLetter, Refusal, Refused, Source, World
from romancy_nats.runtime.dead_letters import write_letter
from romancy_nats.storage.records import write_record

pytestmark = pytest.mark.anyio
TEXTS = [
    "x" * 2_000_000,
    "日本" * 1_000_000,
    "a\ud800b" * 100_000,
    "a\x00b\x1b[31m\r\nc\u2028d" * 1000,
    "plain",
    "",
]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:5]))
def test_the_headers_of_a_dead_letter_are_bounded(text: str) -> None:
    headers = {"Nats-Msg-Id": text, "Romancy-Channel": text, "X-Own": "y", text[:50] or "Empty": "z"}
    found = dead_letter_headers(headers, text, "S", 7, "id")
    assert (
        sum(len(name) + len(value.encode()) for name, value in found.items() if value) < LARGEST_KEPT + 6_000
    )
    reason = found[REASON]
    assert len(reason.encode()) <= LONGEST_REASON
    assert reason.isprintable()
    assert "Nats-Msg-Id" in found
    if len(text) > LARGEST_KEPT:
        assert ORIGIN_MESSAGE_ID in found[DROPPED_HEADERS]


class Ledger:
    """Takes records of so many bytes."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.sizes: list[int] = []

    async def write(self, key: InstanceKey, record: InstanceRecord, expected: int) -> int | Refused:
        self.sizes.append(len(record.encode()))
        return 5 if self.sizes[-1] <= self.most else Refused(Refusal.TOO_LARGE, "too large")


def a_world(**ports: Any) -> World:
    return cast("World", SimpleNamespace(chance=SimpleNamespace(id=lambda: "id"), **ports))


async def test_a_record_that_is_too_large_is_shortened_once() -> None:
    record = InstanceRecord(
        status=InstanceStatus.FAILED,
        error="\x00" * 4_000,
        error_type="E" * 500,
        result="x" * 6_000,
        waiting_for=["é" * 400] * 50,
        attributes={"a": "x" * 1000},
    )
    ledger = Ledger(10_000)
    assert await write_record(a_world(ledger=ledger), InstanceKey("w", "i"), record, 4) == 5
    assert len(ledger.sizes) == 2
    assert record.error.startswith("\x00")
    assert record.attributes == {"a": "x" * 1000}
    hopeless = Ledger(10)
    reply = await write_record(a_world(ledger=hopeless), InstanceKey("w", "i"), record, 4)
    assert isinstance(reply, Refused)
    assert len(hopeless.sizes) == 2


@pytest.mark.parametrize("why", list(Refusal))
async def test_a_dead_letter_that_is_refused_is_logged_and_not_tried_again(
    why: Refusal, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0

    async def park(_: DeadLetter) -> Refused | None:
        nonlocal calls
        calls += 1
        return None if calls == 1 else Refused(why, "no")

    letter = DeadLetter("w", "because", b"", {}, Source("S", 1))
    assert not await write_letter(a_world(queues=SimpleNamespace(park=park)), letter)
    assert calls == 2
    assert "because" in caplog.text
