"""Every scenario runs on memory and on real servers, one and three, which have to give the same answers."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import socket
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager

import pytest

from romancy_nats.errors import ServerError
from romancy_nats.jetstream.connect_options import ConnectOptions
from romancy_nats.jetstream.server import LocalServer
from romancy_nats.jetstream.world import JetStreamWorld, open_world
from romancy_nats.testing import virtual_time
from romancy_nats.testing.memory import MemoryServer
from tests.conformance.stage import ACK_WAIT, Play, Scenario, Stage

NAMESPACE = f"conf-{secrets.token_hex(4)}"
SHARDS = 2

_numbers = itertools.count(1)


@asynccontextmanager
async def memory_stage(replicas: int) -> AsyncGenerator[Stage]:
    server = MemoryServer(shards=SHARDS, replicas=replicas, ack_wait=ACK_WAIT)
    name = f"wf{next(_numbers)}"
    first, second = server.world("first"), server.world("second")

    async def make_queues(max_concurrency: int | None) -> None:
        await first.ensure_consumers({name: max_concurrency})

    yield Stage(first, second, name, replicas, server.max_payload, make_queues)


@asynccontextmanager
async def jetstream_stage(url: str, replicas: int) -> AsyncGenerator[Stage]:
    def process() -> AbstractAsyncContextManager[JetStreamWorld]:
        return open_world(
            ConnectOptions(url, namespace=NAMESPACE, shards=SHARDS, replicas=replicas, lease_ttl=ACK_WAIT - 1)
        )

    async with process() as first, process() as second:
        name = f"wf{next(_numbers)}"

        async def make_queues(max_concurrency: int | None) -> None:
            await first.ensure_consumers({name: max_concurrency})

        yield Stage(first, second, name, replicas, first.connection.max_payload, make_queues)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _cluster(port: int, routes: str) -> str:
    return f"server_name: n{port}\ncluster {{ name: c, listen: 127.0.0.1:{port}, routes: [{routes}] }}\n"


@pytest.fixture(scope="session")
def nats_cluster() -> Iterator[str]:
    """Three servers on loopback; the URL of one of them."""
    ports = [_free_port() for _ in range(3)]
    routes = ", ".join(f"nats://127.0.0.1:{port}" for port in ports)
    with ExitStack() as stack:
        servers = [LocalServer(sync_always=False, extra_config=_cluster(port, routes)) for port in ports]
        for server in servers:
            stack.enter_context(server)
        asyncio.run(_elected(servers[0].url))
        yield servers[0].url


async def _elected(url: str) -> None:
    """A cluster takes streams only once it has a leader."""
    until = time.monotonic() + 30
    while True:
        try:
            async with open_world(ConnectOptions(url, namespace=NAMESPACE, shards=SHARDS, replicas=3)):
                return
        except ServerError:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.5)


@pytest.fixture(params=["memory", "memory-r3", "jetstream", "jetstream-r3"])
def play(request: pytest.FixtureRequest) -> Play:
    """Runs a scenario on one of the worlds."""
    kind = str(request.param)
    replicas = 3 if kind.endswith("r3") else 1
    if kind.startswith("memory"):
        return lambda scenario: virtual_time.run(lambda: _act(lambda: memory_stage(replicas), scenario))
    url = request.getfixturevalue("nats_cluster" if replicas == 3 else "nats_server")
    url = url if isinstance(url, str) else url.url
    return lambda scenario: asyncio.run(_act(lambda: jetstream_stage(url, replicas), scenario))


async def _act(stage: Callable[[], AbstractAsyncContextManager[Stage]], scenario: Scenario) -> None:
    async with stage() as place:
        try:
            await scenario(place)
        finally:
            await place.clear()
