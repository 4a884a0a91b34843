"""What is defined wrongly is refused where it is defined, with what to write instead."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import pytest

from romancy_nats import (
    App,
    ConfigurationError,
    RetryPolicy,
    WorkflowContext,
    activity,
    compensation,
    workflow,
)
from romancy_nats import activity as any_activity
from romancy_nats import workflow as any_workflow

if TYPE_CHECKING:
    from romancy_nats import WorkflowContext as Ctx

make_activity: Any = any_activity
make_compensation: Any = compensation
make_workflow: Any = any_workflow
make_app: Any = App


def refused(text: str, make: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError, match=text):
        make()


# --- workflows


async def nothing() -> None: ...
async def named(name: str) -> None: ...
async def listed(items: list[int]) -> None: ...
async def keyword(*, ctx: WorkflowContext) -> None: ...
async def packed(*args: object) -> None: ...
async def yields(ctx: WorkflowContext) -> AsyncGenerator[int]:
    yield 1


def plain(ctx: WorkflowContext) -> None: ...


class Thing:
    def __init__(self, ctx: WorkflowContext) -> None: ...

    async def method(self, ctx: WorkflowContext) -> None: ...
    @staticmethod
    async def static(ctx: WorkflowContext) -> None: ...
    async def work(self) -> None: ...


ADVICE = r": write `async def {}\(ctx: WorkflowContext, …\)`"


@pytest.mark.parametrize(
    ("fn", "text"),
    [
        (nothing, "workflow 'nothing' does not take the context" + ADVICE.format("nothing")),
        (
            named,
            "first parameter of workflow 'named' is .name: .*str.*, but it gets the context"
            + ADVICE.format("named"),
        ),
        (listed, "but it gets the context"),
        (keyword, "as its first positional parameter, not as `ctx: .*WorkflowContext" + "|not as"),
        (packed, r"not as `\*args: .*object"),
        (yields, "'yields' yields; a workflow returns one value"),
        (plain, "a workflow is an `async def`; 'plain' is not" + ADVICE.format("plain")),
        (Thing, "'Thing' is a class"),
        (Thing.method, "'Thing.method' is a method"),
        (len, "is an `async def`; 'len' is not"),
        (3, "is an `async def`; 3 is not"),
        (make_activity(nothing), "<activity nothing> is decorated already"),
    ],
)
def test_a_function_that_is_no_workflow(fn: Any, text: str) -> None:
    refused(text, lambda: make_workflow(fn))
    refused(text, lambda: make_workflow(name="x")(fn))


def test_workflows_as_they_may_be_written() -> None:
    class Context(Protocol): ...

    async def unannotated(ctx, name="x"): ...  # type: ignore[no-untyped-def]
    async def any_(ctx: Any) -> None: ...
    async def object_(ctx: object) -> None: ...
    async def annotated(ctx: Annotated[WorkflowContext, "x"], /) -> None: ...
    async def union(ctx: WorkflowContext | None) -> None: ...
    async def protocol(ctx: Context) -> None: ...
    async def for_checkers_only(ctx: Ctx) -> None: ...
    async def later(ctx: WorkflowContext, thing: Later) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    for fn in (
        unannotated,
        any_,
        object_,
        annotated,
        union,
        protocol,
        for_checkers_only,
        later,
        Thing.static,
    ):
        assert make_workflow(fn).name == fn.__name__
    assert make_workflow(name="part")(functools.partial(unannotated, name="y")).name == "part"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"retries": 3}, r"@workflow has no option 'retries'; write retry=RetryPolicy\(max_attempts=…\)"),
        ({"timeout": 5}, r"write workflow.options\(timeout=…\) where you start it"),
        ({"max_concurency": 5}, "did you mean max_concurrency=…?"),
        ({"flavour": 5}, "no option 'flavour'. It has: name, max_concurrency"),
        ({"max_concurrency": 0}, "whole number, 1 or more"),
        ({"max_concurrency": "3"}, "whole number, 1 or more"),
        ({"max_concurrency": 1.5}, "whole number, 1 or more"),
        ({"max_concurrency": True}, "whole number, 1 or more"),
        ({"name": 5}, "text, not int"),
        ({"name": ""}, "1 to 128 characters"),
    ],
)
def test_options_of_a_workflow(options: dict[str, Any], text: str) -> None:
    async def fits(ctx: WorkflowContext) -> None: ...

    refused(text, lambda: make_workflow(**options)(fits))


# --- activities and compensations


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"retries": 3}, r"@activity has no option 'retries'; write retry=RetryPolicy\(max_attempts=…\)"),
        ({"max_attempts": 3}, r"write retry=RetryPolicy\(max_attempts=…\)"),
        ({"retry_policy": RetryPolicy()}, r"write retry=RetryPolicy\(…\)"),
        ({"compensate": nothing}, "write compensation=…"),
        ({"timout": 5}, "did you mean timeout=…?"),
        ({"flavour": 5}, "no option 'flavour'. It has: name, compensation, retry, timeout"),
        ({"retry": 3}, "retry is a RetryPolicy, not 3"),
        ({"timeout": "5s"}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"heartbeat": "often"}, "heartbeat"),
        ({"heartbeat": timedelta(0)}, "heartbeat"),
        ({"errors": 5}, "errors"),
        ({"errors": ["ValueError"]}, "errors"),
        ({"max_threads": 0}, "max_threads is a whole number"),
        ({"max_threads": -1}, "max_threads is a whole number"),
        ({"max_threads": 1.5}, "max_threads is a whole number"),
        ({"name": 5}, "text, not int"),
        ({"name": ""}, "1 to 128 characters"),
        ({"compensation": 5}, "compensation is a function, not 5"),
        ({"compensation": Thing}, "compensation is a function"),
        ({"compensation": "undo"}, "compensation is a function, not 'undo'"),
    ],
)
def test_options_of_an_activity(options: dict[str, Any], text: str) -> None:
    refused(text, lambda: make_activity(**options)(nothing))
    if "compensation" not in options:
        refused(
            text.replace("@activity", "@compensation").replace("compensation, ", ""),
            lambda: make_compensation(**options)(nothing),
        )


@pytest.mark.parametrize("make", [make_activity, make_compensation])
def test_a_function_that_is_no_activity(make: Any) -> None:
    async def flow(ctx: WorkflowContext) -> None: ...

    for how in (make, make(name="x")):
        refused("decorate functions, not 3", lambda how=how: how(3))
        refused("'Thing' is a class", lambda how=how: how(Thing))
        refused("is a generator", lambda how=how: how(yields))
        refused("<activity nothing> is decorated already", lambda how=how: how(activity(nothing)))
        refused("<workflow flow> is decorated already", lambda how=how: how(workflow(flow)))


async def reserve(item: str, count: int = 1) -> str:
    return item


class Shelf:
    async def other(self, shelf: str) -> None: ...
    async def by_keyword(self, item: str, *, shelf: str) -> None: ...
    async def by_position(self, shelf: str, /) -> None: ...
    def plain(self, shelf: str) -> None: ...


class Undo:
    async def none(self) -> None: ...
    async def some(self, count: int) -> None: ...
    async def result(self, result: str, item: str) -> None: ...
    async def by_position(self, item: str, /) -> None: ...
    async def default(self, item: str, shelf: str = "") -> None: ...
    async def whatever(self, *args: object, **kwargs: object) -> None: ...
    async def later(self, item: Later) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def methods(owner: object) -> list[Callable[..., Any]]:
    return [getattr(owner, name) for name in vars(type(owner)) if not name.startswith("__")]


@pytest.mark.parametrize("undo", [*methods(Shelf()), compensation(Shelf().other)])
def test_a_compensation_takes_what_its_activity_takes(undo: Callable[..., Any]) -> None:
    told = "activity 'reserve': its compensation .* takes 'shelf', which the activity does not; it may take "
    refused(told + "item, count, result", lambda: make_activity(compensation=undo)(reserve))

    async def open_ended(**more: object) -> None: ...

    assert make_activity(compensation=undo)(open_ended).compensation is not None


@pytest.mark.parametrize("undo", [*methods(Undo()), print])
def test_a_compensation_may_take_less(undo: Callable[..., Any]) -> None:
    assert make_activity(compensation=undo)(reserve).compensation is not None


def test_a_method_is_undone_by_the_method_of_the_same_object() -> None:
    class Store:
        def __init__(self) -> None:
            self.undone: list[str] = []

        @compensation
        def release(self, item: str) -> None:
            self.undone.append(item)

        @activity(compensation=release)
        def reserve(self, item: str) -> str:
            return item

    store = Store()
    undo = store.reserve.compensation
    assert undo is not None
    undo.fn("lamp")
    assert store.undone == ["lamp"]
    with pytest.raises(ConfigurationError, match="takes 'shelf'"):

        class Other:
            @compensation
            def release(self, shelf: str) -> None: ...

            @activity(compensation=release)
            def reserve(self, item: str) -> str:
                return item


# --- apps


async def flow(ctx: WorkflowContext) -> None: ...


async def no_context_manager() -> AsyncGenerator[None]:
    yield


@asynccontextmanager
async def lifespan() -> AsyncGenerator[None]:
    yield


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"workflows": make_workflow(flow)}, "takes a list of workflows, not <workflow flow>"),
        ({"workflows": None}, "takes a list of workflows, not None"),
        ({"workflows": 3}, "takes a list of workflows"),
        ({"workflows": [flow]}, "with @workflow"),
        ({"workflows": "flow"}, "with @workflow"),
        ({"workflows": [make_activity(nothing)]}, "takes workflows, not <activity nothing>"),
        ({"workflows": [make_workflow(flow), make_workflow(flow)]}, "the same name: flow"),
        ({"activities": []}, "App has no option 'activities'; write no list of activities"),
        ({"retry": RetryPolicy()}, r"App\(default_retry=…\) for all"),
        ({"workflow": [flow]}, "did you mean workflows=…"),
        ({"default_retry": 3}, r"App\(default_retry=…\) takes a RetryPolicy, not 3"),
        ({"settings": {}}, r"App\(settings=…\) takes a Settings, not {}"),
        ({"lifespan": 3}, r"App\(lifespan=…\) takes a function"),
        (
            {"lifespan": no_context_manager},
            "decorate 'no_context_manager', .* with @contextlib.asynccontextmanager",
        ),
        ({"name": 3}, "text, not int"),
    ],
)
def test_an_app(options: dict[str, Any], text: str) -> None:
    refused(text, lambda: make_app(**{"workflows": [], **options}))


def test_an_app_as_it_may_be_written() -> None:
    one = make_workflow(flow)
    for workflows in ([one], (one,), {one}, iter([one])):
        assert App(workflows=workflows, lifespan=lifespan).workflows == (one,)  # type: ignore[arg-type]
