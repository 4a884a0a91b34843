"""A value is validated where it comes in and nowhere else: each converter, validator and `__post_init__` is counted."""

from __future__ import annotations

import enum
import re
import typing
from collections.abc import Callable, Iterator
from dataclasses import InitVar, dataclass, field
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, NotRequired, TypeVar, Unpack

import pytest
from pydantic import (
    AfterValidator,
    Base64Bytes,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Discriminator,
    Field,
    Json,
    PlainSerializer,
    PlainValidator,
    PostgresDsn,
    PrivateAttr,
    RootModel,
    Secret,
    Tag,
    WrapValidator,
    computed_field,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypeAliasType, TypedDict

from romancy_nats.core.activity import Activity
from romancy_nats.core.conversions import Conversions
from romancy_nats.core.determinism import same_input
from romancy_nats.core.events import ActivityScheduled
from romancy_nats.core.handlers import Handlers
from romancy_nats.core.parameters import Parameters
from romancy_nats.core.payload import ResultReader, ValueCodec
from romancy_nats.core.plain import decode_plain, encode_plain
from romancy_nats.core.saga import Saga
from romancy_nats.errors import PayloadError

T = TypeVar("T")
calls: list[str] = []


@pytest.fixture(autouse=True)
def fresh() -> None:
    calls.clear()


def counted(name: str, convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def converter(value: Any) -> Any:
        calls.append(name)
        return convert(value)

    return converter


def in_wrap(value: Any, validate: Callable[[Any], Any]) -> Any:
    calls.append("wrap")
    return validate(value) + 1


Cents = Annotated[int, BeforeValidator(counted("cents", lambda euros: round(float(euros) * 100)))]
Next = Annotated[int, AfterValidator(counted("next", lambda n: n + 1))]
Wrapped = Annotated[int, WrapValidator(in_wrap)]
Text = Annotated[Any, PlainValidator(counted("text", lambda n: f"<{n}>"))]
Money = TypeAliasType("Money", Cents)


class Priced(BaseModel):
    price: Cents
    seen: list[Next] = Field(default_factory=lambda: [calls.append("factory") or 1])
    _hits: int = PrivateAttr(default_factory=lambda: calls.append("private") or 5)
    kind: ClassVar[str] = "priced"

    @field_validator("price")
    @classmethod
    def check(cls, price: int) -> int:
        calls.append("field")
        return price + 1

    @model_validator(mode="before")
    @classmethod
    def before(cls, found: Any) -> Any:
        calls.append("before")
        return found

    @model_validator(mode="after")
    def after(self) -> Priced:
        calls.append("after")
        self.__dict__["price"] += 10
        return self

    def model_post_init(self, context: Any) -> None:
        super().model_post_init(context)
        calls.append("post_init")

    @field_serializer("price")
    def write(self, price: int) -> str:
        calls.append("serializer")
        return f"{price} c"

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        calls.append("computed")
        return self.price * 2


class Special(Priced):
    note: str = ""


class Serialised(BaseModel):
    a: int

    @model_serializer
    def write(self) -> dict[str, Any]:
        calls.append("model_serializer")
        return {"b": self.a}


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow", populate_by_name=True)
    cents: Cents = Field(alias="Cents")


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, revalidate_instances="always", validate_default=True)
    cents: Cents = 2


class Page(BaseModel, Generic[T]):
    items: list[T]


class Prices(RootModel[list[Cents]]):
    pass


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    price: Cents


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    price: Cents


@dataclass
class Cart:
    price: Cents
    scale: InitVar[int] = 3
    total: int = field(init=False, default=0)
    factor: ClassVar[int] = 2

    def __post_init__(self, scale: int) -> None:
        calls.append("post_init")
        self.total += scale
        self.beside = scale


@dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: int = field(default_factory=lambda: calls.append("factory") or 1)

    def __post_init__(self) -> None:
        calls.append("post_init")


@pydantic_dataclass
class Checked:
    price: Cents
    kept: int = field(init=False, default=3)

    def __post_init__(self) -> None:
        calls.append("post_init")
        self.price += 1


class Pair(NamedTuple):
    left: Cents
    right: int = 1


class Order(TypedDict):
    price: Cents
    more: NotRequired[list[Next]]


class Level(enum.IntEnum):
    LOW = 1

    @classmethod
    def _missing_(cls, value: object) -> Level:
        calls.append("missing")
        return cls.LOW


class Mood(enum.StrEnum):
    GOOD = "good"


class Temperature:
    """Pydantic reads it by a validator that converts."""

    def __init__(self, degrees: float) -> None:
        calls.append("init")
        self.degrees = degrees

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Temperature) and other.degrees == self.degrees

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> Any:
        from pydantic_core import core_schema

        def read(found: Any) -> Temperature:
            calls.append("read")
            return cls((found.degrees if isinstance(found, cls) else float(found)) + 1)

        def write(found: Temperature) -> str:
            calls.append("write")
            return f"{found.degrees} C"

        return core_schema.no_info_plain_validator_function(
            read, serialization=core_schema.plain_serializer_function_ser_schema(write)
        )


