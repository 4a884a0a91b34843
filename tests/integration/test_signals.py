"""SIGTERM for programs that run a worker in a block of their own: plain ones, and web applications under uvicorn."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import anyio
import pytest

from romancy_nats import App, Client, WorkflowContext, workflow
from romancy_nats.runtime import signals
from tests.integration.place import Place

pytestmark = pytest.mark.anyio
NUMBERS = (signal.SIGTERM, signal.SIGINT)

FLOWS = """
import asyncio, os
from pathlib import Path
from romancy_nats import App, Settings, WorkflowContext, activity, workflow

@activity
async def work(seconds: float) -> int:
    Path(f"at-work-{os.getpid()}").touch()
    await asyncio.sleep(seconds)
    return os.getpid()

@workflow
async def job(ctx: WorkflowContext, pauses: list[float]) -> list[int]:
    return [await ctx.run(work, pause) for pause in pauses]

app = App("web", workflows=[job])
"""

WEB = """
from contextlib import asynccontextmanager
from pathlib import Path
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from flows import app

@asynccontextmanager
async def lifespan(web):
    async with app.worker() as worker:
        Path("ready").touch()
        yield
    Path("drained").touch()

async def hello(request):
    return PlainTextResponse("hello")

web = Starlette(routes=[Route("/", hello)], lifespan=lifespan)
bare = Starlette(routes=[Route("/", hello)])
"""

PLAIN = """
import asyncio, os, signal, sys
from pathlib import Path
import sniffio
from flows import app

loop, how = sys.argv[1:]
SIGNALS = {"default": None, "on": True, "off": False, "own": None, "task": None}[how]

async def block():
    async with app.worker(signals=SIGNALS) as worker:
        Path("ready").touch()
        await worker.wait()
    Path("drained").touch()
    assert signal.getsignal(signal.SIGTERM) is (asked if how == "own" else signal.SIG_DFL)

def asked(*_):
    Path("asked").touch()
    os._exit(7)

async def main():
    if how == "own":
        signal.signal(signal.SIGTERM, asked)
    if how == "task":
        async with asyncio.TaskGroup() as group:
            group.create_task(block())
    else:
        await block()

if loop == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


class Program:
    def __init__(self, folder: Path, place: Place, *command: str) -> None:
        for name, text in {"flows.py": FLOWS, "web.py": WEB, "plain.py": PLAIN}.items():
            (folder / name).write_text(text)
        self.folder, self.log = folder, folder / f"log-{len(list(folder.iterdir()))}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ROMANCY_")}
        kept |= {"ROMANCY_NATS_URL": place.url, "ROMANCY_NAMESPACE": place.namespace, "ROMANCY_SHARDS": "2"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command], cwd=folder, env=kept, stdout=log, stderr=subprocess.STDOUT
            )

    async def until(self, file: str, within: float = 90.0) -> None:
        end = time.monotonic() + within
        while not (self.folder / file).exists():
            assert time.monotonic() < end, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            await anyio.sleep(0.02)

    async def signalled(self, number: int = signal.SIGTERM, within: float = 20.0) -> int:
        self.process.send_signal(number)
        return await anyio.to_thread.run_sync(self.process.wait, within)


Run = Callable[..., Program]


@pytest.fixture
def run(place: Place, tmp_path: Path) -> Iterator[Run]:
    with ExitStack() as stack:

        def run(*command: str) -> Program:
            program = Program(tmp_path, place, *command)
            stack.callback(program.process.wait)
            stack.callback(program.process.kill)
            return program

        yield run


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_web_server_with_a_worker_in_its_lifespan_ends_by_sigterm(
    run: Run, place: Place, loop: str
) -> None:
    def serve(what: str) -> Program:
        return run("-m", "uvicorn", f"web:{what}", "--loop", loop, "--port", str(free_port()))

    async with place.client() as client:
        web = serve("web")
        await web.until("ready")
        handle = await client.start("job", [0.0, 60.0])
        await web.until(f"at-work-{web.process.pid}")
        # uvicorn ends itself by the signal again that it was stopped by.
        assert await web.signalled() in (0, -signal.SIGTERM), web.log.read_text()
        assert (web.folder / "drained").exists(), web.log.read_text()
        assert (await handle.describe()).owner is None, "the drain let go of it"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("how", ["default", "on"])
async def test_a_plain_program_drains_and_ends_by_either_signal(
    run: Run, place: Place, loop: str, how: str
) -> None:
    async with place.client() as client:
        program = run("plain.py", loop, how)
        await program.until("ready")
        handle = await client.start("job", [0.0, 60.0])
        await program.until(f"at-work-{program.process.pid}")
        number = signal.SIGTERM if how == "default" else signal.SIGINT
        assert await program.signalled(number) == 0, program.log.read_text()
        assert (program.folder / "drained").exists()
        assert (await handle.describe()).owner is None


@pytest.mark.parametrize(("how", "code"), [("off", -signal.SIGTERM), ("task", -signal.SIGTERM), ("own", 7)])
async def test_what_is_not_its_own_is_left_alone(run: Run, how: str, code: int) -> None:
    program = run("plain.py", "asyncio", how)
    await program.until("ready")
    assert await program.signalled() == code, program.log.read_text()
    assert not (program.folder / "drained").exists()


@workflow
async def idle(ctx: WorkflowContext) -> None: ...


async def test_a_block_beside_others_takes_no_signals_and_one_that_must_gives_them_back(place: Place) -> None:
    before = [signal.getsignal(number) for number in NUMBERS]
    async with place.app(idle).worker(place.url):
        assert [signal.getsignal(number) for number in NUMBERS] == before
    async with place.app(idle).worker(place.url, signals=True) as worker:
        assert all(signal.getsignal(number) not in before for number in NUMBERS)
        signal.raise_signal(signal.SIGTERM)
        await worker.wait()
    assert [signal.getsignal(number) for number in NUMBERS] == before


async def test_a_handler_installed_in_the_block_stays(place: Place) -> None:
    def own(*_: object) -> None: ...

    before = signal.getsignal(signal.SIGTERM)
    try:
        async with place.app(idle).worker(place.url, signals=True):
            signal.signal(signal.SIGTERM, own)
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


def test_no_signals_are_free_in_a_thread() -> None:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.extend(anyio.run(_free)))
    thread.start()
    thread.join()
    assert found == []


async def _free() -> list[signal.Signals]:
    return signals.free()


async def test_a_worker_without_a_url_has_a_server_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROMANCY_NATS_URL", raising=False)
    async with App("x", workflows=[idle]).worker(), Client.connect() as client:
        assert await client.count() == 0
