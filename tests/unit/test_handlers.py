"""Queries only look; updates run as tasks of the workflow, are recorded, and come out the same in replay."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from romancy_nats import QueryError, WorkflowContext, activity, workflow
from romancy_nats.core.commit import Commit
from romancy_nats.core.events import (
    ActivityCompleted,
    ActivityScheduled,
    Converted,
    MessageReceived,
    TerminateRequested,
    UpdateAnswered,
    UpdateRequested,
    WaitEnded,
    WaitStarted,
    WorkflowTerminated,
)
from romancy_nats.core.execution import Execution
from romancy_nats.core.failure import Failure
from romancy_nats.core.plain import decode_plain, encode_plain
from tests.unit.test_waits import Run


@dataclass
class Item:
    name: str
    count: int


@activity
async def price(name: str) -> int:
    return len(name)


def positive(n: int) -> None:
    if n < 1:
        raise ValueError("not positive")


@workflow
async def shop(ctx: WorkflowContext) -> int:
    total = 0
    woken = asyncio.Event()

    def add(n: int) -> int:
        nonlocal total
        total += n
        return total

    async def buy(name: str) -> int:
        return add(await ctx.run(price, name))

    def explode() -> None:
        raise LookupError("gone")

    async def give_up() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    ctx.on_query("total", lambda: total)
    ctx.on_query("item", lambda: Item("tea", total))
    ctx.on_query("random", lambda: ctx.random.random())
    ctx.on_query("receiving", lambda: ctx.receive("done"))
    ctx.on_query("waking", woken.set)
    ctx.on_query("timing", lambda: asyncio.get_running_loop().call_later(1, print))
    ctx.on_query("exiting", exit)
    ctx.on_update("add", add, positive)
    ctx.on_update("buy", buy)
    ctx.on_update("explode", explode)
    ctx.on_update("give up", give_up)
    waiting = asyncio.create_task(woken.wait())
    await ctx.receive("done")
    ctx.on_update("late", add)
    await ctx.receive("end")
    waiting.cancel()
    return total


def asked(execution: Execution, name: str, *args: object) -> Any:
    return decode_plain(execution.query(name, {"args": list(args), "kwargs": {}}))


def update(run: Run, id: str, name: str, *args: object) -> Any:
    """What the handler did; what was made of its arguments is recorded before."""
    commands = run.give(UpdateRequested(id, name, encode_plain({"args": list(args)}), "inbox"))
    return [command for command in commands if not isinstance(command, Converted)]


def done(run: Run) -> Any:
    run.message(None, "done")
    run.message(None, "end")
    return run.ended()


def failure(answered: object) -> Failure:
    assert isinstance(answered, UpdateAnswered)
    return Failure.decode(answered.failure)


def test_a_query_looks_and_leaves_no_trace() -> None:
    run = Run(shop)
    loop = run.execution.state.loop
    before = loop.time()
    for _ in range(3):
        assert asked(run.execution, "total") == 0
    assert asked(run.execution, "item") == {"name": "tea", "count": 0}
    assert loop.time() == before
    assert not run.execution.disturbed
    assert done(run) == 0


@pytest.mark.parametrize("name", ["random", "receiving", "timing", "exiting"])
def test_a_query_that_does_more_is_refused_and_harms_nothing(name: str) -> None:
    run = Run(shop)
    with pytest.raises(QueryError):
        asked(run.execution, name)
    assert not run.execution.disturbed
    assert update(run, "u", "buy", "tea")[0] == ActivityScheduled("price:1", "price", b"\x92\x91\xa3tea\x80")
    run.give(ActivityCompleted("price:1", 1, encode_plain(3)))
    assert done(run) == 3


def test_a_query_that_wakes_the_workflow_is_found_out() -> None:
    run = Run(shop)
    with pytest.raises(QueryError, match="only looks"):
        asked(run.execution, "waking")
    assert run.execution.disturbed
    run.execution.evict()


def test_queries_that_nobody_answers() -> None:
    run = Run(shop)
    with pytest.raises(QueryError, match="it knows: exiting, item"):
        asked(run.execution, "nothing")
    with pytest.raises(QueryError, match="total"):
        asked(run.execution, "total", 1)
    run.execution.evict()


def test_an_update_is_answered_in_the_commit_that_carries_it_out() -> None:
    run = Run(shop)
    assert update(run, "u1", "add", 3) == [UpdateAnswered("u1", encode_plain(3))]
    assert run.execution.state.handlers.inboxes == {"u1": "inbox"}
    assert asked(run.execution, "total") == 3
    assert done(run) == 3


def test_an_update_may_run_activities() -> None:
    run = Run(shop)
    assert [type(c) for c in update(run, "u1", "buy", "tea")] == [ActivityScheduled]
    assert [type(c) for c in update(run, "u2", "buy", "milk")] == [ActivityScheduled]
    assert run.give(ActivityCompleted("price:2", 1, encode_plain(4))) == [
        UpdateAnswered("u2", encode_plain(4))
    ]
    assert run.give(ActivityCompleted("price:1", 1, encode_plain(3))) == [
        UpdateAnswered("u1", encode_plain(7))
    ]
    assert done(run) == 7


def test_a_validator_refuses() -> None:
    run = Run(shop)
    (answered,) = update(run, "u1", "add", 0)
    assert answered.rejected
    assert failure(answered).message == "not positive"
    (answered,) = update(run, "u2", "add", "many")
    assert answered.rejected
    assert done(run) == 0


def test_an_update_that_fails_leaves_the_workflow_alone() -> None:
    run = Run(shop)
    (answered,) = update(run, "u1", "explode")
    assert not answered.rejected
    assert failure(answered).error_type == "LookupError"
    assert done(run) == 0


def test_an_update_whose_handler_is_cancelled_has_failed_though_the_workflow_goes_on() -> None:
    run = Run(shop)
    (answered,) = update(run, "u1", "give up")
    assert failure(answered).error_type == "CancelledError"
    assert done(run) == 0


def test_an_update_waits_for_its_handler() -> None:
    run = Run(shop)
    assert update(run, "u1", "late", 2) == []
    assert update(run, "u2", "late", 3) == []
    commands = [c for c in run.message(None, "done") if not isinstance(c, Converted)]
    assert commands == [
        WaitEnded("message:1"),
        WaitStarted("message:2", "message", "end"),
        UpdateAnswered("u1", encode_plain(2)),
        UpdateAnswered("u2", encode_plain(5)),
    ]
    run.message(None, "end")
    assert run.ended() == 5


def test_the_end_rejects_what_is_left() -> None:
    run = Run(shop)
    update(run, "u1", "buy", "tea")
    update(run, "u2", "never")
    run.message(None, "done")
    commands = run.message(None, "end")
    left = [command for command in commands if isinstance(command, UpdateAnswered)]
    assert [(answered.id, answered.rejected) for answered in left] == [("u1", True), ("u2", True)]
    assert run.ended() == 0


def test_a_terminate_rejects_what_is_left() -> None:
    run = Run(shop)
    update(run, "u1", "never")
    answered, ending = run.give(TerminateRequested("enough"))
    assert isinstance(answered, UpdateAnswered)
    assert answered.rejected
    assert ending == WorkflowTerminated("enough")
    run.execution.evict()


def test_a_replay_tells_nobody_what_was_told() -> None:
    run = Run(shop)
    update(run, "u1", "add", 1)
    update(run, "u2", "never")
    again = Execution(shop, run.key)
    for commit in run.commits:
        again.replay(Commit.decode(commit.encode()))
    assert again.state.handlers.inboxes == {"u2": "inbox"}
    assert asked(again, "total") == 1
    again.evict()
    run.execution.evict()


def test_an_ended_execution_answers_queries() -> None:
    run = Run(shop)
    update(run, "u1", "add", 4)
    run.give(MessageReceived("done", b""))
    run.give(MessageReceived("end", b""))
    assert run.execution.state.ending is not None
    assert asked(run.execution, "total") == 4
    run.execution.evict()
