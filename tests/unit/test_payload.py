"""Codecs of values and calls: exactness where types are easily lost, plain starts, limits, and readable refusals."""

from __future__ import annotations

import enum
import socket
import time
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar, Unpack
from uuid import UUID

import msgpack
import pytest
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    Json,
    PrivateAttr,
    RootModel,
    SecretStr,
    computed_field,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass

from romancy_nats.core.annotations import result_annotation
from romancy_nats.core.limits import MAX_BYTES, parse_body, scan_msgpack
from romancy_nats.core.parameters import NO_ARGUMENTS, Parameters, bind_compensation, fingerprint
from romancy_nats.core.payload import ValueCodec
from romancy_nats.errors import PayloadError, PayloadTooLargeError

T = TypeVar("T")


class Suit(enum.Enum):
    HEART = ("h", 1)
    SPADE = ("s", 2)


class Level(enum.IntEnum):
    LOW = 1


class Mode(enum.Flag):
    READ = 1
    WRITE = 2


class Address(BaseModel):
    model_config = ConfigDict(frozen=True)
    street: str = Field(alias="Street")
    doubled: Annotated[int, AfterValidator(lambda value: value * 2)] = 1


class Order(BaseModel):
    id: UUID
    address: Address
    raw: Json[dict[str, int]] | None = None
    hidden: str = Field(default="h", exclude=True)
    url: HttpUrl | None = None
    secret: SecretStr = SecretStr("s")
    _seen: int = PrivateAttr(default=0)
    _socket: Any = PrivateAttr(default=None)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def label(self) -> str:
        return f"{self.id}"


class Page(BaseModel, Generic[T]):
    items: list[T]


class Names(RootModel[list[str]]):
    pass


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int = 1


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    at: datetime


class CatA(BaseModel):
    kind: Literal["cat"] = "cat"
    n: int = 0


class DogA(BaseModel):
    kind: Literal["dog"] = "dog"
    n: int = 0


class Base(BaseModel):
    x: int


class Derived(Base):
    y: int


@dataclass(frozen=True, slots=True)
class Frozen:
    a: int
    b: tuple[int, str]


@dataclass
class Late:
    total: int
    cache: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.total *= 2
        self.cache = {"n": self.total}
        self.made_from = self.total

    @cached_property
    def lock(self) -> object:
        return object()


@pydantic_dataclass
class Checked:
    a: int
    when: datetime


@dataclass
class Box(Generic[T]):
    inside: T


class Point(NamedTuple):
    x: int
    y: float = 0.0


class Point2(NamedTuple):
    x: int
    y: float = 0.0


class Movie(TypedDict):
    title: str
    year: NotRequired[int]
    on: datetime


class Shelf(TypedDict, total=False):
    movie: NotRequired[Movie]
    many: list[Movie]


class Node(BaseModel):
    value: int
    next: Node | None = None


class OrderId(str):
    __slots__ = ()


