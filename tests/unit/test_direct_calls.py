"""An activity called directly: in workflow code the same as `ctx.run`, everywhere else a plain call."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from romancy_nats import (
    QueryError,
    RetryPolicy,
    WorkflowContext,
    WorkflowRuleError,
    activity,
    compensation,
    current_workflow,
    workflow,
)
from romancy_nats.core.definition import Workflow
from romancy_nats.core.events import ActivityCompleted, ActivityScheduled, Command, Emitted, UpdateRequested
from romancy_nats.core.plain import decode_plain, encode_plain
from tests.unit.test_waits import Run

ran: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


@activity
async def greet(name: str, *, loud: bool = False) -> str:
    ran.append(name)
    return f"hello {name}{'!' if loud else ''}"


@activity
def plain(name: str) -> str:
    ran.append(name)
    return name


@compensation
async def undo(name: str) -> None:
    ran.append(f"undo {name}")


@compensation
def plain_undo(name: str) -> None:
    ran.append(f"undo {name}")


@dataclass(frozen=True)
class Shop:
    name: str

    @activity
    async def sell(self, what: str) -> str:
        ran.append(what)
        return f"{what} of {self.name}"

    @activity
    def count(self) -> int:
        return len(self.name)


def scheduled(commands: Sequence[Command]) -> list[tuple[str, bytes]]:
    return [(c.id, c.input) for c in commands if isinstance(c, ActivityScheduled)]


def asked_for(call: Callable[[WorkflowContext], Any]) -> list[tuple[str, bytes]]:
    @workflow
    async def calling(ctx: WorkflowContext) -> Any:
        return await call(ctx)

    run = Run(calling)
    run.execution.evict()
    assert ran == [], "the body ran in workflow code"
    return scheduled(run.commands)


CALLS: dict[str, tuple[Callable[[WorkflowContext], Any], Callable[[WorkflowContext], Any]]] = {
    "positional": (lambda ctx: greet("ann"), lambda ctx: ctx.run(greet, "ann")),
    "keywords": (
        lambda ctx: greet(name="ann", loud=True),
        lambda ctx: ctx.run(greet, "ann", loud=True),
    ),
    "options": (
        lambda ctx: greet.options(id="one", timeout=3, retry=RetryPolicy(max_attempts=2))("ann"),
        lambda ctx: ctx.run(greet.options(id="one"), "ann"),
    ),
    "method": (lambda ctx: Shop("s").sell("tea"), lambda ctx: ctx.run(Shop("s").sell, "tea")),
    "compensation": (lambda ctx: undo("ann"), lambda ctx: ctx.run(undo, "ann")),
    "partial": (lambda ctx: partial(greet, "ann")(), lambda ctx: ctx.run(greet, "ann")),
    "gathered": (
        lambda ctx: asyncio.gather(greet("ann"), greet("bob")),
        lambda ctx: asyncio.gather(ctx.run(greet, "ann"), ctx.run(greet, "bob")),
    ),
    "in a task": (
        lambda ctx: asyncio.ensure_future(greet("ann")),
        lambda ctx: ctx.run(greet, "ann"),
    ),
}


@pytest.mark.parametrize(("direct", "durable"), CALLS.values(), ids=CALLS)
def test_a_direct_call_in_workflow_code_is_ctx_run(
    direct: Callable[[WorkflowContext], Any], durable: Callable[[WorkflowContext], Any]
) -> None:
    assert asked_for(direct) == asked_for(durable) != []


def test_its_result_is_the_recorded_one_live_and_in_replay() -> None:
    @workflow
    async def calling(ctx: WorkflowContext) -> str:
        return await greet("ann") + await ctx.run(greet, "bob")

    run = Run(calling)
    run.give(ActivityCompleted("greet:1", 1, encode_plain("recorded ")))
    run.give(ActivityCompleted("greet:2", 1, encode_plain("twice")))
    assert run.ended() == "recorded twice"
    assert ran == []


@pytest.mark.parametrize(
    "call",
    [lambda: plain("x"), lambda: plain_undo("x"), lambda: Shop("s").count()],
    ids=["activity", "c", "m"],
)
def test_a_plain_activity_called_there_is_an_error_that_names_ctx_run(call: Callable[[], object]) -> None:
    @workflow
    async def calling(ctx: WorkflowContext) -> str:
        try:
            call()
        except WorkflowRuleError as error:
            return str(error)
        return "ran"

    text = Run(calling).ended()
    assert "await ctx.run(" in text
    assert ran == []


def test_update_handlers_and_generators_are_workflow_code() -> None:
    async def stream() -> AsyncGenerator[str]:
        yield await greet("ann")

    @workflow
    async def serving(ctx: WorkflowContext) -> str:
        async def put(name: str) -> str:
            return await greet(name)

        ctx.on_update("put", put)
        async for found in stream():
            await ctx.receive("go")
            return found
        return ""

    run = Run(serving)
    assert [id for id, _ in scheduled(run.commands)] == ["greet:1"]
    found = run.give(UpdateRequested("u", "put", encode_plain({"kwargs": {"name": "bob"}})))
    assert [id for id, _ in scheduled(found)] == ["greet:2"]
    run.execution.evict()
    assert ran == []


@pytest.mark.parametrize("call", [lambda: greet("x"), lambda: plain("x"), lambda: Shop("s").sell("x")])
def test_a_query_handler_may_not(call: Callable[[], object]) -> None:
    @workflow
    async def asked(ctx: WorkflowContext) -> None:
        ctx.on_query("q", call)
        await ctx.receive("go")

    run = Run(asked)
    with pytest.raises(QueryError):
        run.execution.query("q", None)
    assert not run.execution.disturbed
    run.execution.evict()
    assert ran == []


async def test_everywhere_else_it_is_a_plain_call() -> None:
    assert await greet("ann", loud=True) == "hello ann!"
    assert plain("bob") == "bob"
    assert await Shop("s").sell("tea") == "tea of s"
    assert ran == ["ann", "bob", "tea"]


def test_a_context_that_left_the_workflow_is_not_workflow_code() -> None:
    found: list[object] = []

    @workflow
    async def leaking(ctx: WorkflowContext) -> None:
        copied = copy_context()
        assert copied.run(current_workflow) is ctx
        thread = threading.Thread(target=lambda: found.append(copied.run(current_workflow)))
        thread.start()
        thread.join()
        contexts.append(copied)

    contexts: list[Any] = []
    Run(leaking).ended()
    assert found == [None, None], "live and in replay"
    assert contexts[0].run(current_workflow) is None
    assert contexts[0].run(plain, "after") == "after"


class Goodbye:
    """Calls an activity when it is freed."""

    def __init__(self) -> None:
        self.workflow: list[bool] = []

    def __del__(self) -> None:
        try:
            plain("del")
        except BaseException:  # noqa: BLE001 - what is refused here, however
            ran.clear()


def test_evicted_code_runs_no_activity() -> None:
    async def stream() -> AsyncGenerator[int]:
        try:
            yield 1
        finally:
            await greet("generator")

    @workflow
    async def leaving(ctx: WorkflowContext) -> None:
        kept = Goodbye()
        generator = stream()
        await anext(generator)
        try:
            await ctx.receive("go")
        finally:
            try:
                plain("finally")
            except WorkflowRuleError:
                await greet("finally")
            del kept

    run = Run(leaving)
    run.execution.evict()
    assert ran == []


def test_a_step_is_no_workflow_code() -> None:
    """Its function runs like an activity; the activities that it calls are plain calls."""

    @workflow
    async def stepping(ctx: WorkflowContext) -> None:
        ctx.emit("before", durable=True)
        await ctx.step("both", lambda: plain("x"))

    workflow_type: Workflow[..., Any] = stepping
    run = Run(workflow_type)
    [pending] = run.execution.state.activities.values()
    assert pending.activity.fn() == "x"
    assert [decode_plain(c.value) for c in run.commands if isinstance(c, Emitted)] == ["before"]
    run.execution.evict()
