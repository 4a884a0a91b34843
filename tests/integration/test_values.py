"""Every kind of value that a user may pass: the same, of the same type, live and in replay, inside and outside."""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any, Generic, Literal, NamedTuple, TypedDict, TypeVar
from uuid import UUID

import pytest
from pydantic import BaseModel

from romancy_nats import (
    Activity,
    PayloadTooLargeError,
    Workflow,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    workflow,
)
from tests.integration.place import Place

pytestmark = pytest.mark.anyio

T = TypeVar("T")
seen: list[Any] = []
gate: dict[str, bool] = {}


@pytest.fixture(autouse=True)
def fresh() -> None:
    seen.clear()
    gate.clear()


class Colour(enum.Enum):
    RED = "red"
    BLUE = (0, 0, 255)


class Size(enum.IntEnum):
    LARGE = 3


class Item(BaseModel):
    sku: str
    price: Decimal
    tags: frozenset[str] = frozenset()


class Gift(Item):
    note: str


@dataclass
class Line:
    item: Item
    count: int
    colours: list[Colour] = field(default_factory=list[Colour])


@dataclass(frozen=True)
class Point:
    x: int
    y: float


class Pair(NamedTuple):
    left: int
    right: str


class Address(TypedDict, total=False):
    street: str
    zip: int


class Page(BaseModel, Generic[T]):
    items: list[T]
    following: int | None = None


AT = datetime(2026, 2, 28, 12, 30, 59, 123456, tzinfo=UTC)
ITEM = Item(sku="tea", price=Decimal("1.10"), tags=frozenset({"hot", "dry"}))

VALUES: dict[str, tuple[Any, Any]] = {
    "none": (None, None),
    "bool": (bool, True),
    "int": (int, 2**80),
    "float": (float, float("inf")),
    "float of a whole number": (float, 3.0),
    "str": (str, "ünï\0 \U0001f600"),
    "bytes": (bytes, bytes(range(256))),
    "datetime": (datetime, AT),
    "naive datetime": (datetime, AT.replace(tzinfo=None)),
    "date": (date, AT.date()),
    "time": (clock_time, clock_time(1, 2, 3)),
    "timedelta": (timedelta, timedelta(days=-1, microseconds=7)),
    "decimal": (Decimal, Decimal("1.10")),
    "uuid": (UUID, UUID(int=7)),
    "path": (PurePosixPath, PurePosixPath("a/b")),
    "enum": (Colour, Colour.BLUE),
    "int enum": (Size, Size.LARGE),
    "literal": (Literal["a", "b"], "b"),
    "list": (list[Decimal], [Decimal("1"), Decimal("2.0")]),
    "tuple": (tuple[int, str], (1, "a")),
    "tuple of any length": (tuple[UUID, ...], (UUID(int=1), UUID(int=2))),
    "set": (set[int], {3, 1, 2}),
    "frozenset": (frozenset[Colour], frozenset({Colour.RED})),
    "dict": (dict[int, datetime], {1: AT}),
    "named tuple": (Pair, Pair(1, "x")),
    "typed dict": (Address, {"street": "High"}),
    "dataclass": (Line, Line(ITEM, 2, [Colour.RED])),
    "frozen dataclass": (Point, Point(1, 2.0)),
    "model": (Item, ITEM),
    "optional": (Item | None, None),
    "union of models": (Point | Line | Item, ITEM),
    "union of scalars": (int | str | Decimal, Decimal("5")),
    "generic": (Page[Item], Page[Item](items=[ITEM], following=2)),
    "nested": (dict[str, list[tuple[Colour, set[date]]]], {"a": [(Colour.RED, {AT.date()})]}),
    "untyped": (Any, {"a": [1, 2.5, None, True, b"x", (1, 2), {3}, AT, Decimal("1.0"), UUID(int=3)]}),
}


@activity
async def waits() -> None:
    seen.append("waiting")
    while not gate.get("open"):
        await asyncio.sleep(0.005)


