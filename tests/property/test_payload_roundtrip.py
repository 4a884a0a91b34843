"""What goes into a codec comes out of it: the same value of the same type, for any annotation and any value."""

from __future__ import annotations

import enum
import math
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, TypeAdapter

from romancy_nats.core.failure import Failure
from romancy_nats.core.limits import parse_body, scan_msgpack
from romancy_nats.core.parameters import Parameters
from romancy_nats.core.payload import ValueCodec
from romancy_nats.errors import PayloadError


class Color(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Cat(BaseModel):
    name: str
    age: int | None = None


class Dog(BaseModel):
    name: str
    age: int | None = None


@dataclass(frozen=True)
class Crate:
    name: str
    pets: tuple[Cat | Dog, ...] = ()


class Pair(NamedTuple):
    left: int
    right: Color | str


@dataclass
class Tree:
    value: int
    below: list[Tree] = field(default_factory=list)


zones = st.sampled_from([None, UTC, ZoneInfo("Europe/Berlin"), ZoneInfo("UTC"), ZoneInfo("America/New_York")])
scalars: dict[Any, st.SearchStrategy[Any]] = {
    type(None): st.none(),
    bool: st.booleans(),
    int: st.integers(),
    float: st.floats(),
    str: st.text(st.characters()),
    bytes: st.binary(),
    datetime: st.datetimes(timezones=zones, allow_imaginary=False),
    date: st.dates(),
    time: st.times(timezones=st.sampled_from([None, UTC])),
    timedelta: st.timedeltas(),
    Decimal: st.decimals(),
    UUID: st.uuids(),
    Color: st.sampled_from(Color),
}
pets = st.one_of(
    *(st.builds(cls, name=st.text(), age=st.none() | st.integers()) for cls in (Cat, Dog)),
    st.builds(Cat, name=st.text()),
)
crates = st.builds(Crate, name=st.text(), pets=st.lists(pets, max_size=3).map(tuple))
pairs = st.builds(Pair, st.integers(), st.sampled_from(Color) | st.sampled_from(["red", "x"]))
trees = st.recursive(
    st.builds(Tree, st.integers()),
    lambda below: st.builds(Tree, st.integers(), st.lists(below, max_size=3)),
    max_leaves=8,
)
composites: dict[Any, st.SearchStrategy[Any]] = {
    Cat | Dog: pets,
    Crate: crates,
    Pair: pairs,
    Tree: trees,
    list[Cat | Dog]: st.lists(pets, max_size=3),
    dict[str, Crate | Pair]: st.dictionaries(st.text(), crates | pairs, max_size=3),
    set[Pair | Color]: st.sets(pairs | st.sampled_from(Color), max_size=3),
    frozenset[Crate]: st.frozensets(st.builds(Crate, name=st.text()), max_size=3),
    deque[datetime]: st.lists(scalars[datetime], max_size=3).map(lambda items: deque(items, maxlen=5)),
    dict[tuple[int, UUID], date]: st.dictionaries(
        st.tuples(st.integers(), st.uuids()), st.dates(), max_size=3
    ),
}
unions: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (UUID | str, st.uuids() | st.uuids().map(str) | st.text()),
    (datetime | str, scalars[datetime] | st.datetimes().map(str)),
    (Color | str, st.sampled_from(Color) | st.sampled_from(["red", "blue", "x"])),
    (str | Color, st.sampled_from(Color) | st.sampled_from(["red", "blue", "x"])),
    (Decimal | float, st.decimals() | st.floats()),
    (int | bool, st.integers() | st.booleans()),
    (float | int, st.integers(-(2**70), 2**70) | st.floats()),
    (date | datetime, st.dates() | st.datetimes()),
    (bytes | str, st.binary() | st.text()),
    (tuple[int, ...] | list[int], st.lists(st.integers()) | st.lists(st.integers()).map(tuple)),
    (set[int] | frozenset[int], st.sets(st.integers()) | st.frozensets(st.integers())),
]


