"""Puts the ports together on one connection: `open_world`. No logic of its own."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from romancy_nats.jetstream import provision as provisioning
from romancy_nats.jetstream.archive import JetStreamArchive
from romancy_nats.jetstream.connection import Connection
from romancy_nats.jetstream.credentials import Credentials
from romancy_nats.jetstream.events import JetStreamEvents
from romancy_nats.jetstream.lazy import LazyEvents, LazyLedger, LazyQueues, Namespace
from romancy_nats.jetstream.leases import JetStreamLeases
from romancy_nats.jetstream.ledger import JetStreamLedger
from romancy_nats.jetstream.orphans import JetStreamOrphans
from romancy_nats.jetstream.queues import JetStreamQueues
from romancy_nats.jetstream.timers import JetStreamTimers
from romancy_nats.jetstream.topology import DEFAULT_SHARDS, Storage, Topology
from romancy_nats.jetstream.wire import CoreWire
from romancy_nats.ports import Ledger, World

ACK_WAIT_MARGIN = 1.0
"""A worker that holds its lease is never taken for gone by a queue."""


class SystemClock:
    """Implements `ports.Clock`."""

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never step."""
        return time.monotonic()


class SystemChance:
    """Implements `ports.Chance`."""

    def __init__(self) -> None:
        # Seeded once with more than an id holds: a system call per id is a tenth of what a commit costs.
        self._random = random.Random(secrets.token_bytes(64))

    def id(self) -> str:
        """96 random bits: never used twice, plain in subjects and on command lines."""
        return f"{self._random.getrandbits(96):024x}"

    def number(self) -> float:
        """In [0, 1)."""
        return self._random.random()


@dataclass(slots=True, frozen=True)
class JetStreamWorld(World):
    """The ports on a server, and what composition needs beside them."""

    connection: Connection
    topology: Topology
    lease_ttl: float

    @property
    def max_payload(self) -> int:
        """As the server said when it was connected to last."""
        return self.connection.max_payload

    async def ensure_consumers(self, workflows: Mapping[str, int | None]) -> None:
        """The queues of these workflows (name to `max_concurrency`); before a worker pulls."""
        ack_wait = self.lease_ttl + ACK_WAIT_MARGIN
        await provisioning.ensure_consumers(self.connection, self.topology, workflows, ack_wait)


@asynccontextmanager
async def open_world(
    url: str,
    *,
    namespace: str = "romancy",
    shards: int = DEFAULT_SHARDS,
    replicas: int = 1,
    storage: Storage = "file",
    lease_ttl: float = 15.0,
    provision: bool = True,
    name: str = "romancy",
    credentials: Credentials | None = None,
    inbox_prefix: str = "_INBOX",
    timeout: float = 5.0,
) -> AsyncGenerator[JetStreamWorld]:
    """Connect to a namespace; `shards`, `replicas` and `storage` matter only when it is created.

    Raises what `Connection.open` and the provisioning raise.
    """
    async with Connection.open(
        url, name=name, credentials=credentials, inbox_prefix=inbox_prefix, timeout=timeout
    ) as connection:
        if provision:
            topology = await provisioning.ensure_streams(
                connection, namespace, shards=shards, replicas=replicas, storage=storage
            )
        else:
            topology = await provisioning.find_streams(connection, namespace)
        subjects = topology.subjects
        queues = JetStreamQueues(connection, subjects)
        events = JetStreamEvents(connection, subjects)
        ledger = JetStreamLedger(connection, subjects, topology.shards)
        try:
            yield _world(connection, ledger, queues, events, lambda: topology, lease_ttl)
        finally:
            await queues.stop_pulling()
            await events.stop_pulling()


@asynccontextmanager
async def open_client_world(
    url: str,
    *,
    namespace: str = "romancy",
    shards: int = DEFAULT_SHARDS,
    replicas: int = 1,
    lease_ttl: float = 15.0,
    provision: bool = True,
    name: str = "romancy",
    credentials: Credentials | None = None,
    inbox_prefix: str = "_INBOX",
    patience: float = 30.0,
) -> AsyncGenerator[JetStreamWorld]:
    """Connect to a namespace as a client: its first write makes missing streams if `provision` allows it.

    Raises what `Connection.open` raises; the write raises what the provisioning raises.
    """
    async with Connection.open(
        url, name=name, credentials=credentials, inbox_prefix=inbox_prefix
    ) as connection:
        place = Namespace(connection, Topology(namespace, shards, replicas), may_make=provision)
        ledger = LazyLedger(connection, place, patience)
        queues, events = LazyQueues(connection, place, patience), LazyEvents(connection, place)
        yield _world(connection, ledger, queues, events, lambda: place.topology, lease_ttl, patience)


def _world(
    connection: Connection,
    ledger: Ledger,
    queues: JetStreamQueues,
    events: JetStreamEvents,
    topology: Callable[[], Topology],
    lease_ttl: float,
    patience: float | None = None,
) -> JetStreamWorld:
    subjects = topology().subjects
    return JetStreamWorld(
        ledger=ledger,
        queues=queues,
        orphans=JetStreamOrphans(connection, subjects),
        leases=JetStreamLeases(connection, subjects),
        wire=CoreWire(connection, subjects, lambda: topology().shards),
        timers=JetStreamTimers(connection, subjects),
        events=events,
        archive=JetStreamArchive(connection, subjects, topology().shards),
        clock=SystemClock(),
        chance=SystemChance(),
        connection=connection,
        topology=topology(),
        lease_ttl=lease_ttl,
        patience=patience,
    )
