"""How many instances a worker begins while commits are unanswered."""

from __future__ import annotations

from typing import cast

from romancy_nats.runtime.instance import Instance
from romancy_nats.runtime.pace import MOST_UNANSWERED, Pace


class _Woken:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


def _instances(count: int) -> list[Instance]:
    return [cast("Instance", object()) for _ in range(count)]


def test_what_is_about_to_commit_counts() -> None:
    pace = Pace(_Woken())
    assert pace.room(0) == MOST_UNANSWERED
    assert pace.room(MOST_UNANSWERED - 3) == 3
    assert pace.room(MOST_UNANSWERED) == 0


def test_once_full_there_is_room_when_half_is_answered() -> None:
    woken = _Woken()
    pace = Pace(woken)
    held = _instances(MOST_UNANSWERED)
    for one in held:
        pace.sent(one)
    assert pace.room(0) == 0
    for one in held[: MOST_UNANSWERED // 2]:
        pace.answered(one)
    assert woken.times == 0
    assert pace.room(0) == 0, "the server would be asked for one start at a time"
    pace.answered(held[-1])
    assert woken.times == 1
    assert pace.room(0) == MOST_UNANSWERED // 2 + 1


def test_an_answer_that_nobody_waits_for_changes_nothing() -> None:
    pace = Pace(_Woken())
    (one,) = _instances(1)
    pace.sent(one)
    pace.sent(one)
    pace.answered(one)
    pace.answered(one)
    assert pace.room(0) == MOST_UNANSWERED
