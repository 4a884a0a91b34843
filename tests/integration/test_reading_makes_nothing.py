"""Whoever starts, sends or works makes the streams of a namespace; whoever only reads never does."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from romancy_nats import (
    Client,
    InstanceNotFoundError,
    Settings,
    StreamMissingError,
    WorkflowContext,
    workflow,
)
from romancy_nats.jetstream.api import ask
from romancy_nats.jetstream.connection import Connection
from romancy_nats.jetstream.server import LocalServer
from romancy_nats.jetstream.topology import Topology
from tests.integration.place import SHARDS, Place

pytestmark = pytest.mark.anyio


@workflow
async def echo(ctx: WorkflowContext, value: str) -> str:
    return value


async def streams(url: str, namespace: str) -> set[str]:
    async with Connection.open(url) as connection:
        names: list[str] = []
        while True:
            answer = await ask(connection, "STREAM.NAMES", {"offset": len(names)})
            found = answer.body.get("streams")
            if not isinstance(found, list) or not found:
                break
            names += map(str, found)
    wanted = (f"KV_{namespace}_", f"{namespace.upper()}_", f"OBJ_{namespace.upper()}_")
    return {name for name in names if name.startswith(wanted)}


async def _watched(client: Client) -> None:
    async for _ in client.get("nobody").watch():
        pass


NOT_FOUND: dict[str, Callable[[Client], Awaitable[Any]]] = {
    "status": lambda client: client.get("nobody").status(),
    "status of a known workflow": lambda client: client.get("nobody", echo).status(),
    "describe": lambda client: client.get("nobody").describe(),
    "history": lambda client: client.get("nobody").history(),
    "result": lambda client: client.get("nobody").result(5),
    "cancel": lambda client: client.get("nobody", "echo").cancel(),
    "terminate": lambda client: client.get("nobody").terminate(),
    "retry": lambda client: client.get("nobody").retry(),
    "send": lambda client: client.get("nobody").send("channel", 1),
    "query": lambda client: client.get("nobody").query("name"),
    "update": lambda client: client.get("nobody").update("name"),
    "watch": _watched,
}


async def test_reading_an_empty_server_finds_nothing_and_makes_nothing(nats_server: LocalServer) -> None:
    namespace = f"t{secrets.token_hex(5)}"
    async with Client.connect(nats_server.url, namespace=namespace) as client:
        for name, read in NOT_FOUND.items():
            with pytest.raises(InstanceNotFoundError):
                await read(client)
                pytest.fail(name)
        assert [info async for info in client.list()] == []
        assert await client.count(workflow="echo", status="failed") == 0
    assert await streams(nats_server.url, namespace) == set()


WRITES: dict[str, Callable[[Client], Awaitable[Any]]] = {
    "a start": lambda client: client.start(echo, "a"),
    "a start with an id": lambda client: client.start(echo.options(id="1"), "a"),
    "a start by name": lambda client: client.start("echo", "a"),
    "an event": lambda client: client.send_event("shop.closed"),
}


@pytest.mark.parametrize("name", WRITES)
async def test_the_first_write_makes_all_streams_once(place: Place, name: str) -> None:
    async with place.client() as client:
        await asyncio.gather(*(WRITES[name](client) for _ in range(5)))
        wanted = {spec.name for spec in Topology(place.namespace, SHARDS).streams()}
        assert await streams(place.url, place.namespace) == wanted


async def test_a_write_that_may_not_make_them_says_which_are_missing(nats_server: LocalServer) -> None:
    namespace = f"t{secrets.token_hex(5)}"
    settings = Settings(namespace=namespace, provision=False)
    async with Client.connect(nats_server.url, settings=settings) as client:
        for write in WRITES.values():
            with pytest.raises(StreamMissingError, match=f"KV_{namespace}_0.*romancy streams apply"):
                await write(client)
    assert await streams(nats_server.url, namespace) == set()


async def test_a_client_that_was_there_first_uses_the_shards_of_who_made_the_namespace(place: Place) -> None:
    settings = place.settings(shards=5)
    async with Client.connect(place.url, settings=settings) as early:
        with pytest.raises(InstanceNotFoundError):
            await early.get("1", echo).status()
        async with place.worker(echo), place.client() as client:
            for n in range(8):
                assert await client.execute(echo.options(id=str(n)), str(n)) == str(n)
            assert [await early.get(str(n), echo).result(5) for n in range(8)] == list(map(str, range(8)))
            handles = [await early.start(echo.options(id=f"early {n}"), "x") for n in range(8)]
            assert [await one.result(10) for one in handles] == ["x"] * 8
            assert await early.count() == 16
