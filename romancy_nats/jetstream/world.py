"""Puts the ports together on one connection: `open_world`. No logic of its own."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from romancy_nats.jetstream import provision as provisioning
from romancy_nats.jetstream.archive import JetStreamArchive
from romancy_nats.jetstream.connect_options import ConnectOptions
from romancy_nats.jetstream.connection import Connection
from romancy_nats.jetstream.events import JetStreamEvents
from romancy_nats.jetstream.lazy import LazyEvents, LazyLedger, LazyQueues, Namespace
from romancy_nats.jetstream.leases import JetStreamLeases
from romancy_nats.jetstream.ledger import JetStreamLedger
from romancy_nats.jetstream.orphans import JetStreamOrphans
from romancy_nats.jetstream.queues import JetStreamQueues
from romancy_nats.jetstream.timers import JetStreamTimers
from romancy_nats.jetstream.topology import Topology
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


def open_connection(options: ConnectOptions) -> AbstractAsyncContextManager[Connection]:
    """Connect, and nothing more. Raises what `Connection.open` raises."""
    return Connection.open(
        options.url,
        name=options.name,
        credentials=options.credentials,
        inbox_prefix=options.inbox_prefix,
    )


@asynccontextmanager
async def open_world(options: ConnectOptions) -> AsyncGenerator[JetStreamWorld]:
    """Connect to a namespace as a worker: missing streams are made at once if `provision` allows it.

    Raises what `Connection.open` and the provisioning raise.
    """
    async with open_connection(options) as connection:
        if options.provision:
            topology = await provisioning.ensure_streams(
                connection, options.namespace, shards=options.shards, replicas=options.replicas
            )
        else:
            topology = await provisioning.find_streams(connection, options.namespace)
        subjects = topology.subjects
        queues = JetStreamQueues(connection, subjects)
        events = JetStreamEvents(connection, subjects)
        ledger = JetStreamLedger(connection, subjects, topology.shards)
        try:
            yield _world(connection, ledger, queues, events, lambda: topology, options.lease_ttl)
        finally:
            await queues.stop_pulling()
            await events.stop_pulling()


@asynccontextmanager
async def open_client_world(
    options: ConnectOptions, *, patience: float = 30.0
) -> AsyncGenerator[JetStreamWorld]:
    """Connect to a namespace as a client: its first write makes missing streams if `provision` allows it.

    `patience` is how long a call waits for a server that does not answer, in seconds. Raises what `Connection.open`
    raises; the write raises what the provisioning raises.
    """
    async with open_connection(options) as connection:
        wanted = Topology(options.namespace, options.shards, options.replicas)
        place = Namespace(connection, wanted, may_make=options.provision)
        ledger = LazyLedger(connection, place, patience)
        queues, events = LazyQueues(connection, place, patience), LazyEvents(connection, place)
        yield _world(connection, ledger, queues, events, lambda: place.topology, options.lease_ttl, patience)


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
