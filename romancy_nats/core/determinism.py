"""What to say when a replay does not fit its history (L7): expected and produced command, and the source line."""

from __future__ import annotations

import asyncio
import linecache
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from romancy_nats.core.events import EVENTS, Command
from romancy_nats.errors import DeterminismError

_HERE = str(Path(__file__).resolve().parent.parent)
_ASYNCIO = str(Path(sys.modules["asyncio"].__file__ or "").parent)


def calling_place() -> str:
    """`file:line in function` of the nearest caller that is neither this package nor asyncio."""
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((_HERE, _ASYNCIO)):
            return f"{file}:{frame.f_lineno} in {frame.f_code.co_name}"
        frame = frame.f_back
    return ""


def resting_place(root: asyncio.Task[None] | None, code: Callable[..., object]) -> str:
    """Where the workflow function waits. A task's own stack ends at its root, so the chain of awaits is walked."""
    waiting: object = root.get_coro() if root is not None else None
    while waiting is not None:
        frame: FrameType | None = getattr(waiting, "cr_frame", None)
        if frame is not None and frame.f_code is getattr(code, "__code__", None):
            return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
        waiting = getattr(waiting, "cr_await", None)
    return ""


def describe(command: Command | None) -> str:
    """A command in one line, as the diff shows it."""
    if command is None:
        return "nothing"
    name = type(command).__name__
    shown = [
        f"{field}={value!r}" for field in EVENTS[type(command)].identity if (value := getattr(command, field))
    ]
    return f"{name}({', '.join(shown)})" if shown else name


def same(expected: Command, produced: Command) -> bool:
    """Whether a produced command is the recorded one; values (inputs, results) may differ, identity may not."""
    if type(expected) is not type(produced):
        return False
    identity = EVENTS[type(expected)].identity
    return [getattr(expected, field) for field in identity] == [
        getattr(produced, field) for field in identity
    ]


def mismatch(
    where: str, position: tuple[int, int], expected: Command | None, produced: Command | None, place: str
) -> DeterminismError:
    """The error for the first command that differs. `position` is (commit, event) in the history."""
    commit, event = position
    want, got = describe(expected), describe(produced)
    text = (
        f"{where}: the code no longer gives the commands of its history (commit {commit}, event {event})\n"
        f"- expected: {want}\n"
        f"+ produced: {got}{_at(place)}\n"
        "Restore the old order of calls, or run a version of the code that replays this history; then retry."
    )
    return DeterminismError(text, position=commit, expected=want, produced=got)


def _at(place: str) -> str:
    if not place:
        return ""
    file, _, rest = place.partition(":")
    line = rest.split(" ", 1)[0]
    source = linecache.getline(file, int(line)).strip() if line.isdigit() else ""
    return f"\n  at {place}" + (f"\n     {source}" if source else "")
