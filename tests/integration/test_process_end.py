"""The end of `romancy worker` and `romancy dev` as processes: whatever runs in them, a signal ends them in time."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import anyio
import pytest

from romancy_nats import Client
from romancy_nats.jetstream.server import LocalServer
from tests.integration.place import Place

pytestmark = [pytest.mark.anyio, pytest.mark.long]

APP = """
import asyncio, os, re, sys, threading, time
from contextlib import asynccontextmanager
from pathlib import Path
from romancy_nats import App, Client, WorkflowContext, activity, workflow

WHAT = os.environ["WHAT"]

def here():
    Path(os.environ["HERE"]).write_text("")

@activity
def blocked_thread() -> None:
    here()
    time.sleep(300)

@activity
async def blocked_executor() -> None:
    here()
    await asyncio.to_thread(time.sleep, 300)

@activity
async def foreign_thread() -> None:
    threading.Thread(target=time.sleep, args=[300], name="theirs").start()
    here()
    await asyncio.sleep(300)

@activity
async def swallows() -> None:
    here()
    while True:
        try:
            await asyncio.sleep(300)
        except BaseException:
            pass

@activity
async def blocked_loop() -> None:
    here()
    time.sleep(300)

@activity
async def busy_loop() -> None:
    here()
    while True:
        pass

@activity
async def connects() -> None:
    async with Client.connect() as client:
        print("seen by an activity:", [info.workflow async for info in client.list()])

@activity
async def quiet() -> None:
    here()
    await asyncio.sleep(300)

@workflow(name=WHAT)
async def it(ctx: WorkflowContext) -> None:
    if WHAT == "blocked_code":
        here()
        time.sleep(300)
    await ctx.run(globals().get(WHAT, quiet))

@asynccontextmanager
async def lifespan():
    if WHAT == "opens_slowly":
        here()
        await asyncio.sleep(300)
    if WHAT == "connects":
        async with Client.connect() as client:
            assert [info async for info in client.list()] == []
        shown = "import os; print('child', os.environ['ROMANCY_NATS_URL'], os.environ['ROMANCY_NAMESPACE'])"
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", shown)
        await process.wait()
    if WHAT == "does_not_open":
        raise OSError("no database")
    yield
    if WHAT == "does_not_close":
        await asyncio.sleep(300)
    if WHAT == "closes_blocked":
        time.sleep(300)
    if WHAT == "closes_badly":
        raise OSError("the pool is gone")
    print("closed")

if WHAT == "imports_slowly":
    here()
    time.sleep(300)

