"""Whether a replay fits its history (L7), and what to say when not: expected, produced, and the source line."""

from __future__ import annotations

import asyncio
import linecache
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from romancy_nats.core.differing import differing_arguments, equal_values, same_value, shortened_text
from romancy_nats.core.events import EVENTS, Command
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.parameters import Parameters
from romancy_nats.errors import DeterminismError

_log = logging.getLogger("romancy.workflow")
_WARNED = 10_000
"""How many instances are remembered as warned about."""
_HERE = str(Path(__file__).resolve().parent.parent)
_LONGEST_TRACEBACK = 2_000
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
    """Whether a produced command is the recorded one by its identity; its input is compared by `same_input`."""
    if type(expected) is not type(produced):
        return False
    identity = EVENTS[type(expected)].identity
    return [getattr(expected, field) for field in identity] == [
        getattr(produced, field) for field in identity
    ]


def same_input(expected: Command, produced: Command, parameters: Parameters) -> bool:
    """Whether the input of a produced command is the recorded one, as a value under the present code.

    What was recorded is decoded and encoded again, so a parameter or model field that was added with a default makes no
    difference, nor does an older encoding or the order of a dict. `parameters` is what the input is the input of.
    """
    recorded, given = _input(expected), _input(produced)
    if recorded == given:
        return True
    try:
        # Without converting it again: a converter gives another value for what it has converted.
        present = parameters.renewed(recorded)
        # Bytes first, which need no class of the user; a model also says in them which of its fields were set.
        return (
            present == given
            or equal_values(present, given)
            or same_value(parameters.decode(present), parameters.decode(given))
        )
    except Exception:  # noqa: BLE001 - classes of the user are rebuilt and compared here: what they refuse is not the same
        return False


def _input(command: Command) -> bytes:
    field = EVENTS[type(command)].input
    value: bytes = getattr(command, field) if field else b""
    return value


def other_input(
    where: str,
    position: tuple[int, int],
    commands: tuple[Command, Command],
    parameters: Parameters,
    place: str,
) -> DeterminismError:
    """The error for a command that is the recorded one, but for its input: `commands` is (expected, produced)."""
    commit, event = position
    expected, produced = commands
    recorded, given = _input(expected), _input(produced)
    differing = differing_arguments(recorded, given, parameters.names)
    want = f"{describe(expected)} with {', '.join(f'{name}={was}' for name, was, _ in differing)}"
    got = f"{describe(produced)} with {', '.join(f'{name}={now}' for name, _, now in differing)}"
    text = (
        f"{where}: the code gives a recorded command another input (commit {commit}, event {event})\n"
        f"- expected: {want}\n"
        f"+ produced: {got}{_at(place)}\n"
        f"{_unreadable(recorded, parameters)}"
        "The order of a set, the clock or chance may have decided it: sort the set, use ctx.now(), ctx.random or "
        "ctx.uuid4(). If the code was changed, run a version that gives the recorded input; then retry. "
        'App(inputs="warn") goes on with what was recorded.'
    )
    return DeterminismError(text, position=commit, expected=want, produced=got)


def _unreadable(recorded: bytes, parameters: Parameters) -> str:
    try:
        parameters.decode(recorded)
    except Exception as error:  # noqa: BLE001 - as above
        return f"The present code cannot read the recorded input: {shortened_text(error)}\n"
    return ""


class InputRule:
    """What happens when code gives a recorded command another input: a stall, or a warning once per instance."""

    def __init__(self, *, stalls: bool = True) -> None:
        self.stalls = stalls
        self._warned: dict[InstanceKey, None] = {}

    def apply(self, key: InstanceKey, error: DeterminismError) -> None:
        """Raise the error, or log it the first time."""
        if self.stalls:
            raise error
        if key not in self._warned:
            if len(self._warned) >= _WARNED:
                del self._warned[next(iter(self._warned))]
            self._warned[key] = None
            _log.warning("goes on with what was recorded (inputs='warn'): %s", error)


def mismatch(
    where: str,
    position: tuple[int, int],
    expected: Command | None,
    produced: Command | None,
    place: str,
    raised: str = "",
) -> DeterminismError:
    """The error for the first command that differs. `position` is (commit, event) in the history.

    `raised` is the traceback of what the code raises now, where it did not before.
    """
    commit, event = position
    advice = (
        "Restore the old order of calls, or run a version of the code that replays this history; then retry."
    )
    if raised:
        advice = (
            f"The likely cause is what the code raises now:\n{raised[-_LONGEST_TRACEBACK:].rstrip()}\n"
            "Let it read what was recorded (a new field takes a default), or run the version before; then retry."
        )
    want, got = describe(expected), describe(produced)
    text = (
        f"{where}: the code no longer gives the commands of its history (commit {commit}, event {event})\n"
        f"- expected: {want}\n"
        f"+ produced: {got}{_at(place)}\n"
        f"{advice}"
    )
    return DeterminismError(text, position=commit, expected=want, produced=got)


def _at(place: str) -> str:
    if not place:
        return ""
    file, _, rest = place.partition(":")
    line = rest.split(" ", 1)[0]
    source = linecache.getline(file, int(line)).strip() if line.isdigit() else ""
    return f"\n  at {place}" + (f"\n     {source}" if source else "")
