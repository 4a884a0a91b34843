"""Servers for smaller messages than usual: what is large is refused, with both numbers and a name."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from romancy_nats import (
    Client,
    PayloadError,
    PayloadTooLargeError,
    QueryError,
    StartRejectedError,
    UpdateFailedError,
    WorkflowContext,
    WorkflowFailedError,
    WorkflowStalledError,
    activity,
    workflow,
)
from romancy_nats.client.client import session_of
from romancy_nats.core.history import History
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.limits import MAX_VALUE, Limits
from romancy_nats.jetstream.ledger import JetStreamLedger
from romancy_nats.jetstream.server import LocalServer
from romancy_nats.jetstream.world import JetStreamWorld
from romancy_nats.storage.histories import recorded
from romancy_nats.testing.replay import replay
from tests.integration.place import Place

pytestmark = pytest.mark.anyio
BOUND = 15.0


class BadRows(Exception):  # noqa: N818
    pass


@activity
async def greet(name: str) -> str:
    return f"hello {name}"


@activity(retry=None)
async def give(size: int) -> str:
    return "x" * size


@activity(errors=[BadRows])
async def fail(size: int) -> None:
    raise BadRows(*(["x" * 500] * (size // 500)))


@workflow
async def hello(ctx: WorkflowContext, name: str) -> str:
    return await ctx.run(greet, name)


@workflow
async def attempt(ctx: WorkflowContext, what: str, size: int) -> str:
    """Asks for something of that size, and says how that was refused."""
    try:
        if what == "input":
            await ctx.run(greet, "x" * size)
        elif what == "result":
            await ctx.run(give, size)
        elif what == "emit":
            ctx.emit("x" * size, durable=True)
        elif what == "event":
            await ctx.send_event("a.b", "x" * size)
        elif what == "send":
            await ctx.send_to(ctx.instance_id, "c", "x" * size)
        elif what == "recur":
            ctx.recur("none", 0) if size == 0 else ctx.recur("x" * size, 0)
    except PayloadTooLargeError as error:
        return f"{error}"
    return "fits"


@workflow
async def returns(ctx: WorkflowContext, size: int) -> str:
    return "x" * size


@workflow
async def fails(ctx: WorkflowContext, size: int) -> None:
    raise BadRows(*(["x" * 500] * (size // 500)))


@workflow
async def many(ctx: WorkflowContext, calls: int, size: int) -> int:
    return len(await asyncio.gather(*(ctx.run(greet, "x" * size) for _ in range(calls))))


@workflow
async def asked(ctx: WorkflowContext) -> str:
    ctx.on_query("size", lambda size: "x" * size)

    def update(size: int) -> str:
        if size < 0:
            raise BadRows("x" * -size)
        return "x" * size

    ctx.on_update("size", update)
    return (await ctx.receive("stop", model=str)).data


ALL = (hello, attempt, returns, fails, many, asked)


@asynccontextmanager
async def placed(max_payload: int) -> AsyncGenerator[tuple[Place, Client]]:
    with LocalServer(sync_always=False, extra_config=f"max_payload: {max_payload}") as server:
        place = Place(server.url)
        async with place.run(*ALL) as client:
            yield place, client


@pytest.fixture(params=[65_536, 300_000], ids=["64 KiB", "300 kB"])
async def small(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Client, Limits]]:
    async with placed(request.param) as (_, client):
        limits = session_of(client).world.limits
        assert limits.value < MAX_VALUE
        yield client, limits


async def test_a_server_for_small_messages(small: tuple[Client, Limits]) -> None:
    client, limits = small
    most = limits.value
    async with asyncio.timeout(60):
        assert await client.execute(hello, "you") == "hello you"

        # What fits almost is taken, everywhere.
        nearly = most - 100
        assert await client.execute(returns, nearly) == "x" * nearly
        for what in ("input", "result", "emit"):
            assert await client.execute(attempt, what, nearly) == "fits", what
        assert await client.execute(many, 50, most // 10) == 50

        # What does not is refused where it is made.
        for what in ("input", "result", "emit", "event", "send", "recur"):
            said = await client.execute(attempt, what, most + 1000)
            assert re.search(rf"has [0-9,]+ bytes, the limit is {most:,}", said), (what, said)
        with pytest.raises(WorkflowFailedError, match=f"the result of .* the limit is {most:,}"):
            await client.execute(returns, most + 1)
        with pytest.raises(StartRejectedError, match=f"the input of 'hello' has .* the limit is {most:,}"):
            await client.start(hello, "x" * (most + 1))
        with pytest.raises(PayloadError, match="the limit is"):
            await client.send_event("a.b", "x" * (most + 20_000))

        # Errors are shortened, and keep their class.
        with pytest.raises(WorkflowFailedError) as failed:
            await client.execute(fails, 2_000_000)
        assert failed.value.error_type == "BadRows"
        assert isinstance(failed.value.__cause__, BadRows)

        handle = await client.start(asked)
        assert await handle.query("size", nearly) == "x" * nearly
        with pytest.raises(QueryError, match=f"the limit is {most:,}"):
            await handle.query("size", most + 1)
        assert await handle.update("size", nearly) == "x" * nearly
        for size in (most + 1, -2_000_000):
            with pytest.raises(UpdateFailedError):
                await handle.update("size", size)
        await handle.send("stop", "end")
        assert await handle.result() == "end"


async def test_values_that_were_refused_are_refused_in_replay() -> None:
    """The limit of a generation is recorded: on a server for larger messages its history still fits the code."""
    async with placed(65_536) as (_, client):
        handle = await client.start(attempt, "input", 60_000)
        assert "the limit is" in await handle.result()
        key = InstanceKey("attempt", handle.id)
        held = await session_of(client).world.ledger.read(key)
        assert held is not None
        commits = tuple(await recorded(session_of(client).world, key, held.record))
    assert replay(attempt, History(key, 0, commits)).status == "completed"


async def test_bare_messages_on_such_a_server() -> None:
    async with placed(65_536) as (place, client):
        connection: Any = session_of(client).world.connection  # type: ignore[attr-defined]
        await connection.call(
            f"{place.namespace}.start.hello", b'["' + b"x" * 60_000 + b'"]', {"Romancy-Instance-Id": "big"}
        )
        with pytest.raises(StartRejectedError, match="the limit is"):
            await client.get("big", hello).result(timeout=BOUND)


@activity
async def half(size: int) -> str:
    return "x" * size


@workflow
async def too_much(ctx: WorkflowContext, what: str) -> str:
    await ctx.sleep(0.01)
    if what == "input":
        await ctx.run(greet, "x" * 70_000)
    elif what == "result":
        await ctx.run(half, 70_000)
    elif what == "end":
        return "x" * 70_000
    return "fits"


async def test_a_commit_that_the_server_does_not_take_is_not_tried_again_in_a_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker believes in larger messages than the server takes, as after a change of its configuration."""
    appended: list[int] = []
    append = JetStreamLedger.append

    def counted(self: JetStreamLedger, *args: Any) -> None:
        appended.append(len(args[3]))
        append(self, *args)

    monkeypatch.setattr(JetStreamWorld, "max_payload", property(lambda _: 1024 * 1024))
    monkeypatch.setattr(JetStreamLedger, "append", counted)
    with LocalServer(sync_always=False, extra_config="max_payload: 65536") as server:
        place = Place(server.url)
        async with asyncio.timeout(60), place.run(hello, too_much) as client:
            for what in ("input", "result", "end"):
                handle = await client.start(too_much, what)
                with pytest.raises(WorkflowStalledError, match=r"larger than this server takes|the limit is"):
                    await handle.result()
                assert await handle.status() == "stalled", what
            assert len([size for size in appended if size > 65_536]) <= 6
            before = len(appended)
            await asyncio.sleep(1.5)
            assert len(appended) == before
            assert await client.execute(hello, "you") == "hello you"
