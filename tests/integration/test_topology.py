"""The topology on a real server: accepted as written, idempotent, shown when it differs, never changed unasked."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from romancy_nats.errors import ConfigurationError, PermissionDeniedError, StreamMissingError
from romancy_nats.jetstream import provision
from romancy_nats.jetstream.api import ask
from romancy_nats.jetstream.connect_options import ConnectOptions
from romancy_nats.jetstream.connection import Connection
from romancy_nats.jetstream.credentials import Credentials
from romancy_nats.jetstream.server import LocalServer
from romancy_nats.jetstream.topology import Topology, export
from romancy_nats.jetstream.world import open_world

pytestmark = pytest.mark.anyio

STREAMS = Path(__file__).resolve().parents[2] / "streams"


@pytest.fixture
async def connection(nats_server: LocalServer) -> AsyncIterator[Connection]:
    async with Connection.open(nats_server.url) as opened:
        yield opened


@pytest.fixture
async def topology(connection: Connection) -> AsyncIterator[Topology]:
    """Of a namespace of its own, not created yet; removed at the end."""
    found = Topology(f"t{secrets.token_hex(4)}", shards=2)
    yield found
    for spec in found.streams():
        await ask(connection, f"STREAM.DELETE.{spec.name}")


async def test_the_server_takes_it_and_has_nothing_to_add(connection: Connection, topology: Topology) -> None:
    made = await provision.ensure_streams(connection, topology.namespace, shards=2)
    assert made == topology
    assert await provision.diff(connection, topology) == []
    assert await provision.ensure_streams(connection, topology.namespace, shards=2) == topology
    assert await provision.find_streams(connection, topology.namespace) == topology


async def test_many_processes_at_once_agree_on_the_shards(connection: Connection, topology: Topology) -> None:
    made = await asyncio.gather(
        *(provision.ensure_streams(connection, topology.namespace, shards=shards) for shards in (2, 1, 2, 1))
    )
    assert len(set(made)) == 1
    assert await provision.diff(connection, made[0]) == []


async def test_the_number_of_shards_is_kept_and_never_guessed(
    connection: Connection, topology: Topology
) -> None:
    await provision.ensure_streams(connection, topology.namespace, shards=2)
    assert (await provision.ensure_streams(connection, topology.namespace, shards=8)).shards == 2
    name = topology.subjects.shard_stream(0)
    config = {**topology.shard(0).config, "metadata": {}}
    assert (await ask(connection, f"STREAM.UPDATE.{name}", config)).code == 0
    with pytest.raises(ConfigurationError, match="metadata"):
        await provision.ensure_streams(connection, topology.namespace, shards=2)


async def test_missing_streams_are_named(connection: Connection, topology: Topology) -> None:
    with pytest.raises(StreamMissingError, match=topology.subjects.shard_stream(0)):
        await provision.find_streams(connection, topology.namespace)
    await provision.ensure_streams(connection, topology.namespace, shards=2)
    await ask(connection, f"STREAM.DELETE.{topology.subjects.dead_stream}")
    with pytest.raises(StreamMissingError, match=topology.subjects.dead_stream):
        await provision.find_streams(connection, topology.namespace)


async def test_a_conflict_is_shown_and_only_apply_changes_it(
    connection: Connection, topology: Topology
) -> None:
    start = topology.subjects.start_stream
    spec = next(spec for spec in topology.streams() if spec.name == start)
    wrong = {**spec.config, "allow_direct": False, "description": "mine", "duplicate_window": 60_000_000_000}
    assert (await ask(connection, f"STREAM.CREATE.{start}", wrong)).code == 0
    with pytest.raises(ConfigurationError, match=f"{start}: allow_direct is false, should be true"):
        await provision.ensure_streams(connection, topology.namespace, shards=2)
    found = await ask(connection, f"STREAM.INFO.{start}")
    assert found.part("config")["allow_direct"] is False
    changes = await provision.apply(connection, topology)
    assert {(one.stream, one.setting) for one in changes} == {(start, "allow_direct")}
    # What an operator may choose stays his.
    assert [one.setting for one in await provision.diff(connection, topology)] == ["duplicate_window"]
    found = await ask(connection, f"STREAM.INFO.{start}")
    assert found.part("config")["description"] == "mine"
    await provision.apply(connection, topology, tunable=True)
    assert await provision.diff(connection, topology) == []


async def test_consumers_are_made_once_and_brought_up_to_date(
    connection: Connection, topology: Topology
) -> None:
    await provision.ensure_streams(connection, topology.namespace, shards=2)
    names = {"order workflow": None, "größe.v2": 5, "é" * 128: None}
    await asyncio.gather(
        *(provision.ensure_consumers(connection, topology, names, ack_wait=4.0) for _ in range(3))
    )
    for workflow, most in names.items():
        for spec in topology.consumers(workflow, most, 4.0):
            found = (await ask(connection, f"CONSUMER.INFO.{spec.stream}.{spec.name}")).part("config")
            assert spec.config.items() <= found.items()
    dispatcher = topology.dispatcher(4.0)
    info = await ask(connection, f"CONSUMER.INFO.{dispatcher.stream}.{dispatcher.name}")
    assert dispatcher.config.items() <= info.part("config").items()
    await provision.ensure_consumers(connection, topology, {"größe.v2": 7}, ack_wait=2.0)
    start = topology.subjects.consumer("start", "größe.v2")
    info = await ask(connection, f"CONSUMER.INFO.{topology.subjects.start_stream}.{start}")
    assert info.part("config")["max_ack_pending"] == 7
    assert info.part("config")["ack_wait"] == 4_000_000_000  # the longest lease of those that share it


async def test_a_foreign_consumer_is_refused(connection: Connection, topology: Topology) -> None:
    await provision.ensure_streams(connection, topology.namespace, shards=2)
    spec = topology.consumers("order")[0]
    other = topology.subjects.start("other")
    request = {"stream_name": spec.stream, "config": {**spec.config, "filter_subject": other}}
    assert (await ask(connection, f"CONSUMER.CREATE.{spec.stream}.{spec.name}.{other}", request)).code == 0
    with pytest.raises(ConfigurationError, match="filter_subject"):
        await provision.ensure_consumers(connection, topology, {"order": None}, ack_wait=16.0)


async def test_a_publisher_cannot_erase_what_others_sent(connection: Connection, topology: Topology) -> None:
    await provision.ensure_streams(connection, topology.namespace, shards=2)
    ns = topology.namespace
    for subject in (f"{ns}.start.order", f"{ns}.message.order.1", f"{ns}.event.paid"):
        assert "seq" in (await connection.call(subject, b"{}")).json()
        reply = await connection.call(subject, b"{}", {"Nats-Rollup": "all"})
        assert "error" in reply.json()


USERS = """
accounts {
  A {
    jetstream: enabled
    users: [
      { user: admin, password: admin }
      { user: blind, password: blind, permissions { publish: ["$JS.API.INFO"], subscribe: ["_INBOX.>"] } }
      { user: reader, password: reader, permissions {
          publish: { allow: ["$JS.API.>"], deny: ["$JS.API.STREAM.CREATE.>", "$JS.API.CONSUMER.CREATE.>"] }
          subscribe: ["_INBOX.>"] } }
    ]
  }
}
"""


async def test_without_the_right_to_create_the_error_names_what_is_missing() -> None:
    with LocalServer(sync_always=False, extra_config=USERS) as server:
        reader = Credentials(user="reader", password="reader")
        with pytest.raises(StreamMissingError) as missing:
            async with open_world(ConnectOptions(server.url, shards=1, credentials=reader)):
                pytest.fail("opened")
        assert all(spec.name in str(missing.value) for spec in Topology("romancy", 1).streams())
        admin = Credentials(user="admin", password="admin")
        async with open_world(ConnectOptions(server.url, shards=1, credentials=admin)):
            pass
        async with open_world(ConnectOptions(server.url, credentials=reader)) as world:
            assert world.topology.shards == 1
            with pytest.raises(StreamMissingError, match="start_order"):
                await world.ensure_consumers({"order": None})
        blind = Credentials(user="blind", password="blind")
        with pytest.raises(PermissionDeniedError):
            async with open_world(ConnectOptions(server.url, credentials=blind, provision=False)):
                pytest.fail("opened")


async def test_the_committed_files_are_the_topology() -> None:
    wanted = export(Topology("romancy"), ("order_workflow",))
    found = {path.name: path.read_text(encoding="utf-8") for path in STREAMS.glob("*.json")}
    assert found == wanted, "streams/ is generated: see streams/README.md"


async def test_the_server_takes_the_committed_files(connection: Connection) -> None:
    """As `nats stream add --config` would send them."""
    configs = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in STREAMS.glob("*.json")}
    streams = [config for config in configs.values() if "durable_name" not in config]
    assert streams
    try:
        for config in streams:
            assert (await ask(connection, f"STREAM.CREATE.{config['name']}", config)).text == ""
        for file, config in configs.items():
            if "durable_name" in config:
                stream, name = file.split(".")[0], config["name"]
                request = {"stream_name": stream, "config": config}
                subject = f"CONSUMER.CREATE.{stream}.{name}.{config['filter_subject']}"
                assert (await ask(connection, subject, request)).text == ""
        assert await provision.diff(connection, Topology("romancy")) == []
    finally:
        for config in streams:
            await ask(connection, f"STREAM.DELETE.{config['name']}")
