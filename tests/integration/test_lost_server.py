"""A server that is gone: every call of a client ends within `client_timeout`, and says what is unknown."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest

from romancy_nats import (
    App,
    Client,
    ServerUnavailableError,
    Settings,
    WorkflowContext,
    WorkflowHandle,
    activity,
    workflow,
)
from romancy_nats.jetstream.server import LocalServer
from tests.integration.place import until_status

pytestmark = [pytest.mark.anyio, pytest.mark.long]

TIMEOUT = 1.0
MUCH_LATER = 6.0
"""Seconds: a call that does not know `client_timeout` waits longer for one answer."""
NAMESPACE = "lost"
open_gates: set[str] = set()


@activity
async def gate() -> None:
    while "open" not in open_gates:
        await asyncio.sleep(0.02)


@workflow
async def gated(ctx: WorkflowContext, what: str = "x") -> str:
    ctx.on_query("what", lambda: what)
    ctx.on_update("again", lambda: what)
    await ctx.run(gate)
    return what


@workflow
async def nobodys(ctx: WorkflowContext, what: str = "x") -> str:
    return what


class Stage:
    """A server of our own with a worker, a client, and an instance that runs."""

    def __init__(self, server: LocalServer, client: Client, handle: WorkflowHandle[str]) -> None:
        self.server = server
        self.client = client
        self.handle = handle

    def stop(self) -> None:
        """Halt the server; returns when the last of its threads has halted, before which it may answer once more."""
        os.kill(self.server.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.server.pid, os.WSTOPPED)

    def go_on(self) -> None:
        os.kill(self.server.pid, signal.SIGCONT)


@pytest.fixture
async def stage() -> AsyncGenerator[Stage]:
    open_gates.clear()
    settings = Settings(namespace=NAMESPACE, shards=1, grace=0.1, client_timeout=TIMEOUT, lease_ttl=30.0)
    with LocalServer(sync_always=False) as server:
        async with (
            App("test", workflows=[gated], settings=settings).worker(server.url),
            Client.connect(server.url, settings=settings) as client,
        ):
            handle = await client.start(gated.options(id="here"))
            await until_status(handle, "running")
            stage = Stage(server, client, handle)
            try:
                yield stage
            finally:
                open_gates.add("open")
                stage.go_on()


async def _started_only(stage: Stage) -> object:
    return await stage.client.start(nobodys.options(id="order-17"))


async def _executed(stage: Stage) -> object:
    return await stage.client.execute(nobodys.options(id="order-17"))


async def _listed(stage: Stage) -> object:
    return [info async for info in stage.client.list()]


async def _watched(stage: Stage) -> object:
    return [item async for item in stage.handle.watch()]


CALLS: dict[str, tuple[Callable[[Stage], Awaitable[object]], str]] = {
    "start": (_started_only, "nothing was changed"),
    "start by name": (lambda s: s.client.start("nobodys"), "may or may not have been stored.*options"),
    "start without id": (lambda s: s.client.start(nobodys), "may or may not have been stored.*options"),
    "execute": (_executed, "nothing was changed"),
    "get by id": (lambda s: s.client.get("here").status(), "nothing was changed"),
    "status": (lambda s: s.handle.status(), "nothing was changed"),
    "describe": (lambda s: s.handle.describe(), "nothing was changed"),
    "history": (lambda s: s.handle.history(), "nothing was changed"),
    "list": (_listed, "nothing was changed"),
    "count": (lambda s: s.client.count(status="completed"), "nothing was changed"),
    "send": (lambda s: s.handle.send("c", 1), "."),
    "query": (lambda s: s.handle.query("what"), "nothing was changed|changed nothing"),
    "update": (lambda s: s.handle.update("again"), "."),
    "cancel": (lambda s: s.handle.cancel("why"), "."),
    "terminate": (lambda s: s.handle.terminate("why"), "."),
    "retry": (lambda s: s.handle.retry(), "."),
    "event": (lambda s: s.client.send_event("news", 1), "may or may not have been stored.*message_id"),
    "watch": (_watched, "nothing was changed"),
}


async def test_every_call_ends_in_time_while_the_server_is_stopped_and_works_once_it_is_back(
    stage: Stage,
) -> None:
    stage.stop()

    async def tried(name: str, call: Callable[[Stage], Awaitable[object]], says: str) -> None:
        began = time.monotonic()
        with pytest.raises(ServerUnavailableError, match=says) as caught:
            await call(stage)
        assert time.monotonic() - began < MUCH_LATER - 1, name
        assert f"{TIMEOUT:g} s" in str(caught.value), name

    # Each alone and all at once: none waits for another.
    await asyncio.gather(*(tried(name, call, says) for name, (call, says) in CALLS.items()))

    named = ("status", "history", "list", "query", "send", "event", "start without id")
    waiting = [asyncio.ensure_future(CALLS[name][0](stage)) for name in named]
    await asyncio.sleep(TIMEOUT / 4)
    stage.go_on()
    await asyncio.gather(*waiting)


async def test_every_call_ends_in_time_while_the_server_is_dead(stage: Stage) -> None:
    stage.server.kill()

    async def tried(call: Callable[[Stage], Awaitable[object]], says: str) -> None:
        began = time.monotonic()
        with pytest.raises(ServerUnavailableError, match=says):
            await call(stage)
        assert time.monotonic() - began < MUCH_LATER - 1

    await asyncio.gather(*(tried(call, says) for call, says in CALLS.values()))
    stage.server.restart()
    assert await stage.handle.query("what") == "x"


async def test_a_start_that_was_given_up_and_made_again_is_one_instance(stage: Stage) -> None:
    """The server gets the start, and the client never hears of it."""
    stage.stop()
    with pytest.raises(ServerUnavailableError, match="may or may not have been stored") as caught:
        await stage.client.start(gated, "again")
    stage.go_on()
    id = caught.value.instance_id
    assert repr(id) in str(caught.value)
    handle = await stage.client.start(gated.options(id=id), "again")
    await until_status(handle, "running")
    open_gates.add("open")
    assert await handle.result(10) == "again"
    assert [info.id async for info in stage.client.list()].count(id) == 1


async def test_a_message_that_was_given_up_and_sent_again_is_one_message(stage: Stage) -> None:
    stage.stop()
    with pytest.raises(ServerUnavailableError) as caught:
        await stage.client.send_event("news", 1, message_id="mine")
    assert caught.value.message_id == "mine"
    stage.go_on()
    await stage.client.send_event("news", 1, message_id="mine")
    from romancy_nats.client.client import session_of
    from romancy_nats.jetstream.api import ask

    connection: Any = session_of(stage.client).world
    answer = await ask(connection.connection, "STREAM.INFO.LOST_EVENTS", {"subjects_filter": "lost.event.>"})
    assert answer.part("state")["subjects"] == {"lost.event.news": 1}


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_result_is_waited_for_through_an_outage(
    stage: Stage, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    result = asyncio.create_task(stage.client.get("here").result())
    await asyncio.sleep(0.3)
    if how == "stop":
        stage.stop()
    else:
        stage.server.kill()
    with pytest.raises(TimeoutError, match=r"'here'.*does not say"):
        await stage.client.get("here", gated).result(TIMEOUT / 2)
    open_gates.add("open")
    await asyncio.sleep(2.5 * TIMEOUT)
    assert not result.done()
    if how == "stop":
        stage.go_on()
    else:
        stage.server.restart()
    assert await asyncio.wait_for(result, 30) == "x"


@pytest.mark.long
@pytest.mark.parametrize(
    "command",
    [
        ["start", "nobodys", "--id", "order-17"],
        ["status", "here"],
        ["list"],
        ["history", "here"],
        ["cancel", "here"],
        ["event", "news"],
        ["query", "here", "what"],
    ],
    ids=lambda command: command[0],
)
def test_commands_say_that_the_server_is_gone(command: list[str]) -> None:
    with LocalServer(sync_always=False) as server:
        env = {
            **os.environ,
            "ROMANCY_NATS_URL": server.url,
            "ROMANCY_NAMESPACE": NAMESPACE,
            "ROMANCY_CLIENT_TIMEOUT": "1",
        }
        os.kill(server.pid, signal.SIGSTOP)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "romancy_nats", *command],
                env=env,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert done.returncode == 4, done.stderr
        assert "Traceback" not in done.stderr