class OrderId(str):
    """A text that knows how it is read."""

    __slots__ = ("checked",)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> Any:
        from pydantic_core import core_schema

        def read(text: str) -> OrderId:
            calls.append("id")
            made = cls("#" + text)
            made.checked = True
            return made

        return core_schema.no_info_after_validator_function(read, core_schema.str_schema())


class Box:
    """Somebody else's class; `Annotated` tells how it is read and written."""

    def __init__(self, inside: int) -> None:
        self.inside = inside

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Box) and other.inside == self.inside

    __hash__ = None  # type: ignore[assignment]


Boxed = Annotated[
    Box,
    PlainValidator(counted("box", lambda found: Box(int(found)))),
    PlainSerializer(lambda box: box.inside),
]

RAW: list[tuple[Any, Any]] = [
    (Cents, "5.25"),
    (Money, "5.25"),
    (Next, 5),
    (Wrapped, "5"),
    (Text, 5),
    (Cents | None, "5.25"),
    (list[Cents], ["1", "2"]),
    (dict[str, Cents], {"a": "1"}),
    (dict[Next, Next], {1: 1}),
    (tuple[Cents, ...], ("1", "2")),
    (tuple[Cents, Next], ["1", 2]),
    (set[Next], [1, 2]),
    (typing.Sequence[Next], [1, 2]),
    (typing.Mapping[str, Cents], {"a": 1}),
    (Json[list[int]], "[1, 2]"),
    (Json[list[Next]], "[1, 2]"),
    (Json, '{"a": [1]}'),
    (Base64Bytes, b"aGVsbG8="),
    (dict[str, Base64Bytes], {"a": b"aGVsbG8="}),
    (ByteSize, "3 MB"),
    (PostgresDsn, "postgres://a:b@h:1/d"),
    (Secret[Cents], "5"),
    (re.Pattern[str], "a.*"),
    (Priced, {"price": "1"}),
    (list[Priced], [{"price": "1"}]),
    (Page[Cents], {"items": ["1"]}),
    (Page[Priced], {"items": [{"price": "1"}]}),
    (Prices, ["1"]),
    (Frozen, {}),
    (Loose, {"Cents": 1, "more": "x"}),
    (Serialised, {"a": 1}),
    (Cat | Dog, {"kind": "dog", "price": "1"}),
    (Annotated[Cat | Dog, Field(discriminator="kind")], {"kind": "dog", "price": "1"}),
    (
        Annotated[
            Annotated[Cat, Tag("a")] | Annotated[Dog, Tag("b")],
            Discriminator(counted("tag", lambda v: "b" if isinstance(v, (dict, Dog)) else "a")),
        ],
        {"kind": "dog", "price": "1"},
    ),
    (Annotated[Priced, AfterValidator(counted("outer", lambda p: p))], {"price": "1"}),
    (Cart, {"price": "1"}),
    (Point, {"x": "1"}),
    (Checked, {"price": "1"}),
    (Pair, ["1"]),
    (list[Pair], [["1", 2]]),
    (Order, {"price": "1", "more": [1]}),
    (Level, 7),
    (Mood, "good"),
    (Temperature, "5"),
    (list[Temperature], ["5"]),
    (OrderId, "a"),
    (dict[str, OrderId], {"a": "b"}),
    (Boxed, "3"),
    (list[Boxed], ["3"]),
]


