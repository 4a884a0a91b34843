# ruff: noqa: DTZ001, DTZ002, DTZ003, DTZ005, DTZ011
"""In development and tests, lines of workflow code that read the clock, take chance or block are named, once each."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date, datetime
from functools import partial
from pathlib import Path
from random import randint
from time import time as now
from typing import Any
from urllib.request import urlopen

import pytest

from romancy_nats import WorkflowContext, activity, workflow
from romancy_nats.core.events import WorkflowStarted
from romancy_nats.core.execution import Execution
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.loop import DeterministicLoop
from romancy_nats.runtime.watchdog import Watchdog
from romancy_nats.runtime.watched_loop import Notices, WatchedLoop


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno == logging.WARNING:
                lines.append(record.getMessage())

    logger, listener = logging.getLogger("romancy.workflow"), Listener()
    logger.addHandler(listener)
    yield lines
    logger.removeHandler(listener)


def step(call: Callable[[], object], *, times: int = 1, watched: bool = True) -> None:
    """Let workflow code make this call, on a loop that watches."""
    notices = Notices()

    @workflow
    async def calling(ctx: WorkflowContext) -> None:
        ctx.logger.info("logging reads the clock for itself")
        for _ in range(times):
            with suppress(Exception):
                call()
        await asyncio.sleep(1)

    loop: Callable[..., DeterministicLoop] = partial(WatchedLoop, notices) if watched else DeterministicLoop
    for id in range(times):
        execution = Execution(calling, InstanceKey("calling", str(id)), loop=loop)
        execution.deliver(WorkflowStarted("calling", calling.parameters.encode(()), calling.code), 1)
        execution.evict()


def _refused() -> None:
    with socket.socket() as one:
        one.connect(("127.0.0.1", 1))


def _thread() -> None:
    thread = threading.Thread(target=str)
    thread.start()
    thread.join()


CALLS: dict[str, tuple[Callable[[], object], str, str]] = {
    "time": (lambda: time.time(), "time.time()", "ctx.now()"),
    "imported": (lambda: now(), "time.time()", "ctx.now()"),
    "time_ns": (lambda: time.time_ns(), "time.time_ns()", "ctx.now()"),
    "monotonic": (lambda: time.monotonic(), "time.monotonic()", "ctx.now()"),
    "perf_counter": (lambda: time.perf_counter(), "time.perf_counter()", "ctx.now()"),
    "datetime.now": (lambda: datetime.now(), "datetime.now()", "ctx.now()"),
    "datetime.utcnow": (lambda: datetime.utcnow(), "datetime.utcnow()", "ctx.now()"),
    "datetime.today": (lambda: datetime.today(), "datetime.today()", "ctx.now()"),
    "date.today": (lambda: date.today(), "date.today()", "ctx.now()"),
    "random": (lambda: random.random(), "random.random()", "ctx.random"),
    "randint": (lambda: random.randint(1, 6), "randint()", "ctx.random"),
    "imported randint": (lambda: randint(1, 6), "randint()", "ctx.random"),
    "choice": (lambda: random.choice([1, 2]), "choice()", "ctx.random"),
    "shuffle": (lambda: random.shuffle([1, 2]), "shuffle()", "ctx.random"),
    "uuid4": (uuid.uuid4, "uuid.uuid4()", "ctx.uuid4()"),
    "uuid1": (lambda: uuid.uuid1(), "uuid.uuid1()", "ctx"),
    "token_hex": (lambda: secrets.token_hex(), "secrets.token_hex()", "ctx.random"),
    "urandom": (lambda: os.urandom(4), "urandom()", "ctx.random"),
    "sleep": (lambda: time.sleep(0), "time.sleep()", "ctx.sleep"),
    "open": (lambda: open(__file__).close(), "open()", "activity"),
    "read_text": (lambda: Path(__file__).read_text(), "read_text()", "activity"),
    "listdir": (lambda: os.listdir("."), "listdir()", "activity"),
    "connect": (_refused, "connect()", "activity"),
    "resolve": (lambda: socket.getaddrinfo("127.0.0.1", 1), "getaddrinfo()", "activity"),
    "urlopen": (lambda: urlopen("http://127.0.0.1:1"), "urlopen()", "activity"),
    "subprocess": (lambda: subprocess.run([sys.executable, "-c", ""], check=False), "run()", "activity"),
    "sqlite": (lambda: sqlite3.connect(":memory:").close(), "connect()", "activity"),
    "thread": (_thread, "start()", "activity"),
}


@pytest.mark.parametrize(("call", "name", "instead"), CALLS.values(), ids=CALLS)
def test_a_call_is_named_with_its_line_and_what_to_use_instead(
    call: Callable[[], object], name: str, instead: str, told: list[str]
) -> None:
    step(call, times=3)
    lines = [line for line in told if name in line]
    assert len(lines) == 1, told
    assert lines[0].startswith(f"{__file__}:")
    assert instead in lines[0]


def _seeded() -> object:
    return random.Random(1).random()


def _imports() -> object:
    sys.modules.pop("this", None)
    sys.modules.pop("colorsys", None)
    import colorsys

    return colorsys


INNOCENT: dict[str, Callable[[], object]] = {
    "a seeded generator": _seeded,
    "a date": lambda: datetime(2026, 1, 1).isoformat(),
    "an import": _imports,
    "a log line": lambda: logging.getLogger("romancy.test").warning("careful"),
    "a uuid of a name": lambda: uuid.uuid5(uuid.NAMESPACE_DNS, "x"),
    "an uuid of text": lambda: uuid.UUID("12345678123456781234567812345678"),
    "loop.time": lambda: asyncio.get_running_loop().time(),
    "methods of the same name": lambda: ("a".replace("a", "b"), [].sort(), {}.get("now")),
}


@pytest.mark.parametrize("call", INNOCENT.values(), ids=INNOCENT)
def test_what_is_no_fault_is_not_named(call: Callable[[], object], told: list[str]) -> None:
    step(call)
    assert told == []


def test_the_context_of_the_workflow_gives_no_warning(told: list[str]) -> None:
    @activity
    async def greet(name: str) -> str:
        return name

    @workflow
    async def good(ctx: WorkflowContext) -> list[Any]:
        ctx.emit({"a": 1}, durable=True)
        found = [ctx.now(), ctx.uuid4(), ctx.random.randint(1, 6), ctx.random.random()]
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                await ctx.receive("never")
        await asyncio.gather(greet("x"), ctx.run(greet, "y"))
        raise LookupError(found)

    loop = partial(WatchedLoop, Notices())
    execution = Execution(good, InstanceKey("good", "x"), loop=loop)
    execution.deliver(WorkflowStarted("good", good.parameters.encode(()), good.code), 1)
    assert isinstance(execution.following().state.loop, WatchedLoop)
    execution.evict()
    assert told == []


def test_a_loop_that_does_not_watch_says_nothing(told: list[str]) -> None:
    step(lambda: time.time(), watched=False)
    assert told == []
    assert sys.getprofile() is None


def test_a_profiler_that_runs_already_is_left_alone(told: list[str]) -> None:
    seen: list[str] = []
    sys.setprofile(lambda frame, event, arg: seen.append(event))
    try:
        step(lambda: time.time())
        assert sys.getprofile() is not None
    finally:
        sys.setprofile(None)
    assert told == []
    assert seen


async def test_the_watchdog_names_the_line_of_workflow_code_that_blocks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def blocks() -> None:
        end = time.monotonic() + 5
        while not caplog.messages and time.monotonic() < end:
            time.sleep(0.01)

    with Watchdog(0.05):
        await asyncio.sleep(0)
        step(blocks, watched=False)
    [line] = [line for line in caplog.messages if "is blocked" in line]
    assert f"{__file__}:" in line
    assert "this is workflow code" in line
