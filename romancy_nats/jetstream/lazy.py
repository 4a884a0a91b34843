"""A client's ports on a namespace that may not exist yet: its first write makes the streams, reading never does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import suppress

from romancy_nats.core.cloudevents import Event
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.messages.envelope import Message
from romancy_nats.core.record import InstanceRecord
from romancy_nats.errors import PermissionDeniedError, StreamMissingError
from romancy_nats.jetstream import provision
from romancy_nats.jetstream.connection import Connection
from romancy_nats.jetstream.events import JetStreamEvents
from romancy_nats.jetstream.ledger import JetStreamLedger
from romancy_nats.jetstream.queues import JetStreamQueues
from romancy_nats.jetstream.subjects import Subjects
from romancy_nats.jetstream.topology import Topology
from romancy_nats.ports import Delivery, Held, Listed, WriteReply


class Namespace:
    """The streams of one namespace, looked for by whoever reads and made by whoever writes first.

    `wanted` says how it is made; where it exists already, its own number of shards counts. With `may_make` False a
    write raises StreamMissingError instead.
    """

    def __init__(self, connection: Connection, wanted: Topology, *, may_make: bool) -> None:
        self.subjects: Subjects = wanted.subjects
        self._connection = connection
        self._wanted = wanted
        self._may_make = may_make
        self._found: Topology | None = None
        self._complete = False
        self._providing = asyncio.Lock()

    @property
    def topology(self) -> Topology:
        """What was found, else what would be made."""
        return self._found or self._wanted

    async def find(self) -> Topology | None:
        """The namespace, or None while there is none. Makes nothing."""
        if self._found is None:
            try:
                self._found = await provision.read_topology(self._connection, self._wanted)
            except StreamMissingError:
                return None
        return self._found

    async def provide(self) -> None:
        """All its streams are there when this returns. Raises StreamMissingError, ConfigurationError.

        Credentials that may publish starts and events alone may not look: then the answer to the write tells.
        """
        if self._complete:
            return
        async with self._providing:
            if not self._complete:
                with suppress(PermissionDeniedError):
                    self._found = await self._made()
                self._complete = True

    async def _made(self) -> Topology:
        wanted = self._wanted
        if not self._may_make:
            return await provision.find_streams(self._connection, wanted.namespace)
        return await provision.ensure_streams(
            self._connection,
            wanted.namespace,
            shards=wanted.shards,
            replicas=wanted.replicas,
            storage=wanted.storage,
        )


class LazyLedger:
    """Implements `ports.Ledger`. A namespace that does not exist holds no instance."""

    def __init__(self, connection: Connection, namespace: Namespace, patience: float) -> None:
        self._connection = connection
        self._namespace = namespace
        self._patience = patience
        self._topology: Topology | None = None
        self._made: JetStreamLedger | None = None

    @property
    def _ledger(self) -> JetStreamLedger:
        topology = self._namespace.topology
        if self._made is None or topology is not self._topology:
            self._made = JetStreamLedger(self._connection, topology.subjects, topology.shards, self._patience)
            self._topology = topology
        return self._made

    def append(
        self,
        key: InstanceKey,
        generation: int,
        n: int,
        data: bytes,
        fence: int,
        done: Callable[[WriteReply], None],
    ) -> None:
        """Write commit n once; whoever appends has written the record before."""
        self._ledger.append(key, generation, n, data, fence, done)

    async def write(self, key: InstanceKey, record: InstanceRecord, expected: int) -> WriteReply:
        """Create or replace the record by compare-and-set."""
        await self._namespace.provide()
        return await self._ledger.write(key, record, expected)

    async def read(self, key: InstanceKey) -> Held | None:
        """The record, from the leader."""
        return None if await self._namespace.find() is None else await self._ledger.read(key)

    async def read_commit(self, key: InstanceKey, generation: int, n: int) -> bytes | None:
        """Commit n, from the leader."""
        if await self._namespace.find() is None:
            return None
        return await self._ledger.read_commit(key, generation, n)

    async def read_history(self, key: InstanceKey, generation: int, first: int, most: int) -> list[bytes]:
        """Up to `most` commits from `first` on."""
        if await self._namespace.find() is None:
            return []
        return await self._ledger.read_history(key, generation, first, most)

    async def existing(self, keys: Sequence[InstanceKey]) -> Collection[InstanceKey]:
        """Which of these have a record."""
        return [] if await self._namespace.find() is None else await self._ledger.existing(keys)

    async def scan(self, workflow: str | None = None, id: str | None = None) -> AsyncIterator[Listed]:
        """Records, of one workflow or one id if named."""
        if await self._namespace.find() is not None:
            async for listed in self._ledger.scan(workflow, id):
                yield listed


class LazyQueues(JetStreamQueues):
    """Implements `ports.Queues` for a client."""

    def __init__(self, connection: Connection, namespace: Namespace, patience: float) -> None:
        super().__init__(connection, namespace.subjects, patience)
        self._namespace = namespace

    async def start_at(self, sequence: int) -> Delivery | None:
        """The start at that place of its stream."""
        return None if await self._namespace.find() is None else await super().start_at(sequence)

    async def stored_starts(self, workflow: str | None = None) -> AsyncIterator[Delivery]:
        """The starts that nobody acknowledged."""
        if await self._namespace.find() is not None:
            async for start in super().stored_starts(workflow):
                yield start

    async def start(self, workflow: str, data: bytes, headers: Mapping[str, str]) -> WriteReply:
        """Publish a start."""
        await self._namespace.provide()
        return await super().start(workflow, data, headers)

    async def send(self, message: Message) -> WriteReply:
        """Publish a message to an instance."""
        await self._namespace.provide()
        return await super().send(message)


class LazyEvents(JetStreamEvents):
    """Implements `ports.Events` for a client."""

    def __init__(self, connection: Connection, namespace: Namespace) -> None:
        super().__init__(connection, namespace.subjects)
        self._namespace = namespace

    async def publish(self, event: Event, message_id: str) -> WriteReply:
        """Publish an event."""
        await self._namespace.provide()
        return await super().publish(event, message_id)