def same(left: Any, right: Any) -> bool:
    if type(left) is not type(right):
        return False
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, BaseModel):
        return left == right and left.model_fields_set == right.model_fields_set
    return bool(left == right) and getattr(left, "__dict__", {}) == getattr(right, "__dict__", {})


def decoded_twice(codec: ValueCodec[Any], data: bytes) -> Iterator[Any]:
    before = list(calls)
    for _ in range(2):
        yield codec.decode(data)
    assert calls == before, "reading a recorded value runs nothing"


@pytest.mark.parametrize(("annotation", "raw"), RAW, ids=range(len(RAW)))
def test_what_comes_in_is_converted_once(annotation: Any, raw: Any) -> None:
    from pydantic import TypeAdapter

    adapter = TypeAdapter(annotation)
    expected = adapter.validate_python(raw)
    at_once = list(calls)
    calls.clear()
    codec = ValueCodec[Any](annotation)
    data = codec.encode(raw)
    assert calls == at_once
    for value in decoded_twice(codec, data):
        assert same(value, expected) or repr(value) == repr(expected)
    calls.clear()
    # what was read goes out again as it is: an argument handed on, a result returned
    assert codec.pack(codec.decode(data)) == data
    assert calls == []


@pytest.mark.parametrize(("annotation", "raw"), RAW, ids=range(len(RAW)))
def test_so_is_an_argument(annotation: Any, raw: Any) -> None:
    def one(value: Any) -> None: ...
    def by_name(*, value: Any) -> None: ...
    def many(*values: Any) -> None: ...
    def named(**values: Any) -> None: ...

    for function in (one, by_name, many, named):
        function.__annotations__[next(iter(function.__annotations__))] = annotation
    expected = ValueCodec[Any](annotation).encode(raw)
    at_once = list(calls)
    for function, args, kwargs in (
        (one, [raw], {}),
        (one, [], {"value": raw}),
        (by_name, [], {"value": raw}),
        (many, [raw], {}),
        (named, [], {"value": raw}),
    ):
        codec = Parameters(function)
        calls.clear()
        data = codec.encode(args, kwargs)
        assert calls == at_once
        assert expected in data
        calls.clear()
        assert codec.canonical(data) == data
        codec.decode(data)
        codec.named(data)
        assert calls == []


def test_keyword_arguments_of_a_typed_dict() -> None:
    class More(TypedDict, total=False):
        price: Cents
        count: typing.Required[Next]

    def take(**more: Unpack[More]) -> None: ...

    codec = Parameters(take, names=locals())
    data = codec.encode([], {"price": "1", "count": 1})
    assert calls == ["cents", "next"]
    assert codec.decode(data) == ([], {"price": 100, "count": 2})
    assert calls == ["cents", "next"]


def test_a_default_is_converted_once_and_like_the_same_value_given() -> None:
    def take(price: Cents = "5.25", *, n: Next = 1) -> None: ...  # type: ignore[assignment]

    codec = Parameters(take)
    data = codec.encode()
    assert codec.decode(data) == ([525], {"n": 2})
    assert (
        codec.encode(["5.25"], {"n": 1})
        == data
        == codec.from_plain({})
        == codec.from_plain({"price": "5.25"})
    )
    assert codec.canonical(data) == data


def test_plain_data_from_outside_is_converted_once() -> None:
    def take(price: Cents, order: Order, priced: Priced) -> None: ...

    codec = Parameters(take)
    body = {"price": "5.25", "order": {"price": "1"}, "priced": {"price": "2"}}
    data = codec.from_plain(body)
    assert calls.count("cents") == 3
    assert calls.count("after") == 1
    calls.clear()
    (price, order, priced), _ = codec.decode(data)
    assert (price, order["price"], priced.price) == (525, 100, 211)
    assert calls == []


