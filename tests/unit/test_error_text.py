"""An error as text, and what decides about its retry: whatever the class of a user does, nothing raises."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from romancy_nats.core.error_text import (
    args_of,
    cause_of,
    class_key,
    class_name,
    error_text,
    is_one_of,
    shown,
)
from romancy_nats.core.failure import MAX_TRACEBACK, Failure
from romancy_nats.core.retry import RetryPolicy, asked_delay
from romancy_nats.errors import TerminalError


def _raises(error: BaseException) -> Any:
    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


class Lying(type):
    """A metaclass that answers every question with an exception."""

    def __getattribute__(cls, name: str) -> Any:
        if name in ("__name__", "__qualname__", "__module__", "__mro__"):
            raise RuntimeError("no name")
        return super().__getattribute__(name)

    __instancecheck__ = __subclasscheck__ = _raises(RuntimeError("no class"))


class CuttingText(str):
    """Text that will not be cut."""

    __getitem__ = __str__ = __format__ = encode = _raises(RuntimeError("text"))


class NoTextError(Exception):
    def __str__(self) -> str:
        return 502  # type: ignore[return-value]


class RaisingError(Exception):
    __str__ = __repr__ = _raises(ValueError("printing"))


class ExitingError(Exception):
    __str__ = __repr__ = _raises(SystemExit(3))


class LyingTextError(Exception):
    def __str__(self) -> str:
        return CuttingText("cut me")


class NamelessError(Exception, metaclass=Lying):
    pass


class NoStateError(Exception):
    args = __cause__ = __context__ = __dict__ = __notes__ = __traceback__ = property(
        _raises(KeyError("state"))
    )  # type: ignore[assignment]
    __reduce__ = __reduce_ex__ = _raises(RuntimeError("pickle"))


class ClassError(Exception):
    __class__ = property(_raises(RuntimeError("class")))  # type: ignore[assignment]


class OddModuleError(Exception):
    __module__ = 7  # type: ignore[assignment]


class ArgsError(Exception):
    args = "no tuple"  # type: ignore[assignment]


class AttributesError(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")


class TerminalOfNothingError(TerminalError):
    def __init__(self) -> None:
        """Sets nothing."""

    __str__ = _raises(AttributeError("message"))


ODD = [
    NoTextError(),
    RaisingError(),
    ExitingError(),
    LyingTextError(),
    NamelessError("x"),
    NoStateError("x"),
    ClassError("x"),
    OddModuleError("x"),
    ArgsError("x"),
    AttributesError("x"),
    TerminalOfNothingError(),
    Exception("\ud800"),
    Exception(b"\xff"),
    Exception("x" * 2_000_000),
    Exception(RaisingError()),
    Exception([ExitingError()]),
    BaseExceptionGroup("many", [RaisingError(), KeyboardInterrupt()]),
    SystemExit(3),
    GeneratorExit(),
    MemoryError(),
    StopIteration(3),
    SyntaxError("bad", ("f", "line", object(), "text")),  # type: ignore[call-overload]
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why"),
]


def _wrong(error: BaseException) -> str:
    """What is wrong with how an error is treated, as text: pytest cannot show such errors itself."""
    name = class_name(type(error))
    try:
        line = shown(error)
        failure = Failure.decode(Failure.of(error, {}).encode())
        final = RetryPolicy(retryable=(OSError, NamelessError)).is_final(error)
        checks = {
            "line": line.startswith(name) and len(line.encode()) < 2000,
            "text": len(error_text(error, 10)) <= 40,
            "key": class_key(type(error)).endswith(name),
            "type": failure.error_type == name,
            "traceback": name in failure.traceback or len(failure.traceback) >= MAX_TRACEBACK,
            "rebuilt": type.__subclasscheck__(Exception, type(failure.rebuild({}))),
            "final": final is (type(error) is not NamelessError),
            "delay": asked_delay(error) is None,
        }
    except BaseException as problem:  # noqa: BLE001 - whatever it is, it is wrong
        return f"{name}: {shown(problem)}"
    return ", ".join(what for what, right in checks.items() if not right)


@pytest.mark.parametrize("index", range(len(ODD)))
def test_every_error_can_be_shown_recorded_and_judged(index: int) -> None:
    assert _wrong(ODD[index]) == ""


def test_causes_that_go_round_are_recorded_to_a_depth() -> None:
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    first.__context__ = first
    assert Failure.of(first).cause is not None
    assert cause_of(first) is second
    assert args_of(first) == ("first",)


def test_terminal_errors_are_final_whatever_they_say_of_themselves() -> None:
    policy = RetryPolicy(retryable=Exception)
    assert policy.is_final(TerminalOfNothingError())
    assert is_one_of(TerminalOfNothingError(), (TerminalError,))
    assert not is_one_of(ClassError(), (TerminalError,))


def test_nothing_is_pickled() -> None:
    with pytest.raises(RuntimeError, match="pickle"):
        pickle.dumps(NoStateError())
