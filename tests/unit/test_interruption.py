"""What interrupts the body of a workflow: the first of a cancel, the time limit and `recur`, and only while it runs."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from romancy_nats.core.events import CancelRequested
from romancy_nats.core.interruption import Interruption, Recurring
from romancy_nats.core.tasks import RecurredElsewhere


class RootTask:
    """Records by what it was cancelled."""

    def __init__(self) -> None:
        self.cancelled: list[object] = []

    def cancel(self, reason: object) -> None:
        self.cancelled.append(reason)


def entered() -> tuple[Interruption, RootTask]:
    interruption, task = Interruption(), RootTask()
    interruption.enter(cast("Any", task))
    return interruption, task


def running() -> tuple[Interruption, RootTask]:
    interruption, task = entered()
    interruption.body_begins()
    return interruption, task


def test_nothing_interrupts_what_has_not_begun() -> None:
    interruption = Interruption()
    interruption.request_cancel(CancelRequested("early"))
    interruption.time_out()
    assert (interruption.cancel, interruption.timed_out) == (None, False)
    interruption, task = entered()
    interruption.request_cancel(CancelRequested("early"))
    interruption.time_out()
    assert (interruption.cancel, interruption.timed_out, task.cancelled) == (None, False, [])


def test_the_first_cancel_counts() -> None:
    interruption, task = running()
    for reason in ("one", "two"):
        interruption.request_cancel(CancelRequested(reason))
    interruption.time_out()
    assert interruption.cancel == CancelRequested("one")
    assert task.cancelled == ["one"]
    assert not interruption.timed_out


def test_the_time_limit_cancels_the_body() -> None:
    interruption, task = running()
    interruption.time_out()
    assert interruption.timed_out
    assert task.cancelled == ["timeout"]


def test_nothing_interrupts_what_unwinds() -> None:
    interruption, task = running()
    assert not interruption.unwinds
    interruption.body_ended()
    assert interruption.unwinds
    interruption.request_cancel(CancelRequested("late"))
    interruption.time_out()
    assert (interruption.cancel, interruption.timed_out, task.cancelled) == (None, False, [])


async def test_recur_of_another_task_cancels_the_root() -> None:
    interruption, task = running()
    with pytest.raises(RecurredElsewhere):
        interruption.recur(b"next")
    assert interruption.next_input == b"next"
    assert task.cancelled == ["recur"]


async def test_recur_of_the_root_unwinds_it() -> None:
    interruption = Interruption()
    me = asyncio.current_task()
    assert me is not None
    interruption.enter(me)
    interruption.body_begins()
    with pytest.raises(Recurring):
        interruption.recur(b"next")
    assert interruption.next_input == b"next"


async def test_a_cancel_is_stronger_than_a_recur_that_unwinds() -> None:
    interruption, task = running()
    with pytest.raises(RecurredElsewhere):
        interruption.recur(b"next")
    interruption.body_ended()
    interruption.request_cancel(CancelRequested("stop"))
    assert interruption.cancel == CancelRequested("stop")
    assert task.cancelled == ["recur"]


async def test_recur_after_the_body_changes_nothing() -> None:
    interruption, task = running()
    interruption.body_ended()
    with pytest.raises(RecurredElsewhere):
        interruption.recur(b"next")
    assert (interruption.next_input, task.cancelled) == (None, [])