def test_queries_and_updates_convert_their_arguments_once() -> None:
    handlers = Handlers(
        pytest.fail,
        pytest.fail,
        encode_plain,
        pytest.fail,
        Conversions(pytest.fail, pytest.fail),
        pytest.fail,
    )  # type: ignore[arg-type]
    handlers.on_query("price", lambda price: price)
    handlers._queries["price"].parameters = Parameters(_priced)
    assert decode_plain(handlers.query("price", {"price": "5.25"})) == 525
    assert calls == ["cents"]


def _priced(price: Cents) -> None: ...


INSTANCES: list[tuple[Any, Callable[[], Any]]] = [
    (Priced, lambda: Priced(price=1)),
    (Priced, lambda: Special(price=1, note="x")),
    (Priced, lambda: Priced.model_construct(price="no number")),
    (Priced, lambda: Priced.model_construct()),
    (Frozen, lambda: Frozen(cents=1)),
    (Loose, lambda: Loose.model_validate({"Cents": 1, "more": [1]})),
    (Cart, lambda: Cart(1, scale=4)),
    (Cart, lambda: Cart("no number")),  # type: ignore[arg-type]
    (Point, lambda: Point(1)),
    (Checked, lambda: Checked(price=1)),
    (Pair, lambda: Pair("1")),  # type: ignore[arg-type]
    (Level, lambda: Level.LOW),
]


@pytest.mark.parametrize(("annotation", "make"), INSTANCES, ids=range(len(INSTANCES)))
def test_an_instance_arrives_as_the_caller_had_it(annotation: Any, make: Callable[[], Any]) -> None:
    value = make()
    if isinstance(value, Priced) and value.model_fields_set:
        value._hits = 9
    calls.clear()
    for asked, given in (
        (annotation, value),
        (annotation | None, value),
        (list[annotation], [value]),
        (dict[str, annotation | str], {"a": value}),
        (tuple[annotation, ...], (value,)),
        (Page[annotation], Page[annotation].model_construct(items=[value])),
    ):
        codec = ValueCodec[Any](asked)
        again = codec.decode(codec.encode(given))
        assert type(again) is type(given)
        found = again.items if isinstance(again, Page) else again
        found = (
            next(iter(found.values() if isinstance(found, dict) else found))
            if asked is not annotation and (isinstance(found, (list, dict)) or (type(found) is tuple))
            else found
        )
        assert same(found, value)
        assert getattr(found, "__pydantic_private__", None) == getattr(value, "__pydantic_private__", None)
    assert calls == []


def test_a_compensation_gets_what_its_activity_got() -> None:
    async def charge(price: Cents, count: int, *more: Next) -> Wrapped:
        return price

    async def refund(price: Cents, count: Next, result: Wrapped, *more: Next) -> None: ...

    activity = Activity[..., Any](charge, compensation=refund)
    input = activity.parameters.encode(["5.25", 1, 7])
    result = activity.result.encode(1)
    calls.clear()
    saga = Saga()
    saga.completed("charge:1", activity, input, result)
    (undo,) = saga.newest_first()
    assert undo.compensation.parameters.decode(undo.input) == ([525, 2, 2, 8], {})
    assert calls == ["next"], "only what the compensation annotates in another way is converted"


def test_replay_holds_a_recorded_input_against_the_code_without_converting_it() -> None:
    def charge(price: Cents, order: Order, priced: Priced, at: int = 1) -> None: ...
    def before(price: Cents, order: Order, priced: Priced) -> None: ...

    def scheduled(parameters: Parameters) -> ActivityScheduled:
        return ActivityScheduled(
            "charge:1", "charge", parameters.encode(["5.25", {"price": 1}, {"price": 2}]), ""
        )

    parameters = Parameters(charge)
    recorded, given = scheduled(Parameters(before)), scheduled(parameters)
    calls.clear()
    assert recorded.input != given.input
    assert same_input(recorded, given, parameters)
    assert calls == []


# --- what newer code asks for


def version(**fields: Any) -> Any:
    return type("V", (BaseModel,), {"__annotations__": fields, "__qualname__": "V", "__module__": __name__})