app = App("end", workflows=[it], lifespan=lifespan)
"""


class Running:
    """A command in a folder of its own, and a file that appears when it is where a test wants it."""

    def __init__(self, folder: Path, what: str, url: str, namespace: str, *command: str, **env: str) -> None:
        folder.mkdir()
        (folder / "end.py").write_text(APP)
        self.here, self.log = folder / "here", folder / "log"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ROMANCY_")}
        kept |= {"WHAT": what, "HERE": str(self.here), "ROMANCY_SHARDS": "2", "PYTHONHASHSEED": "0"}
        kept |= {"ROMANCY_NAMESPACE": namespace, "ROMANCY_NATS_URL": url, "ROMANCY_GRACE": "0.2", **env}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "romancy_nats", *(command or ("worker", "end:app"))],
                cwd=folder,
                env={name: value for name, value in kept.items() if value},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def told(self) -> str:
        return self.log.read_text()

    async def until(self, condition: Callable[[], object], within: float = 90.0) -> None:
        end = time.monotonic() + within
        while not condition():
            assert time.monotonic() < end, self.told()
            assert self.process.poll() is None, self.told()
            await anyio.sleep(0.02)

    async def ended(self, within: float = 60.0) -> int:
        return await anyio.to_thread.run_sync(self.process.wait, within)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


Start = Callable[..., Running]


@pytest.fixture
def start(place: Place, tmp_path: Path, stack: ExitStack) -> Start:
    def start(what: str, *command: str, **env: str) -> Running:
        folder = tmp_path / f"{what}-{len(list(tmp_path.iterdir()))}"
        running = Running(folder, what, env.pop("url", place.url), place.namespace, *command, **env)
        stack.callback(running.process.wait)
        stack.callback(running.process.kill)
        return running

    return start


async def at_work(client: Client, running: Running, what: str) -> None:
    await client.start(what)
    await running.until(running.here.exists)


# Each: what runs, the exit code, what is said, seconds from the signal to the end. The drain itself is quick; what
# cannot be stopped has its own bound.
HELD_UP: dict[str, tuple[int, str, float]] = {
    "quiet": (0, "drained", 4),
    "blocked_thread": (0, "drained", 4),
    "blocked_executor": (0, r"these threads still run: (asyncio|uvloop)_0 in ", 5),
    "foreign_thread": (0, r"these threads still run: theirs in ", 5),
    "swallows": (0, r"attempt 1 does not end; the worker ends without it", 9),
    "blocked_loop": (1, r"the event loop is blocked by blocked_loop \(.*end\.py:", 9),
    "busy_loop": (1, r"the event loop is blocked by busy_loop \(.*end\.py:", 9),
    "blocked_code": (1, r"the event loop is blocked by it \(.*end\.py:", 9),
    "does_not_close": (1, r"the lifespan did not close within 5 s", 9),
    "closes_blocked": (1, r"the lifespan did not close within 5 s: lifespan \(.*end\.py:", 9),
    "closes_badly": (1, "OSError: the pool is gone", 4),
}


CLOSES = ("quiet", "swallows", "blocked_thread", "blocked_executor", "foreign_thread")


FEW = ["quiet", "blocked_thread", "swallows", "blocked_loop", "does_not_close"]
MANY = [what for what in HELD_UP if what not in FEW]


@pytest.mark.slow
@pytest.mark.parametrize(
    "cases",
    [FEW, pytest.param(MANY[:3], marks=pytest.mark.long), pytest.param(MANY[3:], marks=pytest.mark.long)],
)
async def test_a_signal_ends_a_worker_whatever_holds_it_up(
    start: Start, place: Place, cases: list[str]
) -> None:
    async def one(client: Client, what: str, number: int) -> None:
        running = start(what)
        await running.until(lambda: " serves " in running.told())
        await at_work(client, running, what)
        running.process.send_signal(number)
        began = time.monotonic()
        code, text, within = HELD_UP[what]
        found = await running.ended(), bool(re.search(text, running.told()))
        assert found == (code, True), f"{what}: {running.told()}"
        assert time.monotonic() - began < within + 5, what
        assert "Traceback" not in running.told()
        assert ("closed" in running.told()) is (what in CLOSES)

    async with place.client() as client, anyio.create_task_group() as group:
        for at, what in enumerate(cases):
            group.start_soon(one, client, what, (signal.SIGTERM, signal.SIGINT)[at % 2])


async def test_what_was_let_go_of_runs_on_another_worker_at_once(start: Start, place: Place) -> None:
    async with place.client() as client:
        first = start("swallows")
        await first.until(lambda: " serves " in first.told())
        await at_work(client, first, "swallows")
        second = start("swallows")
        await second.until(lambda: " serves " in second.told())
        first.process.send_signal(signal.SIGTERM)
        await second.until(second.here.exists, within=8)
        assert await first.ended() == 0


@pytest.mark.parametrize("what", ["imports_slowly", "opens_slowly"])
async def test_a_signal_before_the_worker_is_there(start: Start, what: str) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        running = start(what)
        await running.until(running.here.exists)
        running.process.send_signal(number)
        assert await running.ended(8) == 0, running.told()
        assert "Traceback" not in running.told()


async def test_a_second_signal_ends_it_at_once(start: Start, place: Place) -> None:
    async with place.client() as client:
        for what, number in (("quiet", signal.SIGTERM), ("blocked_loop", signal.SIGINT)):
            running = start(what, ROMANCY_GRACE="60")
            await running.until(lambda running=running: " serves " in running.told())
            await at_work(client, running, what)
            running.process.send_signal(signal.SIGTERM)
            await anyio.sleep(0.3)
            assert running.process.poll() is None, running.told()
            running.process.send_signal(number)
            assert await running.ended(4) == 128 + number
            assert "ended at once by a second signal" in running.told()


@pytest.mark.slow
async def test_a_signal_while_the_server_is_gone(start: Start) -> None:
    with LocalServer(sync_always=False) as server:
        running = start("quiet", url=server.url)
        await running.until(lambda: " serves " in running.told())
        server.kill()
        await running.until(lambda: "lost the connection" in running.told())
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended(30) == 0, running.told()
    assert "Traceback" not in running.told()


async def test_a_lifespan_that_does_not_open_is_told_in_a_line(start: Start) -> None:
    running = start("does_not_open")
    assert await running.ended() == 1
    assert running.told().splitlines()[-1].startswith("romancy: OSError: no database (at ")
    assert "Traceback" not in running.told()


async def test_dev_ends_with_its_result_although_a_thread_is_blocked(start: Start) -> None:
    running = start("blocked_thread", "dev", "end:app", "--run", "blocked_thread", url="")
    await running.until(running.here.exists)
    running.process.send_signal(signal.SIGTERM)
    assert await running.ended(15) == 0, running.told()


async def test_under_dev_the_lifespan_activities_and_children_find_the_server(start: Start) -> None:
    running = start("connects", "dev", "end:app", "--run", "connects", url="")
    assert await running.ended() == 0, running.told()
    child = re.search(r"^child (nats://127\.0\.0\.1:\d+) (\w+)$", running.told(), re.MULTILINE)
    assert child is not None, running.told()
    assert "seen by an activity: ['connects']" in running.told()


async def test_a_worker_without_a_url_refuses(start: Start) -> None:
    running = start("quiet", url="")
    assert await running.ended() == 2
    [line] = running.told().splitlines()
    assert line.startswith("romancy: no server: say --url or set ROMANCY_NATS_URL")
    assert "`romancy dev`" in line
    assert not (running.log.parent / ".romancy").exists()


NO_JETSTREAM = "accounts { A { users: [ { user: a, password: a } ] } }"
PASSWORDS = "authorization { users: [ { user: a, password: a } ] }"


async def test_a_server_that_cannot_be_used_is_one_line(start: Start) -> None:
    with LocalServer(sync_always=False) as gone:
        url = gone.url
    with (
        LocalServer(sync_always=False, extra_config=NO_JETSTREAM) as plain,
        LocalServer(sync_always=False, extra_config=PASSWORDS) as closed,
    ):
        for where, env, code, text in (
            (url, {}, 4, "no NATS server answered at"),
            (closed.url, {}, 2, "refused the login"),
            (plain.url, {"ROMANCY_USER": "a", "ROMANCY_PASSWORD": "a"}, 2, "JetStream is not enabled"),
            ("nats://:x:y", {}, 2, "cannot connect to"),
        ):
            running = start("quiet", url=where, **env)
            assert await running.ended() == code, running.told()
            [line] = running.told().splitlines()
            assert line.startswith("romancy: "), line
            assert text in line