class Weird:
    """Only pydantic can serialise it."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"Weird({self.value})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Weird) and other.value == self.value

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            lambda found: found if isinstance(found, cls) else cls(found),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda found: found.value),
        )


ID = UUID(int=7)
WHEN = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
SEEN = Order(id=ID, address=Address(Street="s", doubled=4), raw='{"a": 1}', url=HttpUrl("http://x.y/"))
SEEN._seen = 3

EXACT: list[tuple[Any, Any]] = [
    (Order, SEEN),
    (list[Order], [SEEN]),
    (Page[Frozen], Page[Frozen](items=[Frozen(1, (2, "x"))])),
    (Page[Any], Page[Any](items=[1, WHEN])),
    (Names, Names(["a"])),
    (Loose, Loose.model_validate({"a": 2, "z": [1]})),
    (Annotated[CatA | DogA, Field(discriminator="kind")], DogA(n=2)),
    (Base, Derived(x=1, y=2)),
    (list[Base], [Derived(x=1, y=2), Base(x=3)]),
    (Checked, Checked(a=1, when=WHEN)),
    (Box[int] | Frozen, Box(3)),
    (Point2 | Point, Point(1)),
    (Point | Point2, Point2(1, 2.0)),
    (Movie, {"title": "t", "on": WHEN}),
    (dict[str, list[Movie] | None], {"a": [{"title": "t", "year": 1, "on": WHEN}]}),
    (Shelf, {"movie": {"title": "t", "on": WHEN}, "many": []}),
    (Shelf, {}),
    (Iterable[Movie], ({"title": "t", "on": WHEN},)),
    (Node, Node(value=1, next=Node(value=2))),
    (Suit, Suit.SPADE),
    (Suit | str, Suit.HEART),
    (Level | int, Level.LOW),
    (Level | int, 1),
    (Mode, Mode.READ | Mode.WRITE),
    (Literal[Suit.HEART, "x"], Suit.HEART),
    (int, 2**200),
    (int, -(2**63) - 1),
    (Decimal, Decimal("sNaN")),
    (list[Decimal], [Decimal("1.500"), Decimal("-0"), Decimal("Infinity")]),
    (float, float("inf")),
    (Path, Path("/a/b")),
    (Path | str, "/a/b"),
    (OrderedDict[str, int], OrderedDict(b=1, a=2)),
    (Counter[str], Counter("aab")),
    (defaultdict[str, list[int]], defaultdict(list, {"a": [1]})),
    (deque[int], deque([1, 2], maxlen=3)),
    (Sequence[int], (1, 2)),
    (Iterable[int], [1, 2]),
    (dict[Suit, set[UUID]], {Suit.HEART: {ID}}),
    (str, "\ud800 lone"),
    (Weird, Weird(3)),
    (dict[str, Weird], {"a": Weird(3)}),
    (object, {"a": (1, {2}, WHEN, timedelta(1))}),
    (complex, 1 + 2j),
]


@pytest.mark.parametrize(("annotation", "value"), EXACT, ids=[str(index) for index in range(len(EXACT))])
def test_exact(annotation: Any, value: Any) -> None:
    codec = ValueCodec[Any](annotation)
    again = codec.decode(codec.encode(value))
    assert type(again) is type(value)
    assert repr(again) == repr(value)
    if not isinstance(value, Decimal):  # a signalling NaN refuses to be compared
        assert again == value


def test_what_a_model_keeps_beside_its_fields() -> None:
    order = SEEN.model_copy()
    order._socket = socket
    again = ValueCodec[Order](Order).decode(ValueCodec[Order](Order).encode(order))
    assert again._seen == 3
    assert again._socket is None
    assert again.raw == {"a": 1}
    assert again.address.doubled == 8
    assert again.model_fields_set == SEEN.model_fields_set
    assert again.secret.get_secret_value() == "s"


def test_a_dataclass_keeps_what_post_init_made_without_running_it_again() -> None:
    late = Late(2)
    late.total = 7
    assert late.lock
    again = ValueCodec[Late](Late).decode(ValueCodec[Late](Late).encode(late))
    assert again == late
    assert again.made_from == 4
    assert "lock" not in vars(again)


def test_what_post_init_makes_and_nothing_can_store_is_refused() -> None:
    late = Late(2)
    late.made_from = object()  # type: ignore[assignment]
    with pytest.raises(PayloadError, match=r"value: Late\.made_from: .*__post_init__.*cached_property"):
        ValueCodec[Late](Late).encode(late)


def test_an_int_for_a_float_is_a_float() -> None:
    assert type(ValueCodec[float](float).decode(ValueCodec[float](float).encode(3))) is float


def test_untyped_values_become_plain() -> None:
    codec = ValueCodec[Any](Any)
    value = {"m": Base(x=1), "d": Box(Suit.HEART), "p": Point(1), "id": OrderId("o"), "s": Level.LOW}
    again = codec.decode(codec.encode(value))
    assert again == {"m": {"x": 1}, "d": {"inside": ("h", 1)}, "p": (1, 0.0), "id": "o", "s": 1}
    assert type(again["id"]) is str
    assert type(again["p"]) is tuple


def version(name: str, **fields: Any) -> Any:
    return type(name, (BaseModel,), {"__annotations__": fields, "__qualname__": name, "__module__": __name__})


def test_a_class_that_changed_since_says_which_field_does_not_fit() -> None:
    old = version("V", a=int, gone=str)
    data = ValueCodec[Any](old).encode(old(a=1, gone="x"))
    for fields, reason in (
        ({"a": str | None}, r"V\.a: an int was recorded, the annotation asks for None or str"),
        ({"a": list[int]}, r"V\.a: an int was recorded, the annotation asks for list"),
        ({"a": int, "b": int}, r"V\.b: the class has this field now.*give it a default"),
    ):
        with pytest.raises(PayloadError, match=reason):
            ValueCodec[Any](version("V", **fields)).decode(data)
    wider = ValueCodec[Any](version("V", a=float)).decode(data)
    assert wider.a == 1
    assert not hasattr(wider, "gone")
    grown = version("V", a=int, b=Annotated[int, Field(default=7)])
    assert ValueCodec[Any](grown).decode(data).b == 7
    assert ValueCodec[Any](grown).decode(data).model_fields_set == {"a"}


@pytest.mark.parametrize(
    ("annotation", "value", "reason"),
    [
        (int, "x", "value: .*integer"),
        (Order, {"id": ID}, r"value\.Street|value\.address"),
        (dict[str, Any], {"a": [1, {"b": socket.socket}]}, r"value\['a'\]\[1\]\['b'\]: a value of type"),
        (Any, lambda: 1, "value: a value of type builtins.function cannot be stored"),
        (Box[Any], Box(object()), r"value\.inside: "),
        (Any, (item for item in ()), "generator"),
    ],
    ids=["int", "model", "path", "function", "dataclass", "generator"],
)
def test_refusals_say_where(annotation: Any, value: Any, reason: str) -> None:
    with pytest.raises(PayloadError, match=reason):
        ValueCodec[Any](annotation).encode(value)


def test_cycles_are_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(PayloadError):
        ValueCodec[Any](Any).encode(loop)


def test_refusals_do_not_quote_values() -> None:
    with pytest.raises(PayloadError) as caught:
        ValueCodec[int](int).fit("hunter2")
    assert "hunter2" not in str(caught.value)


def test_types_without_a_schema() -> None:
    with pytest.raises(PayloadError, match="no schema"):
        ValueCodec[Any](list[socket.socket])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x92\x01",
        b"\x01\x01",
        msgpack.packb(msgpack.ExtType(99, b"x")),
        msgpack.packb(msgpack.ExtType(16, b"")),
        msgpack.packb({msgpack.ExtType(16, b""): 1}),
        msgpack.packb({msgpack.ExtType(17, b""): [[]]}),
        msgpack.packb({msgpack.ExtType(23, b""): ["os.system", 0, {}]}),
        msgpack.packb(msgpack.ExtType(1, b"never")),
        msgpack.packb(msgpack.ExtType(1, b"2026-01-01T00:00:00[../../etc/passwd]")),
        msgpack.packb(msgpack.ExtType(5, b"junk")),
        msgpack.packb(msgpack.ExtType(4, b"\x7f" * 12)),
        b"\x91" * 100_000 + b"\xc0",
    ],
    ids=lambda data: repr(data)[:30],
)
def test_bad_bytes(data: bytes) -> None:
    for annotation in (Any, Order):
        with pytest.raises(PayloadError):
            ValueCodec[Any](annotation).decode(data)


def test_a_stranger_is_held_to_the_form_of_the_annotation() -> None:
    async def take(order: Base) -> None: ...

    codec = Parameters(take)
    name = "Base"

    def call(state: list[Any]) -> bytes:
        return NO_ARGUMENTS[:1] + b"\x91" + msgpack.packb({msgpack.ExtType(23, b""): state}) + b"\x80"

    assert codec.canonical(call([name, 0, {"x": 1}])) == codec.encode([Base(x=1)])
    for state in (
        [name, 0, {"x": "not an int"}],
        [name, 0, {}],
        [name, 0, [1]],
        [name],
        [name, 0, {"x": 1}, [], {}],
        ["Order", 0, {"x": 1}],
        ["os.system", 0, {"x": 1}],
        [["Base"], 0, {"x": 1}],
    ):
        with pytest.raises(PayloadError):
            codec.canonical(call(state))


# --- calls


async def place(ctx: Missing, item: str, count: int = 1, *, due: datetime | None = None) -> Base: ...  # type: ignore[name-defined]  # noqa: F821
async def several(*items: int, **prices: Decimal) -> None: ...
async def one_model(order: CatA) -> None: ...
async def with_sentinel(a: int = 1, b: Any = object(), c: int = 3) -> None: ...  # noqa: B008


class Extra(TypedDict, total=False):
    color: str
    size: int | None


async def unpacked(a: int, **extra: Unpack[Extra]) -> None: ...
async def amount(value: float) -> None: ...


def test_one_call_one_form() -> None:
    codec = Parameters(place, skip_first=True)
    data = codec.encode(["x", 1])
    assert data == codec.encode(["x"]) == codec.encode([], {"due": None, "count": 1, "item": "x"})
    assert codec.decode(data) == (["x", 1], {"due": None})
    assert len(fingerprint(data)) == 16
    assert Parameters(amount).encode([3]) == Parameters(amount).encode([3.0])


def test_var_arguments() -> None:
    codec = Parameters(several)
    data = codec.encode([1, 2], {"b": Decimal(1), "a": Decimal("NaN")})
    args, kwargs = codec.decode(data)
    assert args == [1, 2]
    assert list(kwargs) == ["a", "b"]
    assert codec.named(codec.encode([1], {"b": Decimal(2)})) == {"items": (1,), "b": Decimal(2)}
    with pytest.raises(PayloadError, match="'items'"):
        codec.encode(["x"])


def test_typed_keyword_arguments() -> None:
    codec = Parameters(unpacked)
    assert codec.decode(codec.encode([1], {"color": "red"})) == ([1], {"color": "red"})
    assert codec.decode(codec.encode([1], {"size": None})) == ([1], {"size": None})
    assert codec.decode(codec.encode([1])) == ([1], {})


def test_a_default_that_cannot_be_stored_is_made_anew() -> None:
    codec = Parameters(with_sentinel)
    assert codec.decode(codec.encode([])) == ([1], {"c": 3})
    assert codec.decode(codec.encode([2, "b"])) == ([2, "b", 3], {})
    assert codec.decode(codec.encode([2], {"c": 4})) == ([2], {"c": 4})


@pytest.mark.parametrize(
    ("args", "kwargs", "reason"),
    [
        ([], {}, "missing a required argument: 'item'"),
        (["x", 1, 2], {}, "too many positional"),
        (["x"], {"cuont": 1}, "unexpected keyword argument 'cuont'"),
        ([1], {}, r"place\(\): argument 'item': .*string"),
    ],
)
def test_misfits_of_a_call(args: list[Any], kwargs: dict[str, Any], reason: str) -> None:
    with pytest.raises(PayloadError, match=reason):
        Parameters(place, skip_first=True).encode(args, kwargs)


def test_local_classes() -> None:
    class Local(BaseModel):
        a: int

    async def take(it: Local) -> Local: ...

    assert Parameters(take, names=locals()).decode(Parameters(take, names=locals()).encode([Local(a=1)]))[
        0
    ] == [Local(a=1)]
    assert result_annotation(take, locals()) is Local
    with pytest.raises(PayloadError, match=r"'it'.*Local.*cannot be resolved"):
        Parameters(take)


def test_methods_partials_and_callables() -> None:
    class Shop:
        def buy(self, item: str) -> None: ...

        def __call__(self, item: int) -> None: ...

    assert Parameters(Shop().buy).decode(Parameters(Shop().buy).encode(["x"])) == (["x"], {})
    assert Parameters(Shop()).decode(Parameters(Shop()).encode([1])) == ([1], {})


PLAIN: list[tuple[Callable[..., Any], Any, Any]] = [
    (place, {"args": ["x", 2]}, (["x", 2], {"due": None})),
    (
        place,
        {"args": ["x"], "kwargs": {"due": "2026-01-02T03:04:05Z"}},
        (["x", 1], {"due": WHEN.replace(microsecond=0)}),
    ),
    (place, {"item": "x"}, (["x", 1], {"due": None})),
    (one_model, {"n": 3}, ([CatA(n=3)], {})),
    (one_model, {"order": {"n": 3}}, ([CatA(n=3)], {})),
    (one_model, {"args": [{"n": 3}]}, ([CatA(n=3)], {})),
    (one_model, {}, ([CatA()], {})),
    (with_sentinel, None, ([1], {"c": 3})),
    (with_sentinel, {}, ([1], {"c": 3})),
]


@pytest.mark.parametrize(("function", "body", "call"), PLAIN)
def test_plain_starts(function: Callable[..., Any], body: Any, call: Any) -> None:
    codec = Parameters(function, skip_first=function is place)
    assert codec.decode(codec.from_plain(body)) == call


def test_a_plain_start_equals_a_typed_one() -> None:
    codec = Parameters(place, skip_first=True)
    assert codec.from_plain({"item": "x", "due": WHEN.isoformat()}) == codec.encode(["x"], {"due": WHEN})


def test_strict_models_take_json() -> None:
    async def take(it: Strict) -> None: ...

    codec = Parameters(take, names={"Strict": Strict})
    assert codec.decode(codec.from_plain({"at": "2026-01-02T00:00:00Z"}))[0][0].at.year == 2026


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"args": ["x"], "more": 1}, "no other fields"),
        ({"args": "x"}, "an array"),
        (["x"], "not an array"),
        (3, "not a number"),
        ({}, "misses the argument 'item'"),
        ({"item": "x", "size": 1}, "no argument 'size'; it takes item, count, due"),
        ({"args": ["x"], "kwargs": {"item": "y"}}, "given twice"),
        ({"args": ["x", "many"]}, "argument 'count': .*integer"),
        ({"args": [1, 2, 3]}, "takes 2 positional"),
        ({"item": {"deep": 1}}, "argument 'item': .*string"),
    ],
)
def test_plain_starts_that_do_not_fit(body: Any, reason: str) -> None:
    with pytest.raises(PayloadError, match=reason):
        Parameters(place, skip_first=True).from_plain(body)


def test_compensations() -> None:
    def undo(item: str, result: Base) -> None: ...
    def undo_all(**rest: Any) -> None: ...
    def undo_none() -> None: ...
    def undo_other(other: int) -> None: ...
    def undo_default(item: str, /, other: int = 1) -> None: ...

    arguments = {"item": "x", "count": 2}
    assert bind_compensation(undo, arguments, 5) == ([], {"item": "x", "result": 5})
    assert bind_compensation(undo_all, arguments, 5) == ([], arguments)
    assert bind_compensation(undo_none, arguments, 5) == ([], {})
    assert bind_compensation(undo_default, arguments, 5) == (["x"], {})
    with pytest.raises(PayloadError, match="'other'"):
        bind_compensation(undo_other, arguments, 5)


# --- bodies from outside


@pytest.mark.parametrize(
    ("data", "kind", "value"),
    [
        (b"", None, None),
        (b"  ", "application/json", None),
        (b' {"a": [1, 2.5, "x]}"]} ', None, {"a": [1, 2.5, "x]}"]}),
        (msgpack.packb({"a": b"\x00"}), None, {"a": b"\x00"}),
        (b'"x"', "application/cloudevents+json; charset=utf-8", "x"),
        (b"\x31", "application/msgpack", 0x31),
        (b"1", "text/plain", 1),
        (msgpack.packb(WHEN, datetime=True), None, WHEN),
    ],
)
def test_bodies(data: bytes, kind: str | None, value: Any) -> None:
    assert parse_body(data, kind) == value


HOSTILE: list[tuple[bytes, str]] = [
    (b"[" * 10_000, "nested deeper"),
    (b'{"a":' * 10_000, "nested deeper"),
    (b"[" * 65 + b"]" * 65, "nested deeper"),
    (b"\x91" * 10_000 + b"\xc0", "nested deeper"),
    (b"\x81\xa1a" * 10_000, "nested deeper"),
    (b"\xdd\x00\x0f\xff\xf0" + b"\x80" * 0xFFFF0, "more than 100,000"),
    (b"[" + b"{}," * 349_000 + b"{}]", "more than 100,000"),
    (b"[" + b'"",' * 349_000 + b"0]", "more than 100,000"),
    (b"[" + b"[]," * 349_000 + b"0]", "more than 100,000"),
    (b'"' + b'\\"' * 500_000, "cannot be read"),
    (b'["' + b"\\" * 1_000_000, "cannot be read"),
    (b"[" + b"1" * 1_000_000 + b"]", "cannot be read"),
    (b"[1e999]", "too large"),
    (b"[NaN]", "no NaN"),
    (b"[-Infinity]", "no -Infinity"),
    (b'{"a": 1, "a": 2}', "same key twice"),
    (b"\x82\xa1a\x01\xa1a\x02", "same key twice"),
    (b"\x81\x01\x01", "cannot be read"),
    (b"\x81\xc4\x01a\x01", "keys of an object"),
    (b"\xdf\xff\xff\xff\xff", "more than 100,000"),
    (b"\xc6\xff\xff\xff\xff", "length"),
    (b"\xd4\x05a", "ext code 5 is unknown"),
    (b"\xc7\x0c\xff" + b"\xff" * 12, "cannot be read"),
    (b"\xc1", "not msgpack"),
    (b"\x92\x01", "too early"),
    (b"\xa2\xff\xff", "UTF-8"),
    (b'"\xff"', "UTF-8"),
    (b'{"secret": hunter2}', "line 1, column 12"),
    (b"\xda", "too early"),
]


@pytest.mark.parametrize(("data", "reason"), HOSTILE, ids=lambda item: repr(item)[:24])
def test_hostile_bodies_are_refused_quickly(data: bytes, reason: str) -> None:
    started = time.process_time()
    with pytest.raises(PayloadError, match=reason) as caught:
        parse_body(data)
    assert time.process_time() - started < 1.0
    assert "hunter2" not in str(caught.value)


def test_the_limits_themselves_are_allowed() -> None:
    assert parse_body(b"[" * 64 + b"]" * 64) is not None
    assert parse_body(b"\x91" * 64 + b"\x90"[:0] + b"\xc0") is not None
    with pytest.raises(PayloadTooLargeError):
        parse_body(b" " * (MAX_BYTES + 1))
    assert parse_body(b'"' + b"x" * (MAX_BYTES - 2) + b'"') is not None


def test_own_ext_codes_pass_when_allowed() -> None:
    data = ValueCodec[Any](Any).encode({"a": (1, WHEN)})
    with pytest.raises(PayloadError, match="ext code"):
        scan_msgpack(data)
    assert Parameters(one_model).canonical(Parameters(one_model).encode([CatA(n=1)]))
