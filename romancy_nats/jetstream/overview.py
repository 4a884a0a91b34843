"""How a namespace stands, by workflow: starts that wait, workers that pull, instances by status. Only looks."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import cast

from romancy_nats.core.record import InstanceStatus
from romancy_nats.errors import ServerError
from romancy_nats.jetstream.api import Answer, as_object, ask
from romancy_nats.jetstream.connection import Connection
from romancy_nats.jetstream.ledger import JetStreamLedger
from romancy_nats.jetstream.orphans import JetStreamOrphans
from romancy_nats.jetstream.topology import Topology

_TIMEOUT = 15.0
_LOOKS = 4
_PAUSE = 0.15
"""A worker has no pull waiting for the moment between two pulls."""


@dataclass(slots=True)
class Standing:
    """One workflow. `queued` are starts that nobody has claimed yet; `workers` those that pull its messages now."""

    workflow: str
    workers: int = 0
    queued: int = 0
    statuses: Counter[InstanceStatus] = field(default_factory=Counter[InstanceStatus])

    @property
    def live(self) -> int:
        """How many instances have not ended."""
        return sum(number for status, number in self.statuses.items() if not status.ended)

    @property
    def stalled(self) -> int:
        """How many instances wait for somebody to act."""
        return self.statuses[InstanceStatus.STALLED]


async def standings(connection: Connection, topology: Topology) -> list[Standing]:
    """All workflows that have a queue, a start or an instance, by name."""
    subjects = topology.subjects
    found: dict[str, Standing] = {}

    def of(workflow: str) -> Standing:
        return found.setdefault(workflow, Standing(workflow))

    async for consumer in _consumers(connection, subjects.start_stream):
        workflow = subjects.read_workflow(_filter(consumer))
        # What was handed out is not acked before its instance rests: it is in the ledger already.
        of(workflow).queued += _number(consumer, "num_pending")
    for orphan in await JetStreamOrphans(connection, subjects).unclaimed():
        of(orphan.workflow or orphan.token).queued += orphan.starts
    for look in range(_LOOKS):
        if look:
            await asyncio.sleep(_PAUSE)
        async for consumer in _consumers(connection, subjects.messages_stream):
            standing = of(subjects.read_workflow(_filter(consumer)))
            standing.workers = max(standing.workers, _number(consumer, "num_waiting"))
    async for listed in JetStreamLedger(connection, subjects, topology.shards).scan():
        of(listed.key.workflow).statuses[listed.record.status] += 1
    return [found[name] for name in sorted(found)]


async def dead_letters(connection: Connection, topology: Topology) -> int:
    """How many dead letters there are."""
    answer = await ask(connection, f"STREAM.INFO.{topology.subjects.dead_stream}", None, _TIMEOUT)
    _raise_refused(answer, topology.subjects.dead_stream)
    return _number(answer.part("state"), "messages")


async def _consumers(connection: Connection, stream: str) -> AsyncIterator[object]:
    seen = 0
    while True:
        answer = await ask(connection, f"CONSUMER.LIST.{stream}", {"offset": seen}, _TIMEOUT)
        _raise_refused(answer, stream)
        consumers = cast("list[object]", answer.body.get("consumers") or [])
        for consumer in consumers:
            yield consumer
        seen += len(consumers)
        if not consumers or seen >= _number(answer.body, "total"):
            return


def _raise_refused(answer: Answer, stream: str) -> None:
    if answer.code:
        raise ServerError(f"cannot look at stream {stream}: {answer.text} ({answer.code})")


def _filter(consumer: object) -> str:
    return str(as_object(as_object(consumer).get("config")).get("filter_subject") or "")


def _number(body: object, name: str) -> int:
    found = as_object(body).get(name)
    return found if isinstance(found, int) else 0
