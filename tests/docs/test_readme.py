"""What the front page says is so: its programs run and print what it shows, its settings and commands are all there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from romancy_nats import Client, Settings
from romancy_nats.cli.main import app as command_line
from romancy_nats.jetstream.server import LocalServer

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
_PROGRAM = re.compile(r"```python\n# (\w+\.py)\n(.*?)```\n(?:```text\n(.*?)```)?", re.DOTALL)
PROGRAMS = {name: code for name, code, _ in _PROGRAM.findall(README)}
SHOWN = {name: shown for name, _, shown in _PROGRAM.findall(README)}
ROMANCY = [sys.executable, "-m", "romancy_nats"]
TIMEOUT = 60.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with every program of the page."""
    for name, code in PROGRAMS.items():
        (tmp_path / name).write_text(code)
    return tmp_path


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server where the page says that it is, as far as a program can tell."""
    with LocalServer(sync_always=False) as server:
        yield server.url


def environment(**settings: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ROMANCY_")}
    return {**kept, **settings}


def run(folder: Path, program: str, **settings: str) -> str:
    done = subprocess.run(
        [sys.executable, program],
        cwd=folder,
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def running(folder: Path, *arguments: str, **settings: str) -> Generator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*ROMANCY, *arguments],
        cwd=folder,
        env=environment(**settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def test_every_python_block_is_a_program_that_is_tested() -> None:
    assert README.count("```python") == len(PROGRAMS)
    run_here = {"hello.py", "shop.py", "invoice.py", "service.py", "place.py", "bare.py"}
    assert {name for name, shown in SHOWN.items() if shown} == run_here
    assert set(PROGRAMS) - run_here == {"count.py", "test_service.py", "web.py"}


@pytest.mark.parametrize("program", ["hello.py", "shop.py", "invoice.py", "service.py"])
def test_a_program_with_a_server_of_its_own_prints_what_the_page_shows(folder: Path, program: str) -> None:
    assert run(folder, program) == SHOWN[program]


def test_the_test_of_the_service_passes(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_service.py"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert "1 passed" in done.stdout, done.stdout


@pytest.mark.slow
def test_the_web_application_answers_and_ends(folder: Path, url: str) -> None:
    settings = environment(ROMANCY_NATS_URL=url, ROMANCY_NAMESPACE="web")
    command = [sys.executable, "-m", "uvicorn", "web:web", "--port", "0"]
    with subprocess.Popen(command, cwd=folder, env=settings, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            told = (re.search(r"running on (http://\S+)", line) for line in server.stderr)
            address = next(found[1] for found in told if found is not None)
            request = urllib.request.Request(f"{address}/checkouts/cart-9?amount=5", method="POST")
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                assert json.load(answer) == {"id": "cart-9", "result": "paid 5"}
            server.terminate()
            assert server.wait(TIMEOUT) in (0, -signal.SIGTERM)
        finally:
            server.kill()


@pytest.mark.slow
@pytest.mark.anyio
async def test_worker_client_and_bare_message_apart(
    folder: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = (folder / "bare.py").read_text()
    assert "nats://127.0.0.1:4222" in bare
    (folder / "bare.py").write_text(bare.replace("nats://127.0.0.1:4222", url))
    with running(folder, "worker", "hello:app", ROMANCY_NATS_URL=url):
        assert run(folder, "place.py", ROMANCY_NATS_URL=url) == SHOWN["place.py"]
        assert run(folder, "bare.py") == SHOWN["bare.py"]
        async with Client.connect(url) as client:
            handle = client.get("greeting-18", "hello", result_type=str)
            assert await handle.result(timeout=TIMEOUT) == "Hello, Grace! Hello, NATS!"


@pytest.mark.slow
def test_killed_and_started_again_it_goes_on_where_it_was(folder: Path) -> None:
    first = ("dev", "count:app", "--run", "count", "--input", '{"to": 6}')
    with running(folder, *first, ROMANCY_LEASE_TTL="1") as process:
        assert process.stdout is not None
        said = [next(process.stdout).strip() for _ in range(3)]
        process.kill()
        said += [line.strip() for line in process.stdout]
    with running(folder, "dev", "count:app", ROMANCY_LEASE_TTL="1") as process:
        assert process.stdout is not None
        end = time.monotonic() + TIMEOUT
        for line in process.stdout:
            said += [line.strip()]
            if line.strip() == "said 6":
                break
            assert time.monotonic() < end
    numbers = [int(line.removeprefix("said ")) for line in said if line.startswith("said")]
    # The kill comes as soon as 3 is heard, which is before or after its result was recorded: at least once.
    assert numbers in ([1, 2, 3, 4, 5, 6], [1, 2, 3, 3, 4, 5, 6])


def test_every_setting_is_in_the_table() -> None:
    table = set(re.findall(r"`ROMANCY_(\w+)`", README[README.index("## Settings") :].split("\n## ")[0]))
    assert table == {name.upper() for name in Settings.model_fields}


def test_every_command_is_in_the_table() -> None:
    part = README[README.index("## Command line") :].split("\n## ")[0]
    commands = {command.name for command in command_line.registered_commands}
    groups = {group.typer_instance.info.name for group in command_line.registered_groups}
    for name in (commands | groups) - {None}:
        assert re.search(rf"`[^`]*\b{name}\b[^`]*`", part), f"`romancy {name}` is not in the README"


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md", "examples/01_orders/README.md"])
def test_files_that_a_page_names_are_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for path in re.findall(r"`((?:[\w.]+/)+[\w.]*|[\w]+\.(?:md|yml|txt))`", text):
        places = [ROOT / path, ROOT / "romancy_nats" / path, (ROOT / page).parent / path]
        made = path.startswith(".romancy")
        assert made or any(place.exists() for place in places), f"{page} names {path}, which is not there"