def same(left: Any, right: Any) -> bool:
    """Equal, of the same types, with NaN equal to itself."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return left == right or (math.isnan(left) and math.isnan(right))
    if isinstance(left, Decimal):
        return str(left) == str(right)
    if isinstance(left, datetime | time):
        return left == right and left.fold == right.fold and str(left.tzinfo) == str(right.tzinfo)
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple | deque):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, BaseModel):
        return left.model_fields_set == right.model_fields_set and same(left.__dict__, right.__dict__)
    if isinstance(left, Crate | Tree):
        return same(vars(left), vars(right))
    return bool(left == right)


@pytest.mark.parametrize("annotation", [*scalars, *composites], ids=str)
@given(data=st.data())
@settings(max_examples=40)
def test_every_type(annotation: Any, data: st.DataObject) -> None:
    value = data.draw((scalars | composites)[annotation])
    codec = ValueCodec[Any](annotation)
    assert same(codec.decode(codec.encode(value)), value)
    optional = ValueCodec[Any](annotation | None)
    assert same(optional.decode(optional.encode(value)), value)
    listed = ValueCodec[Any](list[annotation])  # type: ignore[valid-type]
    assert same(listed.decode(listed.encode([value, value])), [value, value])


@pytest.mark.parametrize(("annotation", "values"), unions, ids=lambda item: str(item)[:30])
@given(data=st.data())
@settings(max_examples=60)
def test_unions(annotation: Any, values: st.SearchStrategy[Any], data: st.DataObject) -> None:
    value = data.draw(values)
    for asked, given_ in ((annotation, value), (dict[str, annotation], {"k": value})):
        codec = ValueCodec[Any](asked)
        assert same(codec.decode(codec.encode(given_)), given_)


anything = st.recursive(
    st.one_of(*scalars.values()).filter(lambda value: not isinstance(value, Color)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(value=anything)
@settings(max_examples=200)
def test_untyped(value: Any) -> None:
    codec = ValueCodec[Any](Any)
    assert same(codec.decode(codec.encode(value)), value)


@given(values=st.sets(st.integers() | st.text() | st.uuids(), max_size=6))
def test_bytes_of_a_set_do_not_depend_on_its_order(values: set[Any]) -> None:
    codec = ValueCodec[Any](Any)
    backwards = set(reversed(list(values)))
    assert codec.encode(values) == codec.encode(backwards)


def call(a: int, b: str = "b", *, c: Decimal = Decimal(1), d: Cat | Dog | None = None) -> None: ...


@given(a=st.integers(), b=st.text(), c=st.decimals(allow_nan=False), d=st.none() | pets)
def test_a_call_has_one_form(a: int, b: str, c: Decimal, d: Cat | Dog | None) -> None:
    codec = Parameters(call)
    data = codec.encode([a, b], {"c": c, "d": d})
    assert (
        data
        == codec.encode([a], {"d": d, "b": b, "c": c})
        == codec.encode([], {"d": d, "c": c, "b": b, "a": a})
    )
    args, kwargs = codec.decode(data)
    assert same([args, kwargs], [[a, b], {"c": c, "d": d}])
    assert codec.canonical(data) == data


@given(args=st.lists(anything, max_size=3), note=st.text())
def test_exceptions(args: list[Any], note: str) -> None:
    error = RuntimeError(*args)
    error.add_note(note)
    again = Failure.decode(Failure.of(error).encode()).rebuild()
    assert type(again) is RuntimeError
    assert same(again.args, error.args)
    assert again.__notes__ == [note]


@given(data=st.binary(max_size=200))
def test_hostile_bytes_are_read_or_refused(data: bytes) -> None:
    for read in (
        parse_body,
        scan_msgpack,
        ValueCodec[Any](Any).decode,
        ValueCodec[Any](Tree).decode,
        Failure.decode,
    ):
        try:
            read(data)
        except PayloadError:
            continue


@given(data=st.data())
def test_damaged_calls_are_read_or_refused(data: st.DataObject) -> None:
    codec = Parameters(call)
    encoded = bytearray(codec.encode([1], {"d": Cat(name="x"), "c": Decimal(2)}))
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    for read in (codec.decode, codec.canonical):
        try:
            read(bytes(encoded))
        except PayloadError:
            continue


runs: list[int] = []


def bump(value: int) -> int:
    runs.append(value)
    return value + 1


Bumped = Annotated[int, AfterValidator(bump)]


class Holder(BaseModel):
    one: Bumped
    more: list[Bumped] = []


def shapes(leaf: Any) -> st.SearchStrategy[tuple[Any, st.SearchStrategy[Any]]]:
    """Annotations with converters at any depth, each with a strategy of what a caller may pass for it."""
    leaves: st.SearchStrategy[tuple[Any, st.SearchStrategy[Any]]] = st.sampled_from(
        [
            (leaf, st.integers(-100, 100)),
            (str, st.text(max_size=3)),
            (
                Holder,
                st.fixed_dictionaries(
                    {"one": st.integers(0, 9), "more": st.lists(st.integers(0, 9), max_size=2)}
                ),
            ),
        ]
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            inner.map(lambda it: (list[it[0]], st.lists(it[1], max_size=3))),  # type: ignore[name-defined]
            inner.map(lambda it: (dict[str, it[0]], st.dictionaries(st.text(max_size=2), it[1], max_size=3))),  # type: ignore[name-defined]
            inner.map(lambda it: (tuple[it[0], ...], st.lists(it[1], max_size=3))),  # type: ignore[name-defined]
            inner.map(lambda it: (it[0] | None, st.none() | it[1])),
        ),
        max_leaves=4,
    )


@given(data=st.data())
@settings(max_examples=80)
def test_a_value_is_converted_once(data: st.DataObject) -> None:
    annotation, values = data.draw(shapes(Bumped))
    value = data.draw(values)
    runs.clear()
    expected = TypeAdapter(annotation).validate_python(value)
    at_once = list(runs)
    codec = ValueCodec[Any](annotation)
    runs.clear()
    encoded = codec.encode(value)
    assert runs == at_once
    again = codec.decode(encoded)
    assert same(again, expected)
    assert codec.pack(again) == encoded
    assert runs == at_once, "reading it back converts nothing"
