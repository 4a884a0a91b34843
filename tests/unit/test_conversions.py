"""What a model made of data from outside is recorded: replay hears the same, whatever the model would say now."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Annotated, Any, cast
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel, BeforeValidator, Field

from romancy_nats import WorkflowContext, activity, workflow
from romancy_nats.core.commit import Commit
from romancy_nats.core.definition import Workflow
from romancy_nats.core.events import (
    ActivityScheduled,
    Converted,
    Event,
    EventReceived,
    MessageReceived,
    UpdateRequested,
    WorkflowStarted,
)
from romancy_nats.core.execution import Execution
from romancy_nats.core.limits import MAX_VALUE
from romancy_nats.core.plain import encode_plain
from tests.unit.test_waits import Run

_numbers = itertools.count()


class Item(BaseModel):
    """Says something else each time it is made."""

    name: str
    id: UUID = Field(default_factory=uuid4)


Numbered = Annotated[str, BeforeValidator(lambda text: f"{text}{next(_numbers)}")]


@activity
async def take(item: Item) -> None: ...


@activity
async def take_text(text: str) -> None: ...


@workflow
async def waits(ctx: WorkflowContext) -> None:
    await ctx.run(take, (await ctx.wait_event("t", model=Item)).data)


@workflow
async def streams(ctx: WorkflowContext) -> None:
    async with ctx.events("t", model=Item) as events:
        async for event in events:
            await ctx.run(take, event.data)


@workflow
async def receives(ctx: WorkflowContext) -> None:
    await ctx.run(take, (await ctx.receive("c", model=Item)).data)


@workflow
async def reads_text(ctx: WorkflowContext) -> None:
    await ctx.run(take_text, (await ctx.receive("c", model=Numbered)).data)


@workflow
async def reads_late(ctx: WorkflowContext) -> None:
    await ctx.receive("go")
    await ctx.run(take, (await ctx.receive("c", model=Item)).data)


@workflow
async def updated(ctx: WorkflowContext) -> None:
    async def put(item: Item) -> None:
        await ctx.run(take, item)

    ctx.on_update("put", put)
    await ctx.receive("stop")


@workflow
async def updated_late(ctx: WorkflowContext) -> None:
    async def put(item: Item, text: Numbered) -> None:
        await ctx.run(take, item)
        await ctx.run(take_text, text)

    await ctx.receive("go")
    ctx.on_update("put", put)
    await ctx.receive("stop")


DATA = encode_plain({"name": "a"})
GO = MessageReceived("go", encode_plain(1), stream="M", sequence=1)


def heard(data: bytes = DATA) -> list[Any]:
    return [EventReceived("event:1", "t", "e", data, stream="M", sequence=2)]


def sent(data: bytes = DATA) -> list[Any]:
    return [MessageReceived("c", data, stream="M", sequence=2)]


def asked(**arguments: object) -> Any:
    return UpdateRequested("u", "put", encode_plain({"kwargs": arguments}), stream="M", sequence=2)


CASES: dict[str, tuple[Workflow[..., Any], Callable[[], list[Any]]]] = {
    "wait_event": (waits, heard),
    "events": (streams, heard),
    "receive": (receives, sent),
    "receive with a converter": (reads_text, lambda: sent(encode_plain("n"))),
    "receive of what was unread": (reads_late, lambda: [*sent(), GO]),
    "update": (updated, lambda: [asked(item={"name": "a"})]),
    "update before its handler": (updated_late, lambda: [asked(item={"name": "a"}, text="t"), GO]),
}


def ran(name: str) -> Run:
    code, deliveries = CASES[name]
    run = Run(code)
    for delivery in deliveries():
        run.give(delivery)
    return run


def replayed(run: Run, code: Workflow[..., Any] | None = None) -> Execution:
    again = Execution(code or run.code, run.key)
    for commit in run.commits:
        again.replay(Commit.decode(commit.encode()))
    return again


def inputs(execution: Execution) -> list[bytes]:
    return [pending.input for pending in execution.state.activities.values()]


@pytest.mark.parametrize("name", CASES)
def test_replay_hears_what_the_model_said_first(name: str) -> None:
    run = ran(name)
    again = replayed(run)
    assert inputs(run.execution)
    assert inputs(again) == inputs(run.execution)
    assert again.owed == []


@pytest.mark.parametrize("name", CASES)
def test_in_several_commits(name: str) -> None:
    """The commands of a step may be in the commit after that of their delivery."""
    run = ran(name)
    *_, last = run.commits
    for cut in range(1, len(last.events)):
        open_, rest = last.events[:cut], last.events[cut:]
        again = Execution(run.code, run.key)
        for commit in run.commits[:-1]:
            again.replay(commit)
        following = Commit("r", "w", 1, last.time, rest)
        again.replay(Commit("o", "w", 1, last.time, open_, open=True), [following])
        again.replay(following)
        assert inputs(again) == inputs(run.execution)


def without_conversions(run: Run) -> None:
    run.commits = [
        Commit(
            commit.id,
            commit.incarnation,
            commit.fence,
            commit.time,
            tuple(event for event in commit.events if not isinstance(event, Converted)),
        )
        for commit in run.commits
    ]


class Plain(BaseModel):
    name: str


@workflow(name="of_release")
async def as_it_was(ctx: WorkflowContext) -> None:
    await ctx.run(take_text, (await ctx.receive("c", model=Plain)).data.name)


@workflow(name="of_release")
async def without_a_model(ctx: WorkflowContext) -> None:
    await ctx.run(take_text, (await ctx.receive("c")).data["name"])


def test_a_history_of_an_earlier_release_is_read() -> None:
    run = Run(as_it_was)
    run.give(*sent())
    without_conversions(run)
    assert inputs(replayed(run)) == inputs(run.execution)


@pytest.mark.parametrize(
    ("then", "now"), [(as_it_was, without_a_model), (without_a_model, as_it_was)], ids=["lost", "gained"]
)
def test_code_may_lose_or_gain_a_model(then: Workflow[..., Any], now: Workflow[..., Any]) -> None:
    run = Run(then)
    run.give(*sent())
    again = replayed(run, now)
    assert inputs(again) == inputs(run.execution)
    assert again.owed == []


class Handle:
    """Nothing that could be stored."""

    def __init__(self) -> None:
        self.open = lambda: 1


class Open(BaseModel, arbitrary_types_allowed=True):
    name: str
    handle: Handle = Field(default_factory=Handle)


class Large(BaseModel):
    name: str
    text: str = "x" * (MAX_VALUE + 1)


@workflow
async def opens(ctx: WorkflowContext) -> str:
    opened = (await ctx.receive("c", model=Open)).data
    assert opened.handle.open() == 1
    return opened.name


@workflow
async def grows(ctx: WorkflowContext) -> str:
    return (await ctx.receive("c", model=Large)).data.name


@pytest.mark.parametrize("code", [opens, grows], ids=["no value", "too large"])
def test_what_cannot_be_recorded_is_made_again(code: Workflow[..., Any]) -> None:
    run = Run(code)
    run.give(*sent())
    assert [event for commit in run.commits for event in commit.events if isinstance(event, Converted)] == []
    assert run.ended() == "a"


def test_an_update_without_arguments_records_none() -> None:
    @workflow
    async def plain(ctx: WorkflowContext) -> None:
        ctx.on_update("put", lambda: 1)
        await ctx.receive("stop")

    run = Run(plain)
    commands: list[Event] = list(run.give(asked()))
    assert not any(isinstance(command, Converted) for command in commands)


def test_the_record_names_what_was_read() -> None:
    run = ran("wait_event")
    converted, *_, scheduled = run.commits[-1].events[1:]
    assert cast("Converted", converted).id == "event:1:M:2"
    assert isinstance(scheduled, ActivityScheduled)
    assert isinstance(run.commits[0].events[0], WorkflowStarted)
