"""Which exceptions come back as themselves, with what, and what becomes of all others."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel

from romancy_nats import errors
from romancy_nats.core.error_text import class_key
from romancy_nats.core.failure import MAX_DEPTH, MAX_MESSAGE, MAX_TRACEBACK, Failure
from romancy_nats.core.msgpack_types import Encoder
from romancy_nats.errors import (
    ActivityError,
    ActivityTimeoutError,
    PayloadError,
    RetryExhaustedError,
    RomancyError,
    TerminalError,
    WorkflowFailedError,
)


class Item(BaseModel):
    sku: str


class Reason(enum.Enum):
    EMPTY = 1


class OutOfStockError(Exception):
    """Other arguments than its `args`, and a constructor that must not run again."""

    made = 0

    def __init__(self, item: Item, *, reason: Reason) -> None:
        super().__init__(f"no {item.sku}")
        type(self).made += 1
        self.item = item
        self.reason = reason
        self.connection = object()


class DeclinedError(TerminalError):
    def __init__(self, code: int, at: datetime) -> None:
        super().__init__(f"declined: {code}")
        self.code = code
        self.at = at


class SlottedError(ValueError):
    __slots__ = ("hint",)

    def __init__(self, hint: str) -> None:
        self.hint = hint


@dataclass(frozen=True)
class FrozenError(Exception):
    code: int


class UnlistedError(Exception):
    pass


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class DiskError(OSError):
    def __init__(self, path: str) -> None:
        super().__init__(5, "broken", path)


REGISTERED: dict[str, type[BaseException]] = {
    f"{cls.__module__}.{cls.__qualname__}": cls
    for cls in (OutOfStockError, SlottedError, FrozenError, DiskError)
}


def again(error: BaseException, registered: dict[str, type[BaseException]] | None = None) -> Exception:
    """Raised, recorded, written, read and rebuilt."""
    registered = REGISTERED if registered is None else registered
    try:
        raise error
    except BaseException as raised:  # noqa: BLE001 - whatever it is
        return Failure.decode(Failure.of(raised, registered).encode()).rebuild(registered)


BUILTINS: list[Exception] = [
    ValueError("x"),
    ValueError(),
    KeyError("k"),
    FileNotFoundError(2, "No such file", "/a"),
    OSError(5, "io"),
    TimeoutError("late"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    SyntaxError("bad", ("f.py", 1, 2, "text", 1, 3)),
    ImportError("no", name="m", path="/p"),
    AttributeError("no", name="n"),
    StopIteration(3),
    ZeroDivisionError("z", datetime(2026, 1, 1, tzinfo=UTC), (1, 2), {"a"}),
]


@pytest.mark.parametrize("error", BUILTINS, ids=lambda error: type(error).__name__)
def test_builtins(error: Exception) -> None:
    rebuilt = again(error)
    assert type(rebuilt) is type(error)
    assert rebuilt.args == error.args
    assert str(rebuilt) == str(error)
    for name in ("errno", "filename", "name", "path", "value", "reason", "lineno"):
        assert getattr(rebuilt, name, None) == getattr(error, name, None)


def test_a_registered_class_with_its_attributes() -> None:
    before = OutOfStockError(Item(sku="a"), reason=Reason.EMPTY)
    made = OutOfStockError.made
    rebuilt = again(before)
    assert OutOfStockError.made == made
    assert type(rebuilt) is OutOfStockError
    assert rebuilt.args == ("no a",)
    assert rebuilt.item == Item(sku="a")
    assert rebuilt.reason is Reason.EMPTY
    assert not hasattr(rebuilt, "connection")


def test_terminal_errors_need_no_registration() -> None:
    rebuilt = again(DeclinedError(5, datetime(2026, 1, 1, tzinfo=UTC)), {})
    assert type(rebuilt) is DeclinedError
    assert (rebuilt.code, rebuilt.at) == (5, datetime(2026, 1, 1, tzinfo=UTC))
    assert not Failure.of(rebuilt).retryable
    assert Failure.of(ValueError()).retryable
    assert not Failure.of(ValueError(), retryable=False).retryable


def test_slots_frozen_dataclasses_and_os_errors() -> None:
    slotted, frozen, disk = again(SlottedError("h")), again(FrozenError(7)), again(DiskError("/d"))
    assert isinstance(slotted, SlottedError)
    assert slotted.hint == "h"
    assert frozen == FrozenError(7)
    assert isinstance(disk, DiskError)
    assert (disk.errno, disk.filename, str(disk)) == (5, "/d", str(DiskError("/d")))


def test_every_error_of_this_package() -> None:
    classes = [
        cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, RomancyError)
    ]
    for cls in classes:
        made = cls.__new__(cls, "a")
        made.args = ("a",)
        made.__dict__["note"] = 1
        rebuilt = Failure.decode(Failure.of(made).encode()).rebuild()
        assert type(rebuilt) is cls
        assert rebuilt.args == ("a",)
        assert vars(rebuilt) == {"note": 1}
    assert str(again(ActivityTimeoutError("a", 1.5))) == str(ActivityTimeoutError("a", 1.5))
    failed = again(WorkflowFailedError("m", error_type="T", instance_id="i", workflow="w"))
    assert vars(failed) == {"message": "m", "error_type": "T", "instance_id": "i", "workflow": "w"}


def test_anything_else_is_an_activity_error() -> None:
    for error in (UnlistedError("why"), OutOfStockError(Item(sku="a"), reason=Reason.EMPTY)):
        rebuilt = again(error, {})
        assert isinstance(rebuilt, ActivityError)
        assert rebuilt.error_type == type(error).__name__
        assert rebuilt.message == str(error)
        assert "in again" in rebuilt.traceback
        assert Failure.of(error, {}).args is None


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit("g")], ids=repr)
def test_what_is_no_exception_is_an_activity_error(error: BaseException) -> None:
    rebuilt = again(error)
    assert isinstance(rebuilt, ActivityError)
    assert rebuilt.error_type == type(error).__name__


def test_arguments_that_cannot_be_stored_become_text() -> None:
    thing = object()
    rebuilt = again(ValueError("a", thing, 3))
    assert rebuilt.args == ("a", str(thing), 3)


def test_an_error_that_cannot_say_itself() -> None:
    rebuilt = again(UnspeakableError("x"))
    assert isinstance(rebuilt, ActivityError)
    assert "__str__ failed" in rebuilt.message


def test_causes_and_last_errors() -> None:
    inner = KeyError("k")
    outer = RetryExhaustedError("charge", 3, inner)
    outer.__cause__ = inner
    rebuilt = again(outer)
    assert isinstance(rebuilt, RetryExhaustedError)
    assert isinstance(rebuilt.__cause__, KeyError)
    assert rebuilt.last_error is rebuilt.__cause__
    assert str(rebuilt) == str(outer)
    lone = again(RetryExhaustedError("charge", 3, UnlistedError("u")))
    assert isinstance(lone, RetryExhaustedError)
    assert isinstance(lone.last_error, ActivityError)


def test_chains_are_bounded() -> None:
    error: Exception = ValueError("0")
    for number in range(1, 50):
        outer = ValueError(str(number))
        outer.__cause__ = error
        error = outer
    first = ValueError("cycle")
    second = ValueError("second")
    first.__cause__, second.__cause__ = second, first
    for start in (error, first):
        rebuilt: BaseException | None = again(start)
        depth = 0
        while rebuilt is not None:
            rebuilt, depth = rebuilt.__cause__, depth + 1
        assert depth == MAX_DEPTH + 1


def test_groups() -> None:
    group = ExceptionGroup("two", [ValueError("a"), ExceptionGroup("in", [UnlistedError("b")])])
    rebuilt = again(group)
    assert isinstance(rebuilt, ExceptionGroup)
    assert isinstance(rebuilt.exceptions[0], ValueError)
    inner = rebuilt.exceptions[1]
    assert isinstance(inner, ExceptionGroup)
    assert isinstance(inner.exceptions[0], ActivityError)


def test_long_texts_are_cut() -> None:
    failure = Failure.of(UnlistedError("x" * 100_000))
    assert len(failure.message) == MAX_MESSAGE
    assert len(failure.traceback) <= MAX_TRACEBACK
    huge = ValueError("x" * 1_000_000)
    assert len(Failure.of(huge).encode()) < 100_000


def test_classes_of_the_main_program() -> None:
    failure = Failure.of(OutOfStockError(Item(sku="a"), reason=Reason.EMPTY), REGISTERED)
    elsewhere = failure._replace(type="__main__.OutOfStockError")
    assert type(elsewhere.rebuild(REGISTERED)) is OutOfStockError


@pytest.mark.parametrize(
    "name", ["os.system", "builtins.eval", "builtins.object", "builtins.SystemExit", "subprocess.Popen", ""]
)
def test_records_cannot_name_other_classes(name: str) -> None:
    failure = Failure.of(ValueError("x"))._replace(type=name)
    assert isinstance(failure.rebuild(REGISTERED), ActivityError)


def test_state_that_a_class_refuses() -> None:
    state = Failure.of(ValueError("x"))
    assert isinstance(state._replace(type="builtins.UnicodeDecodeError").rebuild(), ActivityError)
    assert isinstance(state._replace(type="builtins.ExceptionGroup").rebuild(), ActivityError)
    assert isinstance(state._replace(args=b"\xc1").rebuild(), ActivityError)


@pytest.mark.parametrize("data", [b"", b"\xc0", b"\x90", b"\x97" + b"\x01" * 7 + b"\x01", b"\xc1"])
def test_records_that_cannot_be_read(data: bytes) -> None:
    with pytest.raises(PayloadError):
        Failure.decode(data)


def test_live_and_replay_are_alike() -> None:
    error: Any = OutOfStockError(Item(sku="a"), reason=Reason.EMPTY)
    data = Failure.of(error, REGISTERED).encode()
    live, replay = Failure.decode(data).rebuild(REGISTERED), Failure.decode(data).rebuild(REGISTERED)
    assert (type(live), live.args, vars(live)) == (type(replay), replay.args, vars(replay))
    assert Failure.of(live).encode() == Failure.of(replay).encode()


class _ExitingTextError(Exception):
    def __str__(self) -> str:
        raise SystemExit(4)

    def __bool__(self) -> bool:
        raise SystemExit(5)


def test_exhausted_retries_are_shown_whatever_the_last_error_does() -> None:
    shown = str(RetryExhaustedError("act", 2, _ExitingTextError()))
    assert shown == "activity 'act' failed after 2 attempts: _ExitingTextError"


class _Secretive(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in ("__module__", "__qualname__", "__name__", "__mro__"):
            raise SystemExit(name)
        return type.__getattribute__(cls, name)


class _SecretError(Exception, metaclass=_Secretive):
    pass


def test_a_listed_class_that_hides_its_name_harms_no_other() -> None:
    failure = Failure("elsewhere.OddError", "odd")
    assert isinstance(failure.rebuild({"x": _SecretError}), ActivityError)


class _SetterError(Exception):
    @property
    def code(self) -> int:
        return 1

    @code.setter
    def code(self, value: int) -> None:
        raise SystemExit(value)


def test_a_class_that_cannot_be_filled_comes_back_as_an_activity_error() -> None:
    error = _SetterError("text")
    error.__dict__["code"] = 5
    registered = {class_key(_SetterError): _SetterError}
    rebuilt = Failure.of(error, registered).rebuild(registered)
    assert isinstance(rebuilt, ActivityError)
    assert rebuilt.message == "text"


class _Loader:
    def get_source(self, name: str) -> str:
        raise SystemExit(name)


def test_source_that_cannot_be_read_is_left_out() -> None:
    scope: dict[str, Any] = {"__loader__": _Loader(), "__name__": "generated"}
    exec(compile("def boom(): raise ValueError('generated')", "<generated template>", "exec"), scope)
    with pytest.raises(ValueError, match="generated") as caught:
        scope["boom"]()
    assert Failure.of(caught.value).message == "generated"


def test_millions_of_values_are_not_packed_to_find_that_they_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packed: list[int] = []
    pack = Encoder.pack

    def counted(self: Encoder, value: Any) -> bytes:
        data = pack(self, value)
        packed.append(len(data))
        return data

    monkeypatch.setattr(Encoder, "pack", counted)
    for many in (list(range(300_000)), {n: n for n in range(100_000)}, [[n] for n in range(60_000)]):
        error = ValueError(many)
        error.many = many  # type: ignore[attr-defined]
        assert isinstance(Failure.decode(Failure.of(error).encode()).rebuild(), ValueError)
    assert max(packed) < 128 * 1024
