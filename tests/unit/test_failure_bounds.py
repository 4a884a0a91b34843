"""Whatever an error carries, its record is small, and its class and the beginning of its message are there."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import pytest

from romancy_nats.core.failure import MAX_BYTES, Failure
from romancy_nats.core.limits import shortened
from romancy_nats.errors import RetryExhaustedError, TerminalError

MEGABYTES = 2_000_000
SMALL = 6_000
"""What a server for messages of 64 KiB leaves for a failure."""


class ImportFailed(Exception):  # noqa: N818
    """Carries one line for each bad row, as such errors do."""

    def __init__(self, rows: int) -> None:
        super().__init__(*(f"row {n}: {'?' * 500}" for n in range(rows)))


class HasAttributes(Exception):  # noqa: N818
    def __init__(self, message: str, **attributes: object) -> None:
        super().__init__(message)
        self.__dict__.update(attributes)


class Declined(TerminalError):  # noqa: N818
    def __init__(self, message: str, answer: bytes) -> None:
        super().__init__(message)
        self.answer = answer
        self.code = 402


class WithManySlots(Exception):  # noqa: N818
    __slots__ = tuple(f"s{n}" for n in range(500))


class LyingText(str):
    def isascii(self) -> bool:
        return True

    def __getitem__(self, item: object) -> str:
        raise RuntimeError("no")


class SpeaksOddly(Exception):  # noqa: N818
    def __str__(self) -> str:
        return LyingText("é" * MEGABYTES)


class EndsTheProcess(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise SystemExit(3)


class HasNoState(Exception):  # noqa: N818
    @property
    def __dict__(self) -> dict[str, object]:  # type: ignore[override]
        raise KeyboardInterrupt


class LiesAboutItself(Exception):  # noqa: N818
    args = property(lambda self: 1 / 0)  # type: ignore[assignment]
    __cause__ = property(lambda self: 1 / 0)  # type: ignore[assignment]
    __notes__ = property(lambda self: 1 / 0)


REGISTERED: dict[str, type[BaseException]] = {
    f"{cls.__module__}.{cls.__qualname__}": cls
    for cls in (
        ImportFailed,
        HasAttributes,
        WithManySlots,
        SpeaksOddly,
        EndsTheProcess,
        HasNoState,
        LiesAboutItself,
    )
}


def chained(most: int, message: str = "x") -> Exception:
    error: Exception = ValueError(message)
    for number in range(most):
        outer = HasAttributes(f"{number} {message}", number=number)
        outer.__cause__ = error
        error = outer
    return error


def noted(note: str) -> Exception:
    error = ValueError("x")
    for _ in range(5):
        error.add_note(note)
    return error


def nested_groups(depth: int, width: int) -> Exception:
    if not depth:
        return ValueError("leaf " * 100)
    return ExceptionGroup(f"level {depth}", [nested_groups(depth - 1, width) for _ in range(width)])


def recursed() -> Exception:
    def deeper(n: int) -> None:
        deeper(n + 1)

    before = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        deeper(0)
    except RecursionError as error:
        return error
    finally:
        sys.setrecursionlimit(before)
    raise AssertionError


def not_json() -> Exception:
    try:
        json.loads("?" * MEGABYTES)
    except json.JSONDecodeError as error:
        return error
    raise AssertionError


CASES: dict[str, Callable[[], Exception]] = {
    "a message of 2 MB": lambda: ValueError("x" * MEGABYTES),
    "a message of 2 MB that is not ASCII": lambda: ValueError("日" * MEGABYTES),
    "args of 4,000 x 500 bytes": lambda: ImportFailed(4_000),
    "an arg of 2 MB that is no text": lambda: ValueError(b"x" * MEGABYTES),
    "an arg of 100,000 numbers": lambda: ValueError(list(range(100_000))),
    "a number of 100,000 digits": lambda: ValueError(1 << 400_000),
    "an attribute of 2 MB": lambda: HasAttributes("x", rows=["?" * 1000] * 2_000),
    "10,000 attributes": lambda: HasAttributes("x", **{f"a{n}": n for n in range(10_000)}),
    "attributes of 2 MB and a small one": lambda: HasAttributes("x", rows="?" * MEGABYTES, code=7),
    "many slots": lambda: WithManySlots("x"),
    "a terminal error": lambda: Declined("no", b"?" * MEGABYTES),
    "50 nested causes": lambda: chained(50),
    "50 nested causes of 100 kB": lambda: chained(50, "?" * 100_000),
    "a group of 1,000": lambda: ExceptionGroup("all", [ValueError(f"{n} " * 100) for n in range(1000)]),
    "a group with a long message": lambda: ExceptionGroup("x" * MEGABYTES, [ValueError("y")]),
    "groups in groups": lambda: nested_groups(4, 8),
    "a last error of 2 MB": lambda: RetryExhaustedError("a", 3, ImportFailed(4_000)),
    "recursion": recursed,
    "notes of 2 MB": lambda: noted("n" * MEGABYTES),
    "notes": lambda: noted("a\ud800b"),
    "lone surrogates": lambda: HasAttributes("a\ud800b" * 100_000, text="\udfff" * 100_000),
    "control characters": lambda: ValueError("\x00\x1b[31m\r\n\u2028" * 100_000),
    "text that is a subclass": lambda: SpeaksOddly("x"),
    "bytes that are not UTF-8": lambda: UnicodeDecodeError("utf-8", b"\xff" * MEGABYTES, 0, 1, "bad"),
    "text that is not ASCII": lambda: UnicodeEncodeError("ascii", "é" * MEGABYTES, 0, 1, "bad"),
    "a line of source of 2 MB": lambda: SyntaxError("bad", ("f.py", 1, 2, "x" * MEGABYTES, 1, 3)),
    "a path of 2 MB": lambda: OSError(36, "File name too long", "x" * MEGABYTES),
    "JSON of 2 MB": not_json,
    "a text that ends the process": lambda: EndsTheProcess("x"),
    "no state": lambda: HasNoState("x"),
    "an error that lies": lambda: LiesAboutItself("x"),
}


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as found:  # noqa: BLE001
        return found


@pytest.mark.parametrize("most", [MAX_BYTES, SMALL])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_class_stays_and_the_record_is_small(case: Callable[[], Exception], most: int) -> None:
    error = raised(case())
    failure = Failure.of(error, REGISTERED, most=most)
    data = failure.encode()
    assert len(data) <= most
    assert failure.error_type == type(error).__name__
    again = Failure.decode(data)
    assert again == failure
    json.dumps(again.message).encode()
    again.message.encode()
    again.traceback.encode()
    if not isinstance(error, json.JSONDecodeError):
        rebuilt = again.rebuild(REGISTERED)
        assert type(rebuilt) is type(error)
        Failure.of(rebuilt, REGISTERED, most=most)


@pytest.mark.parametrize("rows", [10, 4_000])
def test_the_beginning_of_the_message_is_there(rows: int) -> None:
    failure = Failure.of(raised(ImportFailed(rows)), REGISTERED)
    assert failure.message.startswith("('row 0: ???")
    assert "in raised" in failure.traceback
    rebuilt = failure.rebuild(REGISTERED)
    assert rebuilt.args[0].startswith("row 0: ???")


def test_a_large_attribute_takes_the_place_of_no_small_one(caplog: pytest.LogCaptureFixture) -> None:
    error = HasAttributes("x", rows="?" * MEGABYTES, code=7)
    rebuilt = Failure.of(error, REGISTERED).rebuild(REGISTERED)
    assert getattr(rebuilt, "code", None) == 7
    assert not hasattr(rebuilt, "rows")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "attribute rows (2,000," in record.getMessage()
    caplog.clear()
    Failure.of(error, REGISTERED, quiet=True)
    Failure.of(HasAttributes("x", connection=object()), REGISTERED)
    assert caplog.records == []


def test_the_stack_of_a_recursion_shows_both_ends() -> None:
    text = Failure.of(recursed()).traceback
    assert "in recursed" in text
    assert "frames left out" in text
    assert text.rstrip().endswith("RecursionError: maximum recursion depth exceeded")


def test_causes_keep_their_classes() -> None:
    rebuilt: BaseException | None = Failure.of(chained(50, "?" * 100_000), REGISTERED).rebuild(REGISTERED)
    for _ in range(5):
        assert type(rebuilt) is HasAttributes
        rebuilt = rebuilt.__cause__


@pytest.mark.parametrize(
    "text", ["", "abc", "x" * 50, "é" * 50, "日本" * 20, "a\ud800" * 30, "😀" * 9, "x" * 39 + "é"]
)
def test_shortened(text: str) -> None:
    found = shortened(text, 40)
    assert len(found.encode()) <= 40
    spelled = text.encode("utf-8", "backslashreplace").decode()
    assert found == spelled or (found.endswith("...") and spelled.startswith(found[:-3]))
    assert (found == spelled) == (len(spelled.encode()) <= 40)