def passing(kind: Any) -> tuple[Activity[..., Any], Workflow[..., Any]]:
    """An activity and a workflow that pass a value of this kind through."""

    async def echo(value: Any) -> Any:
        seen.append(("activity", value))
        return value

    echo.__annotations__ = {"value": kind, "return": kind}
    echoed: Activity[..., Any] = activity(echo)

    async def through(ctx: WorkflowContext, value: Any) -> Any:
        seen.append(("input", value))
        result = await ctx.run(echoed, value)
        seen.append(("result", result))
        await ctx.run(waits)
        return result

    through.__annotations__ = {"ctx": WorkflowContext, "value": kind, "return": kind}
    return echoed, workflow(through)


def same(found: Any, value: Any) -> None:
    assert type(found) is type(value), (type(found), type(value))
    assert found == value
    assert repr(found) == repr(value) or isinstance(value, set | frozenset | Item | Line | Page | dict)


@pytest.mark.parametrize("name", VALUES)
async def test_a_value_is_the_same_everywhere(place: Place, name: str) -> None:
    kind, value = VALUES[name]
    _, through = passing(kind)

    def ready() -> bool:
        return "waiting" in seen

    start = lambda client: client.start(through, value)  # noqa: E731
    async with place.handed_over(through, ready=ready, start=start) as (client, handle):
        gate["open"] = True
        same(await handle.result(10), value)
        same(await client.get(handle.id, through).result(10), value)
    where = [one for one in seen if one != "waiting"]
    assert [label for label, _ in where] == ["input", "activity", "result", "input", "result"]
    for _, found in where:
        same(found, value)


async def test_a_subclass_stays_what_it_is_where_a_base_is_declared(place: Place) -> None:
    gift = Gift(sku="tea", price=Decimal(2), note="for you")
    _, through = passing(list[Item])
    gate["open"] = True
    async with place.run(through) as client:
        found = await client.execute(through, [gift, ITEM])
    assert found == [gift, ITEM]


async def test_what_an_activity_changes_in_its_argument_changes_nothing_outside(place: Place) -> None:
    @activity
    async def spoils(items: list[int]) -> int:
        items.append(99)
        return len(items)

    @workflow
    async def keeps(ctx: WorkflowContext) -> tuple[int, list[int]]:
        mine = [1, 2]
        count = await ctx.run(spoils, mine)
        return count, mine

    async with place.run(keeps) as client:
        assert await client.execute(keeps) == (3, [1, 2])


async def test_a_result_of_the_wrong_type_is_an_error_of_that_activity(place: Place) -> None:
    @activity
    async def lies() -> int:
        return "text"  # type: ignore[return-value]

    @workflow
    async def believes(ctx: WorkflowContext) -> str:
        try:
            return str(await ctx.run(lies))
        except ValueError as error:
            return f"refused: {error}"

    async with place.run(believes) as client:
        told = await client.execute(believes)
    assert told.startswith("refused")
    assert "lies" in told


async def test_large_values_up_to_the_limit_survive_a_replay(place: Place) -> None:
    _, through = passing(bytes)
    large = bytes(990_000)
    start = lambda client: client.start(through, large)  # noqa: E731
    async with place.handed_over(through, ready=lambda: "waiting" in seen, start=start) as (client, handle):
        gate["open"] = True
        assert await handle.result(10) == large
        assert await client.get(handle.id, through).result(10) == large
    assert [label for label, _ in (one for one in seen if one != "waiting")].count("activity") == 1


async def test_many_large_values_at_once(place: Place) -> None:
    @activity
    async def doubles(data: bytes) -> bytes:
        return data + data

    @workflow
    async def wide(ctx: WorkflowContext) -> int:
        parts = await asyncio.gather(*(ctx.run(doubles, bytes(200_000)) for _ in range(20)))
        return sum(map(len, parts))

    async with place.run(wide) as client:
        assert await client.execute(wide) == 8_000_000


async def test_what_is_too_large_is_refused_by_name(place: Place) -> None:
    @activity
    async def takes(data: bytes) -> None: ...

    @workflow
    async def sends(ctx: WorkflowContext) -> str:
        try:
            await ctx.run(takes, bytes(1_100_000))
        except PayloadTooLargeError as error:
            return str(error)
        return ""

    @workflow
    async def returns(ctx: WorkflowContext) -> bytes:
        return bytes(1_100_000)

    async with place.run(sends, returns) as client:
        assert "'takes'" in await client.execute(sends)
        with pytest.raises(WorkflowFailedError, match="1,100,0"):
            await client.execute(returns)
