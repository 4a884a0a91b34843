"""Starts for a workflow that no worker has: kept, reported, parked after a long while; nothing else is disturbed."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from romancy_nats import StartRejectedError, WorkflowContext, workflow
from romancy_nats.core.headers import REASON
from romancy_nats.core.ids import encode_token
from romancy_nats.jetstream import stored
from romancy_nats.jetstream.connection import Connection
from romancy_nats.jetstream.server import LocalServer
from romancy_nats.jetstream.stored import Stored
from tests.integration.place import Place, until

pytestmark = pytest.mark.anyio

QUICK = {"sweep_every": 0.1, "unknown_workflow_after": 0.2}


@workflow
async def order(ctx: WorkflowContext, x: int) -> int:
    return x


@workflow(name="ordre")
async def misspelt(ctx: WorkflowContext, x: int) -> int:
    return x + 1


@asynccontextmanager
async def connected(place: Place) -> AsyncGenerator[Connection]:
    async with Connection.open(place.url) as connection:
        yield connection


async def letters(connection: Connection, place: Place) -> list[Stored]:
    request = {"batch": 100, "seq": 1, "next_by_subj": f"{place.namespace}.dead.*"}
    return await stored.several(connection, f"{place.namespace.upper()}_DEAD", request)


async def starts_left(connection: Connection, place: Place) -> list[str]:
    request = {"batch": 100, "seq": 1, "next_by_subj": f"{place.namespace}.start.*"}
    found = await stored.several(connection, f"{place.namespace.upper()}_START", request)
    return [one.subject for one in found]


async def test_it_is_kept_and_reported_until_a_worker_with_it_comes(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async with place.client() as client, place.worker(order, settings=place.settings(sweep_every=0.05)):
        handle = await client.start(misspelt, 1)
        await until(lambda: "1 start waits" in caplog.text)
        await client.start(misspelt, 2)
        await until(lambda: "2 starts wait" in caplog.text)
        assert await client.execute(order, 3) == 3
        told = [record.getMessage() for record in caplog.records if "no worker has" in record.message]
        assert "'ordre'" in told[0]
        assert "did you mean 'order'?" in told[0]
        assert len(told) == 2, "one line for each number of starts"
        async with place.worker(misspelt):
            assert await handle.result(5) == 2


async def test_after_a_long_while_it_is_parked_and_whoever_waits_is_told(place: Place) -> None:
    async with place.client() as client, connected(place) as connection:
        handle = await client.start(misspelt.options(id="a b"), 1)
        async with place.worker(order, settings=place.settings(**QUICK)):
            with pytest.raises(StartRejectedError, match="no worker came for it"):
                await handle.result(5)
            assert await client.execute(order, 3) == 3
        (letter,) = await letters(connection, place)
        assert letter.subject == f"{place.namespace}.dead.ordre"
        assert "did you mean 'order'?" in letter.headers[REASON]
        assert letter.data
        assert await starts_left(connection, place) == []


async def test_a_subject_that_nobody_can_serve_is_no_different(place: Place) -> None:
    tokens = ["=ZZ", "=3dX", "é", "*", ">", "x" * 2500, "\x01", "=C3=28", encode_token("x" * 200)]
    async with place.client() as client, connected(place) as connection:
        await client.send_event("the.first.write", "makes the streams")
        for token in tokens:
            await connection.call(f"{place.namespace}.start.{token}", b"body")
        connection.publish(f"{place.namespace}.start.kept", b"1")
        async with place.worker(order, misspelt, settings=place.settings(**QUICK)):
            await until_gone(connection, place)
        found = await letters(connection, place)
        assert len(found) == len(tokens) + 1
        assert all(letter.data in (b"body", b"1") for letter in found)


async def until_gone(connection: Connection, place: Place) -> None:
    left = [""]
    while left:
        left = await starts_left(connection, place)


async def test_workers_that_see_the_same_start_park_it_once(place: Place) -> None:
    async with place.client() as client, connected(place) as connection:
        await client.start(misspelt, 1)
        quick = place.settings(**QUICK)
        async with place.worker(order, settings=quick), place.worker(order, settings=quick):
            await until_gone(connection, place)
        assert len(await letters(connection, place)) == 1


async def test_a_worker_that_may_not_remove_says_so_once_and_works(caplog: pytest.LogCaptureFixture) -> None:
    namespace = f"t{secrets.token_hex(4)}"
    deny = f"$JS.API.STREAM.MSG.DELETE.{namespace.upper()}_START"
    users = f'authorization {{ users: [{{ user: u, password: p, permissions: {{ publish: {{ deny: "{deny}" }} }} }}] }}'
    with LocalServer(sync_always=False, extra_config=users) as server:
        place = Place(server.url.replace("//", "//u:p@"))
        place.namespace = namespace
        caplog.set_level(logging.WARNING, "romancy.worker")
        async with place.client() as client, connected(place) as connection:
            await client.start(misspelt, 1)
            async with place.worker(order, settings=place.settings(**QUICK)):
                await until(lambda: "so it parks none" in caplog.text)
                await client.start(misspelt, 2)
                await until(lambda: "2 starts wait" in caplog.text)
                assert await client.execute(order, 3) == 3
            assert len(await starts_left(connection, place)) == 2
            assert len(await letters(connection, place)) == 1
        assert caplog.text.count("so it parks none") == 1


async def test_a_worker_that_may_not_look_says_so_once_and_works(caplog: pytest.LogCaptureFixture) -> None:
    namespace = f"t{secrets.token_hex(4)}"
    deny = f"$JS.API.CONSUMER.LIST.{namespace.upper()}_START"
    users = f'authorization {{ users: [{{ user: u, password: p, permissions: {{ publish: {{ deny: "{deny}" }} }} }}] }}'
    with LocalServer(sync_always=False, extra_config=users) as server:
        place = Place(server.url.replace("//", "//u:p@"))
        place.namespace = namespace
        async with place.client() as client:
            await client.start(misspelt, 1)
            async with place.worker(order, settings=place.settings(**QUICK)):
                await until(lambda: "not watched by this worker" in caplog.text)
                assert await client.execute(order, 3) == 3
