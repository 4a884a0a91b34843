"""What wakes instances, as the server keeps it: over a kill, past the age limit, beyond what one answer holds."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.plain import encode_plain
from romancy_nats.jetstream.api import ask
from romancy_nats.jetstream.connect_options import ConnectOptions
from romancy_nats.jetstream.server import LocalServer
from romancy_nats.jetstream.timers import moment
from romancy_nats.jetstream.world import JetStreamWorld, open_world
from romancy_nats.ports import Event, PublishedEvent, QueueKind, Refused
from romancy_nats.runtime.dispatcher import Dispatcher

pytestmark = pytest.mark.anyio

WORKFLOW = "wf"
SECOND = 1_000_000


@asynccontextmanager
async def world(url: str) -> AsyncIterator[JetStreamWorld]:
    async with open_world(ConnectOptions(url, namespace=f"t{secrets.token_hex(4)}", shards=1)) as opened:
        await opened.ensure_consumers({WORKFLOW: None})
        yield opened


async def stored(opened: JetStreamWorld, stream: str) -> int:
    answer = await ask(opened.connection, f"STREAM.INFO.{stream}")
    count = answer.part("state")["messages"]
    assert isinstance(count, int)
    return count


async def next_event(opened: JetStreamWorld) -> PublishedEvent:
    async with asyncio.timeout(10):
        while True:
            for one in await opened.events.pull(1):
                return one


async def publish(opened: JetStreamWorld, type: str, key: str | None = None) -> int:
    sequence = await opened.events.publish(Event("1", type, "test", encode_plain(1), key), "")
    assert isinstance(sequence, int)
    return sequence


async def test_a_timer_that_was_due_while_the_server_was_dead_fires_when_it_is_back(tmp_path: Path) -> None:
    with LocalServer(store=tmp_path, sync_always=False) as server:
        async with world(server.url) as opened:
            due = int((time.time() + 1.0) * SECOND)
            late = int((time.time() + 4.0) * SECOND)
            assert isinstance(await opened.timers.arm(InstanceKey(WORKFLOW, "soon"), 0, due), int)
            assert isinstance(await opened.timers.arm(InstanceKey(WORKFLOW, "later"), 0, late), int)
            server.kill()
            await asyncio.sleep(1.5)
            server.restart()
            fired: dict[str, int] = {}
            async with asyncio.timeout(10):
                while len(fired) < 2:
                    for one in await opened.queues.pull(QueueKind.DUE, WORKFLOW, 10):
                        fired[one.id] = one.time
                        one.ack()
            assert fired["soon"] >= due
            assert late <= fired["later"] <= late + SECOND


async def test_a_timer_in_thousands_of_years_is_taken(nats_server: LocalServer) -> None:
    assert moment(1_750_000_000_000_001) == "2025-06-15T15:06:40.000001Z"
    async with world(nats_server.url) as opened:
        key = InstanceKey(WORKFLOW, "never")
        assert isinstance(await opened.timers.arm(key, 0, 10**18), int)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await opened.queues.pull(QueueKind.DUE, WORKFLOW, 1)
        assert isinstance(await opened.timers.disarm(key, 0), int)


async def test_a_registration_outlives_the_age_limit_of_its_stream(nats_server: LocalServer) -> None:
    async with world(nats_server.url) as opened:
        name = opened.topology.subjects.events_stream
        found = (await ask(opened.connection, f"STREAM.INFO.{name}")).part("config")
        shorter = {**found, "max_age": SECOND * 1000, "duplicate_window": SECOND * 1000}
        assert (await ask(opened.connection, f"STREAM.UPDATE.{name}", shorter)).code == 0
        key = InstanceKey(WORKFLOW, "a")
        assert isinstance(await opened.events.register(key, 0, "event:1", "old", "k"), int)
        await publish(opened, "old", "other")
        async with asyncio.timeout(10):
            while await stored(opened, name) > 1:
                await asyncio.sleep(0.1)
        again = await opened.events.register(key, 0, "event:1", "old", "k")
        assert isinstance(again, Refused)
        await publish(opened, "old", "k")
        one = await next_event(opened)
        while one.event is None or one.event.key != "k":
            one.ack()
            one = await next_event(opened)
        assert [registration.key async for registration in opened.events.matching(one)] == [key]


async def test_a_subject_of_any_spelling_is_read_or_parked(nats_server: LocalServer) -> None:
    async with world(nats_server.url) as opened:
        ns = opened.topology.namespace
        key = InstanceKey(WORKFLOW, "a")
        types = {
            "größe.x": f"{ns}.event.größe.x",
            "a b": f"{ns}.event.a=20b",
            "a=zz": f"{ns}.event.a=zz",
            None: f"{ns}.event.*",
        }
        for type, subject in types.items():
            if type is not None:
                assert isinstance(await opened.events.register(key, 0, "event:1", type, None), int)
            await opened.connection.call(subject, b"1")
            one = await next_event(opened)
            assert (one.event and one.event.type) == type
            assert len([found async for found in opened.events.matching(one)]) == (type is not None)
            assert bool(one.reason) == (type is None)
            one.ack()


async def test_thousands_of_waits_are_told_and_each_once(nats_server: LocalServer) -> None:
    waits = 5_000
    async with world(nats_server.url) as opened:
        events, queue = opened.events, opened.topology.subjects.messages_stream
        for start in range(0, waits, 500):
            numbers = range(start, start + 500)
            await asyncio.gather(
                *(events.register(InstanceKey(WORKFLOW, f"i{n}"), 0, "event:1", "all", None) for n in numbers)
            )
        dispatching = asyncio.create_task(Dispatcher(opened, 16.0).run())
        await publish(opened, "all")
        async with asyncio.timeout(60):
            while await stored(opened, queue) < waits:
                await asyncio.sleep(0.05)
        dispatching.cancel()
        await asyncio.gather(dispatching, return_exceptions=True)
        assert await stored(opened, queue) == waits


async def test_a_cancelled_dispatcher_gives_back_what_it_has_in_hand(nats_server: LocalServer) -> None:
    async with (
        world(nats_server.url) as opened,
        open_world(ConnectOptions(nats_server.url, namespace=opened.topology.namespace)) as other,
    ):
        for n in range(2000):
            await opened.events.register(InstanceKey(WORKFLOW, f"i{n}"), 0, "event:1", "all", None)
        dispatching = asyncio.create_task(Dispatcher(opened, 16.0).run())
        await publish(opened, "all")
        queue = opened.topology.subjects.messages_stream
        async with asyncio.timeout(10):
            while not await stored(opened, queue):
                await asyncio.sleep(0)
        dispatching.cancel()
        await asyncio.gather(dispatching, return_exceptions=True)
        await opened.events.stop_pulling()
        second = asyncio.create_task(Dispatcher(other, 16.0).run())
        async with asyncio.timeout(5):
            while await stored(opened, queue) < 2000:
                await asyncio.sleep(0.05)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
