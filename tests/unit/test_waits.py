"""Waits and the mailbox of an execution: who gets what, in order, and the same again in replay."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from romancy_nats import EventTimeoutError, MessageTimeoutError, WorkflowContext, workflow
from romancy_nats.core.commit import Commit
from romancy_nats.core.definition import Workflow
from romancy_nats.core.events import (
    Command,
    Delivered,
    Emitted,
    EventReceived,
    MessageReceived,
    TimerFired,
    TimerStarted,
    WaitEnded,
    WaitStarted,
    WorkflowCompleted,
    WorkflowStarted,
)
from romancy_nats.core.execution import Execution
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.plain import decode_plain, encode_plain
from romancy_nats.errors import PayloadError


class Run:
    """An execution, its history as one commit a delivery, and a replay of it to compare with."""

    def __init__(self, code: Workflow[..., Any], *args: object) -> None:
        self.code = code
        self.key = InstanceKey(code.name, "x")
        self.execution = Execution(code, self.key)
        self.commits: list[Commit] = []
        self.commands = self.give(WorkflowStarted(code.name, code.parameters.encode(args), code.code))

    def give(self, event: Delivered) -> Sequence[Command]:
        time = (len(self.commits) + 1) * 1_000_000
        commands = self.execution.deliver(event, time)
        self.commits.append(Commit(f"c{len(self.commits)}", "w", 1, time, (event, *commands)))
        return commands

    def message(self, data: object, channel: str = "c", order: int = 0) -> Sequence[Command]:
        return self.give(MessageReceived(channel, encode_plain(data), sender="s", order=order))

    def event(self, wait: str, data: object) -> Sequence[Command]:
        return self.give(EventReceived(wait, "t", "e", encode_plain(data)))

    def ended(self) -> Any:
        """The result, live and in replay."""
        again = Execution(self.code, self.key)
        for commit in self.commits:
            again.replay(Commit.decode(commit.encode()))
        assert isinstance(self.execution.state.ending, WorkflowCompleted)
        assert again.state.ending == self.execution.state.ending
        assert again.state.waiting.unread == self.execution.state.waiting.unread
        assert again.state.waiting.orders == self.execution.state.waiting.orders
        again.evict()
        self.execution.evict()
        return decode_plain(self.execution_result())

    def execution_result(self) -> bytes:
        last = self.commits[-1].events[-1]
        assert isinstance(last, WorkflowCompleted)
        return last.result


@workflow
async def two(ctx: WorkflowContext) -> list[Any]:
    first = await ctx.receive("c")
    second = await ctx.receive("c")
    return [first.data, second.data]


def test_a_message_answers_the_wait() -> None:
    run = Run(two)
    assert run.commands == [WaitStarted("message:1", "message", "c", "", False)]
    assert run.message("a") == [WaitEnded("message:1"), WaitStarted("message:2", "message", "c")]
    run.message("b")
    assert run.ended() == ["a", "b"]


def test_messages_that_come_too_early_are_kept_by_channel() -> None:
    @workflow
    async def later(ctx: WorkflowContext) -> list[Any]:
        await ctx.receive("go")
        return [(await ctx.receive("c")).data for _ in range(2)]

    run = Run(later)
    run.message(1)
    run.message(2)
    run.message(3)
    commands = run.message(None, "go")
    assert [type(command) for command in commands] == [WaitEnded, WorkflowCompleted]
    assert [m.data for m in run.execution.state.waiting.unread["c"]] == [encode_plain(3)]
    assert run.ended() == [1, 2]


def test_waiters_are_answered_in_the_order_in_which_they_wait() -> None:
    @workflow
    async def race(ctx: WorkflowContext) -> list[Any]:
        return [m.data for m in await asyncio.gather(ctx.receive("c"), ctx.receive("c"), ctx.receive("d"))]

    run = Run(race)
    run.message("d", "d")
    run.message("first")
    run.message("second")
    assert run.ended() == ["first", "second", "d"]


def test_timeout_xor_message() -> None:
    @workflow
    async def patient(ctx: WorkflowContext) -> list[Any]:
        try:
            await ctx.receive("c", timeout=5)
        except MessageTimeoutError as error:
            return [error.channel, error.seconds, (await ctx.receive("c")).data]
        return []

    run = Run(patient)
    timer = next(command for command in run.commands if isinstance(command, TimerStarted))
    run.give(TimerFired(timer.id))
    run.message("late")
    assert run.ended() == ["c", 5.0, "late"]


@pytest.mark.parametrize("others", [0, 1])
def test_a_message_is_not_lost_with_a_waiter_that_is_cancelled_in_the_same_step(others: int) -> None:
    tasks: list[asyncio.Task[Any]] = []

    @workflow
    async def waiting(ctx: WorkflowContext) -> Any:
        tasks.extend(asyncio.create_task(ctx.receive("c")) for _ in range(1 + others))
        await asyncio.wait(tasks[:1])
        assert tasks[0].cancelled()
        return (await (tasks[1] if others else ctx.receive("c"))).data

    run = Run(waiting)
    waits = run.execution.state.waiting

    def answered_and_cancelled() -> None:
        waits.message(MessageReceived("c", encode_plain("kept")))
        tasks[0].cancel()

    run.execution.state.loop.step(3.0, answered_and_cancelled)
    ending = run.execution.state.ending
    assert isinstance(ending, WorkflowCompleted)
    assert decode_plain(ending.result) == "kept"
    assert waits.unread == {}
    run.execution.evict()


def test_order_of_a_sender() -> None:
    run = Run(two)
    waits = run.execution.state.waiting
    assert not waits.out_of_order("s", 1)
    assert waits.out_of_order("s", 2)
    run.message("a", order=1)
    assert not waits.out_of_order("s", 2)
    assert not waits.out_of_order("s", 1), "what was there before is not early"
    assert waits.out_of_order("other", 2)
    run.message("b", order=2)
    assert run.ended() == ["a", "b"]


def test_events_answer_their_wait_alone() -> None:
    @workflow
    async def both(ctx: WorkflowContext) -> list[Any]:
        one, other = await asyncio.gather(ctx.wait_event("t", key="k"), ctx.wait_event("t"))
        return [one.data, other.data]

    run = Run(both)
    assert run.commands == [
        WaitStarted("event:1", "event", "t", "k", True),
        WaitStarted("event:2", "event", "t", "", False),
    ]
    run.event("event:2", "any")
    assert run.event("event:2", "again") == []
    run.event("event:1", "keyed")
    assert run.ended() == ["keyed", "any"]


def test_an_event_after_its_timeout_is_moot() -> None:
    @workflow
    async def patient(ctx: WorkflowContext) -> str:
        try:
            await ctx.wait_event("t", timeout=2)
        except EventTimeoutError as error:
            await ctx.receive("c")
            return str(error)
        return "heard"

    run = Run(patient)
    timer = next(command for command in run.commands if isinstance(command, TimerStarted))
    run.give(TimerFired(timer.id))
    assert run.event("event:1", "late") == []
    run.message(None)
    assert run.ended() == "no event 't' within 2 s"


def test_a_stream_of_events_misses_none() -> None:
    @workflow
    async def stream(ctx: WorkflowContext) -> list[Any]:
        found: list[Any] = []
        async with ctx.events("t") as events:
            async for event in events:
                found.append(event.data)
                await ctx.receive("next")
                if len(found) == 3:
                    break
        return found

    run = Run(stream)
    for n in range(3):
        run.event("event:1", n)
    for _ in range(2):
        run.message(None, "next")
    commands = run.message(None, "next")
    assert [type(command) for command in commands] == [WaitEnded, WaitEnded, WorkflowCompleted]
    assert run.ended() == [0, 1, 2]


def test_data_that_does_not_fit_raises_in_the_workflow() -> None:
    @workflow
    async def typed(ctx: WorkflowContext) -> str:
        try:
            await ctx.receive("c", model=int)
        except ValidationError as error:
            return error.title
        return ""

    run = Run(typed)
    run.message("text")
    assert run.ended() == "int"


def test_what_is_emitted() -> None:
    @workflow
    async def telling(ctx: WorkflowContext) -> str:
        ctx.emit({"a": 1})
        ctx.emit("kept", durable=True)
        try:
            ctx.emit(object())
        except PayloadError:
            await ctx.receive("c")
        return "done"

    heard: list[bytes] = []
    execution = Execution(telling, InstanceKey("telling", "x"))
    execution.state.announce = heard.append
    started = WorkflowStarted("telling", telling.parameters.encode(), "")
    commands = execution.deliver(started, 1)
    assert commands == [Emitted(encode_plain("kept")), WaitStarted("message:1", "message", "c")]
    assert [decode_plain(data) for data in heard] == [{"a": 1}]
    execution.evict()
    again = Execution(telling, InstanceKey("telling", "x"))
    again.state.announce = heard.append
    again.replay(Commit("c", "w", 1, 1, (started, *commands)))
    assert len(heard) == 1
    again.evict()


@pytest.mark.parametrize("value", [1, "x", None, {"a": [1, 2.5]}, b"\x00"])
def test_plain_values_come_back(value: object) -> None:
    assert decode_plain(encode_plain(value)) == value