@pytest.mark.parametrize(
    ("before", "value", "now", "reason"),
    [
        (int, 1, str, "an int was recorded, the annotation asks for str"),
        (str, "1", int, "a str was recorded, the annotation asks for int"),
        (list[int], [1], list[str], r"value\[0\]: an int was recorded"),
        (dict[str, int], {"a": 1}, dict[str, str], r"value\['a'\]: an int was recorded"),
        (tuple[int, int], (1, 2), tuple[int, int, int], "it has 2 items, not 3"),
        (tuple[int, ...], (1,), tuple[str, ...], r"value\[0\]: an int"),
        (Literal["a", "b"], "a", Literal["b"], "it is none of 'b'"),
        (int | None, None, int, "None was recorded, the annotation asks for int"),
        (dict[str, Any], {"a": 1}, Order, r"value\['price'\]: it is missing, and required"),
        (Cat, Cat(price=1), Dog, "the class 'Cat', which the annotation does not name"),
        (int, 1, Cat, "an int was recorded, the annotation asks for Cat"),
        (list[int], [1], Cat | int, "a list was recorded, the annotation asks for Cat or int"),
    ],
    ids=str,
)
def test_another_annotation_is_noticed_by_form(before: Any, value: Any, now: Any, reason: str) -> None:
    data = ValueCodec[Any](before).encode(value)
    calls.clear()
    with pytest.raises(PayloadError, match=reason):
        ValueCodec[Any](now).decode(data)
    assert calls == []


@pytest.mark.parametrize(
    ("before", "value", "now"),
    [
        (int, 1, Cents),
        (int, 1, float),
        (int, -1, Annotated[int, Field(gt=0)]),
        (str, "x" * 20, Annotated[str, Field(max_length=3, pattern="y")]),
        (int, 1, int | None),
        (list[Cents], [1], list[int]),
    ],
    ids=range(6),
)
def test_a_converter_or_a_bound_that_is_new_says_nothing_of_old_values(
    before: Any, value: Any, now: Any
) -> None:
    codec = ValueCodec[Any](before)
    data = codec.encode(value)
    assert ValueCodec[Any](now).decode(data) == codec.decode(data)


def test_fields_gained_and_lost() -> None:
    @dataclass
    class V:
        a: int
        gone: str = ""

    old = V(1, "x")
    data = ValueCodec[Any](V).encode(old)

    @dataclass
    class W:
        a: int
        b: list[int] = field(default_factory=list)
        c: int = 4

    @dataclass
    class X:
        a: int
        b: int

    W.__qualname__ = X.__qualname__ = V.__qualname__
    again = ValueCodec[Any](W).decode(data)
    assert (again.a, again.b, again.c, hasattr(again, "gone")) == (1, [], 4, False)
    with pytest.raises(PayloadError, match=r"X\.b: the class has this field now"):
        ValueCodec[Any](X).decode(data)


def test_a_value_that_never_fitted_is_kept_while_its_class_stays_the_same() -> None:
    old = version(a=int)
    data = ValueCodec[Any](old).encode(old.model_construct(a="lie"))
    assert ValueCodec[Any](version(a=int)).decode(data).a == "lie"
    with pytest.raises(PayloadError, match=r"V\.a: a str was recorded"):
        ValueCodec[Any](version(a=int, b=Annotated[int, Field(default=1)])).decode(data)


def test_equal_calls_have_equal_bytes_though_the_code_of_their_classes_changed() -> None:
    def bytes_of(cls: Any) -> bytes:
        return ValueCodec[Any](cls).encode(cls(a=1))

    assert (
        bytes_of(version(a=int)) == bytes_of(version(a=int | None)) == bytes_of(version(a=float | str | int))
    )


def test_a_reader_names_the_type_that_it_wants() -> None:
    plain = ValueCodec[Any](Any).encode({"kind": "cat", "price": "1"})
    assert ResultReader[Any](Cat).decode(plain) == Cat(price=1)
    calls.clear()
    data = ValueCodec[Any](Cat).encode(Cat(price=1))
    calls.clear()
    assert ResultReader[Any](Cat).decode(data).price == 100
    assert calls == []
