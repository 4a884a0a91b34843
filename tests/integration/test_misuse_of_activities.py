"""Every place where an activity runs code of a user, times everything that such code can do wrong.

All cases are instances on one worker: each fails its own activity, and a neighbour goes on undisturbed.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel, GetCoreSchemaHandler, RootModel, model_validator

from romancy_nats import (
    App,
    Client,
    ConfigurationError,
    RetryPolicy,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    activity_context,
    compensation,
    workflow,
)
from tests.integration.place import Place, until

pytestmark = [pytest.mark.anyio, pytest.mark.long]

TWICE = RetryPolicy(max_attempts=2, initial_interval=0.001, jitter=0)
Harm = Callable[[], Any]


class OwnBaseError(BaseException):
    """Neither an Exception nor known to anybody."""


class LyingError(Exception):
    """An error that answers every question with another error."""

    __class__ = property(lambda self: 1 / 0)  # type: ignore[assignment]
    args = __cause__ = __context__ = __dict__ = __notes__ = retry_after = property(lambda self: 1 / 0)  # type: ignore[assignment]
    __str__ = __repr__ = __reduce__ = __hash__ = __eq__ = lambda self, *_: 1 / 0  # type: ignore[assignment]


class ExitingTextError(Exception):
    def __str__(self) -> str:
        raise SystemExit(4)


class NumberTextError(Exception):
    def __str__(self) -> str:
        return 502  # type: ignore[return-value]


class Deep(Exception):  # noqa: N818 - its name is shown
    def __str__(self) -> str:
        return str(self)


def _raised(make: Callable[[], BaseException]) -> Harm:
    def harm() -> Any:
        raise make()

    return harm


def _recursion() -> Any:
    return _recursion()


def _cyclic_causes() -> Any:
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


def _long_causes() -> Any:
    error: Exception = ValueError("the first")
    for n in range(500):
        following = ValueError(str(n))
        following.__cause__ = error
        error = following
    raise error


def _groups() -> Any:
    group: BaseExceptionGroup[BaseException] = BaseExceptionGroup(
        "inner", [KeyboardInterrupt(), LyingError()]
    )
    for _ in range(30):
        group = BaseExceptionGroup("outer", [group, ExitingTextError()])
    raise group


HARMS: dict[str, Harm] = {
    **{
        cls.__name__: _raised(cls)
        for cls in (
            *(Exception, BaseException, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError),
            *(
                MemoryError,
                RecursionError,
                StopIteration,
                StopAsyncIteration,
                TimeoutError,
                OSError,
                AssertionError,
            ),
            *(OwnBaseError, LyingError, ExitingTextError, NumberTextError, Deep),
        )
    },
    "recursion": _recursion,
    "2 MB": _raised(lambda: ValueError("x" * 2_000_000)),
    "2 MB of args": _raised(lambda: ValueError(*(["x" * 1000] * 2000))),
    "no UTF-8": _raised(lambda: ValueError("\ud800", b"\xff")),
    "unprintable args": _raised(lambda: ValueError(LyingError(), {LyingError: ExitingTextError()})),
    "cyclic causes": _cyclic_causes,
    "long causes": _long_causes,
    "groups": _groups,
    "syntax": _raised(lambda: SyntaxError("bad", (object(), "x", object(), 3))),  # type: ignore[call-overload]
}


class Lying:
    """A value that answers every question with an error."""

    __class__ = property(lambda self: 1 / 0)  # type: ignore[assignment]
    __dict__ = __iter__ = __len__ = property(lambda self: 1 / 0)  # type: ignore[assignment]
    __str__ = __repr__ = __reduce__ = __hash__ = __eq__ = __bool__ = lambda self, *_: 1 / 0  # type: ignore[assignment]


class Harmful(dict[Any, Any]):
    """A value that does harm when it is taken apart."""

    def __init__(self, harm: Harm) -> None:
        super().__init__({"a": 1})
        self.harm = harm

    def items(self) -> Any:
        return self.harm()

    __iter__ = keys = values = __len__ = items


class Spoilt(BaseModel):
    """Validation is code of a user."""

    way: str = ""

    @model_validator(mode="after")
    def checked(self) -> Spoilt:
        if self.way:
            HARMS[self.way]()
        return self


class NoSchema:
    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> Any:
        raise RuntimeError("no schema")


def _cycle() -> Any:
    values: list[Any] = []
    values.append(values)
    return values


VALUES: dict[str, Callable[[], Any]] = {
    "lies": Lying,
    "lies inside": lambda: [{"a": Lying()}],
    "a cycle": _cycle,
    "2 MB": lambda: "x" * 2_000_000,
    "a function": lambda: print,
    "a generator": lambda: (n for n in range(3)),
    "a class": lambda: Lying,
    "10**400 in a float": lambda: RootModel[float].model_construct(10**400),
    "an error": LyingError,
    "another type": object,
}


@activity(retry=TWICE)
async def in_loop(way: str) -> None:
    HARMS[way]()


@activity(retry=TWICE)
def in_thread(way: str) -> None:
    HARMS[way]()


@activity(retry=TWICE)
async def after_a_while(way: str) -> None:
    await asyncio.sleep(0)
    try:
        raise LyingError
    finally:
        HARMS[way]()


@activity(retry=TWICE)
def awaited(way: str) -> Coroutine[Any, Any, None]:
    async def inner() -> None:
        HARMS[way]()

    return inner()


@activity(retry=TWICE)
async def emits(way: str) -> None:
    activity_context().emit(Harmful(HARMS[way]))
    raise OSError("it was not encoded")


@activity(retry=TWICE)
async def beats(way: str) -> None:
    activity_context().heartbeat(Harmful(HARMS[way]))
    raise OSError("and then")


@activity(retry=TWICE)
async def returns_harm(way: str) -> dict[Any, Any]:
    return Harmful(HARMS[way])


@activity(retry=TWICE)
async def returns_model(way: str) -> Spoilt:
    return {"way": way}  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


@activity(retry=TWICE)
async def returns_value(way: str) -> Any:
    return VALUES[way]()


@activity(retry=TWICE)
def returns_value_from_thread(way: str) -> Any:
    return VALUES[way]()


@activity(retry=TWICE)
async def returns_number(way: str) -> int:
    return VALUES[way]()  # type: ignore[no-any-return]


@activity(
    retry=RetryPolicy(max_attempts=2, initial_interval=0.001, retry_if=lambda error: HARMS["SystemExit"]())
)
async def predicate(way: str) -> None:
    HARMS[way]()


def _retry_after(way: str) -> BaseException:
    error = OSError("later")
    error.retry_after = {"nan": math.nan, "max": timedelta.max, "text": "soon", "minus": -1, "lies": Lying()}[
        way
    ]  # type: ignore[attr-defined]
    return error


@activity(retry=TWICE)
async def asks_for_a_delay(way: str) -> None:
    raise _retry_after(way)


BY_HARM = [in_loop, in_thread, after_a_while, awaited, emits, beats, returns_harm, returns_model, predicate]
BY_VALUE = [returns_value, returns_value_from_thread, returns_number]
ALL = {one.name: one for one in (*BY_HARM, *BY_VALUE, asks_for_a_delay)}


@workflow
async def misused(ctx: WorkflowContext, place: str, way: str) -> str:
    try:
        await ctx.run(ALL[place], way)
    except Exception as error:  # noqa: BLE001 - any of them is right
        return type(error).__name__
    return "no error"


@workflow
async def stepping(ctx: WorkflowContext, way: str) -> str:
    try:
        await ctx.step("step", lambda: HARMS[way]())
    except Exception as error:  # noqa: BLE001 - any of them is right
        return type(error).__name__
    return "no error"


done: list[str] = []


@compensation(retry=TWICE)
async def undo_badly(way: str) -> None:
    HARMS[way]()


@compensation(retry=TWICE)
def undo_badly_in_thread(way: str) -> None:
    HARMS[way]()


@compensation
async def undo_well(way: str) -> None:
    done.append(way)


@activity(compensation=undo_well)
async def first(way: str) -> None: ...


@activity(compensation=undo_badly)
async def second(way: str) -> None: ...


@activity(compensation=undo_badly_in_thread)
async def third(way: str) -> None: ...


@workflow
async def undone(ctx: WorkflowContext, way: str) -> None:
    for one in (first, second, third):
        await ctx.run(one, way)
    raise ValueError("undo it")


@activity
async def add(a: int, b: int) -> int:
    return a + b


@workflow
async def neighbour(ctx: WorkflowContext, n: int) -> int:
    total = 0
    for _ in range(3):
        total = await ctx.run(add, total, n)
    return total


WORKFLOWS = (misused, stepping, undone, neighbour)


async def _undisturbed(client: Client) -> None:
    handles = [await client.start(neighbour, n) for n in range(5)]
    assert [await handle.result(30) for handle in handles] == [0, 3, 6, 9, 12]


async def _all_fail(client: Client, cases: list[tuple[str, str]]) -> None:
    handles = await asyncio.gather(*(client.start(misused, place, way) for place, way in cases))
    ends = await asyncio.gather(*(handle.result(60) for handle in handles), return_exceptions=True)
    wrong = {
        case: end if isinstance(end, str) else repr(end)
        for case, end in zip(cases, ends, strict=True)
        if not isinstance(end, str) or end == "no error"
    }
    assert not wrong


async def test_each_harm_in_the_body_of_an_activity_is_its_failure(place: Place) -> None:
    async with place.run(*WORKFLOWS) as client:
        cases = [("in_loop", way) for way in HARMS]
        cases += [
            (one.name, way) for way in ("SystemExit", "LyingError", "2 MB", "recursion") for one in BY_HARM
        ]
        await _all_fail(client, cases)
        await _undisturbed(client)


async def test_each_value_that_cannot_be_recorded_is_the_failure_of_its_activity(place: Place) -> None:
    async with place.run(*WORKFLOWS) as client:
        await _all_fail(client, [(one.name, way) for one in BY_VALUE for way in VALUES if way != "an error"])
        await _all_fail(client, [("asks_for_a_delay", way) for way in ("nan", "text", "minus", "lies")])
        await _undisturbed(client)


@pytest.mark.long
async def test_every_harm_in_every_place(place: Place) -> None:
    async with place.run(*WORKFLOWS) as client:
        for one in BY_HARM:
            await _all_fail(client, [(one.name, way) for way in HARMS])
            await _undisturbed(client)


async def test_each_harm_in_a_step_and_in_a_compensation_stays_there(place: Place) -> None:
    done.clear()
    async with place.run(*WORKFLOWS) as client:
        steps = [await client.start(stepping, way) for way in HARMS]
        sagas = [await client.start(undone, way) for way in HARMS]
        assert "no error" not in [await handle.result(60) for handle in steps]
        for handle in sagas:
            with pytest.raises(WorkflowFailedError, match="undo it"):
                await handle.result(60)
            failed = (await handle.describe()).compensations
            assert len(failed) == 3
        await until(lambda: sorted(done) == sorted(HARMS))
        await _undisturbed(client)


# --- the lifespan


async def _nothing() -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def _fails_at_start() -> AsyncIterator[None]:
    raise OSError("no database")
    yield


@asynccontextmanager
async def _fails_at_end() -> AsyncIterator[None]:
    yield
    raise OSError("it would not close")


@asynccontextmanager
async def _yields_twice() -> AsyncIterator[None]:
    yield
    yield


@pytest.mark.parametrize(
    ("lifespan", "error", "text"),
    [
        (5, ConfigurationError, "lifespan"),
        (_nothing, ConfigurationError, "asynccontextmanager"),
        (lambda: None, ConfigurationError, "asynccontextmanager"),
        (lambda: Lying(), ConfigurationError, "Lying"),
        (_fails_at_start, OSError, "no database"),
        (_fails_at_end, OSError, "it would not close"),
        (_yields_twice, RuntimeError, "didn't stop"),
    ],
    ids=["a number", "undecorated", "nothing", "lies", "fails at start", "fails at end", "twice"],
)
async def test_a_lifespan_that_cannot_be_used_is_a_clear_error(
    place: Place, lifespan: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        async with App("x", workflows=[neighbour], lifespan=lifespan, settings=place.settings()).run(
            place.url
        ) as client:
            assert await client.execute(neighbour, 1) == 3


async def test_a_state_that_lies_fails_whoever_asks_for_it(place: Place) -> None:
    @activity(retry=TWICE)
    async def asks() -> None:
        activity_context().state(str)

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        try:
            await ctx.run(asks)
        except Exception as error:  # noqa: BLE001 - any of them is right
            return type(error).__name__
        return "no error"

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[Any]:
        yield Lying()

    async with place.run(flow, neighbour, lifespan=lifespan) as client:
        assert await client.execute(flow) == "RetryExhaustedError"
        await _undisturbed(client)


async def test_a_type_without_a_schema_fails_its_activity(place: Place) -> None:
    @activity(retry=TWICE)
    async def returns_it() -> NoSchema:
        return NoSchema()

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        try:
            await ctx.run(returns_it)
        except Exception as error:  # noqa: BLE001 - any of them is right
            return type(error).__name__
        return "no error"

    try:
        async with place.run(flow, neighbour) as client:
            assert (await client.execute(flow)).endswith("Error")
            await _undisturbed(client)
    except ConfigurationError as error:
        assert "returns_it" in str(error)  # noqa: PT017 - refused when the app is made, which is better still


def test_the_matrix_is_large() -> None:
    assert len(list(itertools.product(BY_HARM, HARMS))) > 200
