"""For development and tests: names the lines of workflow code that read the clock, take chance, or block.

Active only on a loop of this class, and only while it steps; a worker in production never makes one. The interpreter's
profile hook sees each call of a built-in function, so nothing is patched, however a name was imported.
"""

from __future__ import annotations

import datetime
import logging
import os
import random
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from romancy_nats.core.loop import DeterministicLoop

_log = logging.getLogger("romancy.workflow")
_HERE = str(Path(__file__).resolve().parent.parent) + os.sep
_STDLIB = tuple({sysconfig.get_path("stdlib") + os.sep, sysconfig.get_path("platstdlib") + os.sep})
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_INNOCENT = frozenset(
    {"logging", "warnings", "traceback", "linecache", "inspect", "tokenize", "importlib", "zipimport"}
)
"""Parts of the standard library that use files or the clock for themselves; an import, too, is not the workflow's."""
_REMEMBERED = 1_000


class _Kind(NamedTuple):
    """What is wrong with a call, and what to use instead."""

    wrong: str
    blocks: bool


_CLOCK = _Kind("differs in replay; use ctx.now()", blocks=False)
_CHANCE = _Kind("differs in replay; use ctx.random or ctx.uuid4()", blocks=False)
_SLEEP = _Kind("blocks the worker with all its instances; use `await ctx.sleep(…)`", blocks=True)
_IO = _Kind(
    "blocks the worker with all its instances, and happens again in replay; do it in an activity", blocks=True
)
_THREAD = _Kind("begins a thread, whose work no history records; do it in an activity", blocks=True)

_CLOCKS = ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time")
_SOCKET = ("connect", "connect_ex", "accept", "send", "sendall", "sendto", "recv", "recv_into", "recvfrom")
_FILES = ("open", "listdir", "scandir", "stat", "unlink", "rename", "replace", "mkdir", "rmdir")
_BY_MODULE: dict[str, dict[str, _Kind]] = {
    "time": {**dict.fromkeys(_CLOCKS, _CLOCK), "sleep": _SLEEP},
    "posix": {
        "urandom": _CHANCE,
        "getrandom": _CHANCE,
        "system": _IO,
        "fork": _IO,
        **dict.fromkeys(_FILES, _IO),
    },
    "nt": {"urandom": _CHANCE, "system": _IO, **dict.fromkeys(_FILES, _IO)},
    "_uuid": {"generate_time_safe": _CHANCE},
    "io": {"open": _IO},
    "_io": {"open": _IO},
    "builtins": {"input": _IO},
    "_socket": dict.fromkeys(("getaddrinfo", "gethostbyname", "gethostbyaddr"), _IO),
    "_posixsubprocess": {"fork_exec": _IO},
    "_winapi": {"CreateProcess": _IO},
    "_sqlite3": {"connect": _IO},
    "sqlite3": {"connect": _IO},
    "_thread": dict.fromkeys(("start_new_thread", "start_joinable_thread"), _THREAD),
}
"""Functions of modules that are written in C."""
_DATES = frozenset({"now", "utcnow", "today"})
_DICE = frozenset({"random", "getrandbits", "seed"})
_SHARED_DICE: object = getattr(random, "_inst", None)
_NAMES = frozenset({name for names in _BY_MODULE.values() for name in names} | _DATES | _DICE | {*_SOCKET})


def _kind(function: Any) -> _Kind | None:
    """What is wrong with calling this built-in function; None for most of them."""
    name = function.__name__
    if name not in _NAMES:
        return None
    module = _BY_MODULE.get(getattr(function, "__module__", None) or "")
    if module is not None and name in module:
        return module[name]
    owner = function.__self__
    if isinstance(owner, type):
        return _CLOCK if name in _DATES and issubclass(owner, datetime.date) else None
    if owner is _SHARED_DICE:
        return _CHANCE if name in _DICE else None
    return _IO if name in _SOCKET and "socket" in type(owner).__module__ else None


class Notices:
    """The lines that were reported: each once."""

    def __init__(self) -> None:
        self._reported: set[tuple[str, int, str]] = set()

    def profile(self, frame: FrameType, event: str, function: Any) -> None:
        """Called by the interpreter for each call while a step runs."""
        if event == "c_call" and (kind := _kind(function)) is not None:
            self._look_at(frame, function, kind)

    def _look_at(self, frame: FrameType, function: Any, kind: _Kind) -> None:
        called = (
            f"{getattr(function, '__module__', None) or type(function.__self__).__name__}.{function.__name__}"
        )
        if isinstance(function.__self__, type):
            called = f"{function.__self__.__name__}.{function.__name__}"
        elif function.__self__ is _SHARED_DICE:
            called = f"random.{function.__name__}"
        at: FrameType | None = frame
        inner: FrameType | None = None
        while at is not None:
            where = at.f_code.co_filename
            module = str(at.f_globals.get("__name__", ""))
            if (
                where.startswith(_HERE)
                or module.partition(".")[0] in _INNOCENT
                or where.startswith("<frozen imp")
            ):
                return
            installed = any(part in where for part in _INSTALLED)
            if installed and not kind.blocks:
                # The clock of a library, for its own log perhaps: only what workflow code asks for itself counts.
                return
            if not installed and not where.startswith((*_STDLIB, "<frozen ")):
                break
            called, inner = f"{module}.{at.f_code.co_qualname}", at
            at = at.f_back
        at = at or inner
        if at is not None:
            self._report(at.f_code.co_filename, at.f_lineno, at.f_code.co_name, called, kind)

    def _report(self, file: str, line: int, function: str, called: str, kind: _Kind) -> None:
        place = (file, line, called)
        if place not in self._reported and len(self._reported) < _REMEMBERED:
            self._reported.add(place)
            _log.warning("%s:%d in %s: %s() in workflow code %s", file, line, function, called, kind.wrong)


class WatchedLoop(DeterministicLoop):
    """A deterministic loop that reports what its code should not call."""

    def __init__(self, notices: Notices, **options: Any) -> None:
        super().__init__(**options)
        self._notices = notices

    def _run_ready(self) -> None:
        previous: Callable[..., object] | None = sys.getprofile()
        if previous is not None:
            # Somebody measures this program; that is not disturbed.
            super()._run_ready()
            return
        sys.setprofile(self._notices.profile)
        try:
            super()._run_ready()
        finally:
            sys.setprofile(None)
