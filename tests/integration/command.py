"""The romancy command as a process of its own, forked from one that has imported it: a start of it costs 0.7 s of CPU.

All else is as in a shell: arguments, environment, folder, standard streams, exit code, the end of the interpreter.
What the environment tells Python itself (PYTHONHASHSEED, say) has no effect: such tests start a real one.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

_PARENT = """
import gc, json, os, runpy, sys
import romancy_nats.cli.main

gc.freeze()

for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if child == 0:
        os.setsid()
        for number, name, flags in (
            (0, "stdin", os.O_RDONLY), (1, "stdout", os.O_WRONLY), (2, "stderr", os.O_WRONLY)
        ):
            file = os.open(os.path.join(request["streams"], name), flags)
            os.dup2(file, number)
            os.close(file)
        sys.stdin = open(0, encoding="utf-8", closefd=False)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.path[0] = request["folder"]
        sys.argv = ["romancy", *request["arguments"]]
        sys.orig_argv = [sys.executable, "-m", "romancy_nats", *request["arguments"]]
        runpy.run_module("romancy_nats", run_name="__main__", alter_sys=True)
        sys.exit()
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class _Parent:
    """The process that is forked, one command at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        atexit.register(self.end)

    def run(self, request: Mapping[str, object], timeout: float) -> int:
        """Run one command; returns its exit code. Raises TimeoutError, and kills it, after `timeout` seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        child = self._answer(30.0)
        try:
            return self._answer(timeout)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            self._answer(30.0)
            raise

    def _answer(self, timeout: float) -> int:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(timeout):
                raise TimeoutError
        return int(self._process.stdout.readline())

    def end(self) -> None:
        """End the process; what it runs is killed."""
        self._process.kill()
        self._process.wait()


@cache
def _parent() -> _Parent:
    return _Parent()


def romancy(
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    stdin: str = "",
    timeout: float = 60.0,
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    with tempfile.TemporaryDirectory() as name:
        streams = {stream: Path(name) / stream for stream in ("stdin", "stdout", "stderr")}
        for file in streams.values():
            file.write_text(stdin if file.name == "stdin" else "", encoding="utf-8")
        request = {
            "arguments": list(arguments),
            "folder": str(folder),
            "environment": dict(environment),
            "streams": name,
        }
        code = _parent().run(request, timeout)
        out, err = (streams[stream].read_text(encoding="utf-8") for stream in ("stdout", "stderr"))
    return subprocess.CompletedProcess(list(arguments), code, out, err)
