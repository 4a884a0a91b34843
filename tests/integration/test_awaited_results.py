"""What an activity returns decides: an awaitable is awaited, whatever it comes from and however it is wrapped."""

from __future__ import annotations

import asyncio
import functools
import threading
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any
from unittest.mock import AsyncMock, MagicMock, Mock

import pytest

from romancy_nats import (
    ActivityTimeoutError,
    App,
    ConfigurationError,
    RetryExhaustedError,
    RetryPolicy,
    WorkflowContext,
    activity,
    activity_context,
    workflow,
)
from tests.integration.place import Place

pytestmark = pytest.mark.anyio
ONCE = RetryPolicy(max_attempts=1)
loops: list[bool] = []


async def fetch(n: int) -> int:
    await asyncio.sleep(0)
    loops.append(threading.current_thread() is threading.main_thread())
    assert activity_context().attempt == 1
    return n * 2


def bare(fn: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return wrapper


def wrapped(fn: Callable[..., Any]) -> Callable[..., Any]:
    return functools.wraps(fn)(bare(fn))


def blocking(fn: Callable[..., Coroutine[Any, Any, int]]) -> Callable[..., int]:
    """A decorator that makes an async function a plain one: it must not be called on a loop."""

    @functools.wraps(fn)
    def wrapper(n: int) -> int:
        return asyncio.run(fn(n))

    return wrapper


class Fetcher:
    async def __call__(self, n: int) -> int:
        return await fetch(n)

    async def method(self, n: int) -> int:
        return await fetch(n)

    @staticmethod
    async def static(n: int) -> int:
        return await fetch(n)

    @classmethod
    async def of_class(cls, n: int) -> int:
        return await fetch(n)


class PlainFetcher:
    def __call__(self, n: int) -> Coroutine[Any, Any, int]:
        return fetch(n)


class Promise:
    """An awaitable that is no coroutine."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __await__(self) -> Generator[Any, Any, int]:
        return fetch(self.n).__await__()


@types.coroutine
def generator_based(n: int) -> Any:
    return (yield from fetch(n).__await__())


async def forgets_to_await(n: int) -> Any:
    return fetch(n)


async def makes_a_task(n: int) -> Any:
    return asyncio.ensure_future(fetch(n))


def returns_awaitable(n: int) -> Awaitable[int]:
    return Promise(n)


WAYS: dict[str, Callable[..., Any]] = {
    "async": fetch,
    "decorated": bare(fetch),
    "decorated with wraps": wrapped(fetch),
    "decorated twice": bare(wrapped(fetch)),
    "made blocking": blocking(fetch),
    "lambda": lambda n: fetch(n),
    "partial": functools.partial(fetch),
    "partial of a decorated one": functools.partial(bare(fetch)),
    "object": Fetcher(),
    "object whose call is plain": PlainFetcher(),
    "method": Fetcher().method,
    "static": Fetcher.static,
    "of a class": Fetcher.of_class,
    "promise": Promise,
    "annotated": returns_awaitable,
    "generator": generator_based,
    "not awaited": forgets_to_await,
    "task": makes_a_task,
    "mock": AsyncMock(side_effect=fetch),
    "plain mock": Mock(side_effect=fetch),
    "magic mock": MagicMock(return_value=42),
    "value": Mock(return_value=42),
}


@workflow
async def all_ways(ctx: WorkflowContext) -> dict[str, int]:
    asked = {
        way: ctx.step(way.replace(" ", "_"), fn, 21) for way, fn in WAYS.items() if way != "made blocking"
    }
    return dict(zip(asked, await asyncio.gather(*asked.values()), strict=True))


async def test_a_step_awaits_what_is_returned_in_the_loop_of_the_worker(place: Place) -> None:
    loops.clear()
    async with place.run(all_ways) as client:
        found = await client.execute(all_ways)
    assert found == dict.fromkeys(found, 42)
    assert len(found) == len(WAYS) - 1
    assert all(loops)


ACTIVITIES = [
    activity(name=way.replace(" ", "_"), retry=ONCE)(fn)
    for way, fn in WAYS.items()
    if "mock" not in way and way not in ("generator", "promise")
]


@workflow
async def all_activities(ctx: WorkflowContext) -> list[int]:
    return [await ctx.run(one, 21) for one in ACTIVITIES if one.name not in ("made_blocking", "value")]


async def test_so_does_an_activity_made_of_any_of_them(place: Place) -> None:
    async with place.run(all_activities) as client:
        assert set(await client.execute(all_activities)) == {42}


async def returns_42(n: int) -> int:
    return 42


@activity
async def replaced(n: int) -> int:
    raise AssertionError("the real one")


@activity
def replaced_in_thread(n: int) -> int:
    raise AssertionError("the real one")


@workflow
async def uses_both(ctx: WorkflowContext) -> list[int]:
    return [await ctx.run(replaced, 21), await ctx.run(replaced_in_thread, 21)]


@pytest.mark.parametrize(
    "way", ["async", "decorated", "made blocking", "object", "mock", "plain mock", "value"]
)
async def test_an_override_may_be_any_of_them(place: Place, way: str) -> None:
    fake = blocking(returns_42) if way == "made blocking" else WAYS[way]
    async with place.app(uses_both).run(
        place.url, overrides={replaced: fake, replaced_in_thread: fake}
    ) as client:
        assert await client.execute(uses_both) == [42, 42]


async def test_an_activity_may_stand_in_for_another(place: Place) -> None:
    stand_in = activity(name="stand_in")(fetch)
    async with place.app(uses_both).run(
        place.url, overrides={replaced: stand_in, replaced_in_thread: stand_in}
    ) as client:
        assert await client.execute(uses_both) == [42, 42]


@pytest.mark.parametrize(
    "overrides",
    [{replaced: 5}, {replaced: None}, {"replaced": fetch}, {fetch: fetch}, [replaced], 7],
    ids=["a number", "nothing", "a name", "a function", "a list", "no mapping"],
)
async def test_overrides_that_replace_nothing_are_refused(place: Place, overrides: Any) -> None:
    with pytest.raises(ConfigurationError, match="overrides"):
        async with App("x", workflows=[uses_both], settings=place.settings()).run(
            place.url, overrides=overrides
        ):
            raise AssertionError("it runs")


async def test_the_time_limit_holds_for_what_is_awaited_and_an_endless_chain_ends(place: Place) -> None:
    class Endless:
        def __await__(self) -> Generator[Any, Any, Endless]:
            yield from ()
            return self

    @activity(timeout=0.1, retry=ONCE)
    def slow() -> Any:
        return asyncio.sleep(60)

    @activity(retry=ONCE)
    def endless() -> Any:
        return Endless()

    @workflow
    async def flow(ctx: WorkflowContext) -> list[str]:
        told: list[str] = []
        for one in (slow, endless):
            try:
                await ctx.run(one)
            except RetryExhaustedError as error:
                told.append(type(error.last_error).__name__)
        return told

    async with place.run(flow) as client:
        assert await client.execute(flow) == [ActivityTimeoutError.__name__, ConfigurationError.__name__]
