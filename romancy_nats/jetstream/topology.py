"""The streams, buckets and consumers of a namespace as data, in the server's own JSON form. No I/O.

What an operator may choose otherwise is in `TUNABLE`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from romancy_nats.errors import ConfigurationError
from romancy_nats.jetstream.subjects import DISPATCHER, Subjects

Config = dict[str, object]
Storage = Literal["file", "memory"]

DEFAULT_SHARDS = 8
MOST_SHARDS = 256
FORMAT = "1"
SHARDS_KEY = "romancy.shards"
FORMAT_KEY = "romancy.format"

_SECOND = 1_000_000_000
_DAY = 86_400 * _SECOND
_WINDOW = 120 * _SECOND
_MARKER = 60 * _SECOND

TUNABLE = frozenset(
    {"num_replicas", "storage", "max_age", "duplicate_window", "subject_delete_marker_ttl", "max_waiting"}
)
"""An operator may choose these otherwise; nothing that must be right rests on them."""


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """A stream as it should be."""

    name: str
    config: Config


@dataclass(frozen=True, slots=True)
class ConsumerSpec:
    """A durable pull consumer as it should be."""

    stream: str
    name: str
    config: Config


@dataclass(frozen=True)
class Topology:
    """Everything that a namespace needs on the server."""

    namespace: str
    shards: int = DEFAULT_SHARDS
    replicas: int = 1
    storage: Storage = "file"

    def __post_init__(self) -> None:
        if not 1 <= self.shards <= MOST_SHARDS:
            raise ConfigurationError(f"a namespace has 1 to {MOST_SHARDS} shards, not {self.shards}")
        if self.replicas not in {1, 3, 5}:
            raise ConfigurationError(f"replicas must be 1, 3 or 5, not {self.replicas}")

    @cached_property
    def subjects(self) -> Subjects:
        return Subjects(self.namespace)

    def streams(self) -> list[StreamSpec]:
        """All streams, shard 0 first: it decides how many shards there are."""
        return [*(self.shard(p) for p in range(self.shards)), *self._others()]

    def shard(self, p: int) -> StreamSpec:
        """A shard of the ledger: an event stream and a KV bucket at once."""
        bucket = self.subjects.shard_bucket(p)
        config: Config = {
            "subjects": [f"$KV.{bucket}.>", f"{self.subjects.commit_prefix(p)}>"],
            "retention": "limits",
            # Together: a commit is written once (10077), a record has one value.
            "max_msgs_per_subject": 1,
            "discard": "new",
            "discard_new_per_subject": True,
            "allow_rollup_hdrs": True,
            "allow_msg_ttl": True,
            # Tells whoever watches the bucket that a record expired. Short: it takes as much memory as the record did.
            "subject_delete_marker_ttl": _MARKER,
            "allow_direct": True,
            "republish": {
                "src": f"{self.subjects.commit_prefix(p)}>",
                "dest": f"{self.namespace}.live.{p}.>",
                "headers_only": True,
            },
        }
        if p == 0:
            config["metadata"] = {SHARDS_KEY: str(self.shards), FORMAT_KEY: FORMAT}
        return self._stream(self.subjects.shard_stream(p), config)

    def consumers(
        self, workflow: str, max_concurrency: int | None = None, ack_wait: float = 16.0
    ) -> list[ConsumerSpec]:
        """The three consumers of a workflow: what every worker that runs it shares."""
        subjects = self.subjects
        wait = int(ack_wait * _SECOND)
        return [
            _consumer(
                subjects.start_stream,
                subjects.consumer("start", workflow),
                subjects.start(workflow),
                wait,
                -1 if max_concurrency is None else max_concurrency,
            ),
            # Never limited: a saturated workflow can still be cancelled.
            _consumer(
                subjects.messages_stream,
                subjects.consumer("message", workflow),
                subjects.messages(workflow),
                wait,
                -1,
            ),
            _consumer(
                subjects.timers_stream, subjects.consumer("due", workflow), subjects.dues(workflow), wait, -1
            ),
        ]

    def dispatcher(self, ack_wait: float = 16.0) -> ConsumerSpec:
        """The consumer of all events: what every worker of the namespace shares."""
        subjects = self.subjects
        wait = int(ack_wait * _SECOND)
        return _consumer(subjects.events_stream, DISPATCHER, subjects.events, wait, -1)

    def _others(self) -> Iterator[StreamSpec]:
        ns, subjects = self.namespace, self.subjects
        yield self._stream(subjects.workers_stream, self._workers())
        # Plain on purpose: on a stream with rollups, schedules or TTL markers a publisher could erase what others
        # sent.
        yield self._stream(subjects.start_stream, self._queue(f"{ns}.start.*"))
        yield self._stream(subjects.messages_stream, self._queue(f"{ns}.message.*.*"))
        yield self._stream(
            subjects.events_stream,
            self._log(f"{ns}.event.>", f"{ns}.channel.>", f"{ns}.wait.>")
            | {"max_age": 7 * _DAY, "allow_msg_ttl": True},
        )
        yield self._stream(
            subjects.timers_stream,
            # The server turns rollups on for schedules, so that workers alone may publish here; it wants discard old
            # with them, which without limits discards nothing.
            self._queue(f"{ns}.timer.>", f"{ns}.due.>")
            | {"discard": "old", "allow_msg_schedules": True, "allow_rollup_hdrs": True},
        )
        yield self._stream(subjects.archive_stream, self._log(f"{ns}.archive.*") | {"max_age": 30 * _DAY})
        yield self._stream(
            subjects.dead_stream,
            # A long window: a letter is known by the message it parks, and that may come back for hours.
            self._log(f"{ns}.dead.*") | {"duplicate_window": _DAY},
        )
        store = subjects.blobs_store
        yield self._stream(
            subjects.blobs_stream,
            self._log(f"$O.{store}.C.>", f"$O.{store}.M.>") | {"discard": "new", "allow_rollup_hdrs": True},
        )

    def _workers(self) -> Config:
        bucket = self.subjects.workers_bucket
        return {
            "subjects": [f"$KV.{bucket}.>"],
            "retention": "limits",
            "max_msgs_per_subject": 1,
            "discard": "new",
            "allow_rollup_hdrs": True,
            "allow_msg_ttl": True,
            # Without a marker nobody would be told of an expiry.
            "subject_delete_marker_ttl": _MARKER,
            "allow_direct": True,
            # Tried: the announcement comes for expiry markers too, and a core subscription survives reconnects.
            "republish": {
                "src": f"$KV.{bucket}.>",
                "dest": f"{self.namespace}.lease.>",
                "headers_only": True,
            },
        }

    def _queue(self, *subjects: str) -> Config:
        return {
            "subjects": list(subjects),
            "retention": "workqueue",
            "discard": "new",
            "allow_direct": True,
            "duplicate_window": _WINDOW,
            # One consumer per workflow and kind; without a number the server allows 1,000 (since 2.15).
            "max_consumers": 100_000,
        }

    def _log(self, *subjects: str) -> Config:
        return {
            "subjects": list(subjects),
            "retention": "limits",
            "discard": "old",
            "allow_direct": True,
            "duplicate_window": _WINDOW,
        }

    def _stream(self, name: str, config: Config) -> StreamSpec:
        return StreamSpec(
            name, {"name": name, **config, "storage": self.storage, "num_replicas": self.replicas}
        )


def _consumer(
    stream: str, name: str, filter_subject: str, ack_wait: int, max_ack_pending: int
) -> ConsumerSpec:
    return ConsumerSpec(
        stream,
        name,
        {
            "name": name,
            "durable_name": name,
            "filter_subject": filter_subject,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": ack_wait,
            # Parking is our decision, with the reason kept.
            "max_deliver": -1,
            "max_ack_pending": max_ack_pending,
            # Each worker leaves one pull waiting; the server's 512 would cap the fleet.
            "max_waiting": 4096,
            "replay_policy": "instant",
        },
    )


def export(topology: Topology, workflows: tuple[str, ...] = ()) -> dict[str, str]:
    """File name to JSON, as `nats stream add --config` and `nats consumer add --config` take it."""
    files = {f"{spec.name}.json": _json(spec.config) for spec in topology.streams()}
    consumers = [topology.dispatcher()]
    for workflow in workflows:
        consumers += topology.consumers(workflow)
    for consumer in consumers:
        files[f"{consumer.stream}.{consumer.name}.json"] = _json(consumer.config)
    return files


def _json(config: Config) -> str:
    return json.dumps(config, indent=2) + "\n"
