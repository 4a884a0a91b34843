"""Events and messages that do not fit `model`: skipped and parked, or raised; the same in replay."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError, field_validator

from romancy_nats import EventTimeoutError, WorkflowContext, workflow
from romancy_nats.core.commit import Commit
from romancy_nats.core.events import (
    EventReceived,
    MessageReceived,
    Skipped,
    TimerFired,
    WaitEnded,
    WorkflowCompleted,
    WorkflowFailed,
)
from romancy_nats.core.execution import Execution
from romancy_nats.core.failure import Failure
from romancy_nats.core.plain import encode_plain
from romancy_nats.errors import DeterminismError
from tests.unit.test_waits import Run


class Paid(BaseModel):
    amount: int

    @field_validator("amount")
    @classmethod
    def known(cls, amount: int) -> int:
        return {13: [], 0: {}}.get(amount, {"x": amount})["x"]  # type: ignore[call-overload, index, no-any-return]


MISFITS: list[Any] = [{}, {"amount": "much"}, None, "text", [1], {"amount": 13}, {"amount": 0}, 5]
"""13 and 0 make the validator raise TypeError and KeyError, as those of users do."""


@workflow
async def waits(ctx: WorkflowContext) -> int:
    return (await ctx.wait_event("paid", timeout=10, model=Paid)).data.amount


@workflow
async def streams(ctx: WorkflowContext) -> list[int]:
    found: list[int] = []
    async with ctx.events("paid", model=Paid) as events:
        async for event in events:
            found.append(event.data.amount)
            if len(found) == 2:
                break
    return found


@workflow
async def strict(ctx: WorkflowContext, what: str) -> str:
    try:
        if what == "event":
            await ctx.wait_event("paid", model=Paid, invalid="raise")
        elif what == "events":
            async with ctx.events("paid", model=Paid, invalid="raise") as events:
                await anext(events)
        else:
            await ctx.receive("c", model=Paid)
    except ValidationError as error:
        return f"{error.error_count()}"
    return "fits"


@workflow
async def reads(ctx: WorkflowContext, late: bool) -> int:
    if late:
        await asyncio.sleep(5)
    return (await ctx.receive("c", model=Paid, invalid="skip")).data.amount


def an_event(data: Any, sequence: int, wait: str = "event:1") -> EventReceived:
    return EventReceived(wait, "paid", f"e{sequence}", encode_plain(data), stream="M", sequence=sequence)


def a_message(data: Any, sequence: int) -> MessageReceived:
    return MessageReceived("c", encode_plain(data), id=f"m{sequence}", stream="M", sequence=sequence)


@pytest.mark.parametrize("misfit", MISFITS, ids=repr)
def test_what_does_not_fit_is_skipped_and_the_wait_goes_on(misfit: Any) -> None:
    run = Run(waits)
    for sequence in (1, 2):
        (skipped,) = run.give(an_event(misfit, sequence))
        assert isinstance(skipped, Skipped)
        assert skipped[:3] == ("event:1", "M", sequence)
        assert "the data of event 'paid' does not fit Paid: " in skipped.reason
    assert run.execution.state.waiting.skips == 2
    assert run.execution.state.waiting.skipped["M", 1].sequence == 1
    run.give(an_event({"amount": "7"}, 3))
    assert run.ended() == 7


def test_the_limit_goes_on_counting() -> None:
    run = Run(waits)
    run.give(an_event({}, 1))
    run.give(TimerFired("timer:1"))
    assert isinstance(run.execution.state.ending, WorkflowFailed)
    assert Failure.decode(run.execution.state.ending.failure).error_type == EventTimeoutError.__name__
    run.execution.evict()


def test_streams_skip_too() -> None:
    run = Run(streams)
    for sequence, data in enumerate([{}, {"amount": 1}, None, {"amount": 2}], 1):
        run.give(an_event(data, sequence))
    assert run.ended() == [1, 2]
    skipped = [
        event.sequence for commit in run.commits for event in commit.events if isinstance(event, Skipped)
    ]
    assert skipped == [1, 3]


@pytest.mark.parametrize("what", ["event", "events", "message"])
def test_it_raises_where_that_was_asked_for(what: str) -> None:
    run = Run(strict, what)
    run.give(a_message({}, 1) if what == "message" else an_event({}, 1))
    assert run.ended() == "1"


@pytest.mark.parametrize("late", [False, True])
def test_messages_are_skipped_where_that_was_asked_for(late: bool) -> None:
    run = Run(reads, late)
    for sequence, data in enumerate([{}, "x", {"amount": 3}], 1):
        run.give(a_message(data, sequence))
    if late:
        run.give(TimerFired("timer:1"))
    assert run.ended() == 3
    commands = [event for commit in run.commits for event in commit.events if isinstance(event, Skipped)]
    assert [(c.wait, c.sequence) for c in commands] == [("" if late else "message:1", n) for n in (1, 2)]


@pytest.mark.parametrize("bad", ["", "Skip", None, True, "ignore", 3])
def test_other_words_are_refused_at_the_call(bad: Any) -> None:
    @workflow
    async def odd(ctx: WorkflowContext, what: int) -> list[str]:
        said: list[str] = []
        for call in (
            lambda: ctx.wait_event("t", invalid=bad),
            lambda: ctx.receive("c", invalid=bad),
            lambda: ctx.events("t", invalid=bad).__aenter__(),
        ):
            try:
                await call()
            except ValueError as error:
                said.append(str(error))
        return said

    run = Run(odd, 0)
    assert run.ended() == [f'invalid is "skip" or "raise", not {bad!r}'] * 3


def test_another_decision_in_replay_is_a_mismatch() -> None:
    run = Run(waits)
    run.give(an_event({}, 1))
    run.give(an_event({"amount": 2}, 2))

    class Lax(BaseModel):
        amount: int = 1

    @workflow(name="waits")
    async def newer(ctx: WorkflowContext) -> int:
        return (await ctx.wait_event("paid", timeout=10, model=Lax)).data.amount

    again = Execution(newer, run.key)
    again.replay(run.commits[0])
    with pytest.raises(DeterminismError) as caught:
        again.replay(run.commits[1])
    assert "Skipped(wait='event:1', stream='M', sequence=1)" in str(caught.value)
    again.evict()
    run.execution.evict()


def test_a_reason_is_short() -> None:
    @workflow
    async def picky(ctx: WorkflowContext) -> int:
        class Picky(BaseModel):
            amount: int

            @field_validator("amount")
            @classmethod
            def refuse(cls, amount: int) -> int:
                raise RuntimeError("x" * 2_000_000)

        return (await ctx.wait_event("paid", model=Picky)).data.amount

    run = Run(picky)
    (skipped,) = run.give(an_event({"amount": 1}, 1))
    assert isinstance(skipped, Skipped)
    assert len(skipped.reason) <= 4_000
    assert len(Commit("", "", 0, 0, (skipped,)).encode()) < 5_000
    run.execution.evict()


def test_commands_of_a_wait_that_skips() -> None:
    run = Run(waits)
    kinds = [type(command) for command in run.give(an_event({}, 1))]
    kinds += [type(command) for command in run.give(an_event({"amount": 2}, 2))]
    assert kinds[0] is Skipped
    assert WaitEnded in kinds
    assert kinds[-1] is WorkflowCompleted
    run.execution.evict()
