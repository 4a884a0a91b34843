"""Makes a server hold what the topology says: create what is missing, show what differs, change only when told.

Never deletes and never recreates anything; several processes may run it at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Iterable, Mapping
from enum import Enum, auto
from typing import NamedTuple, cast

from romancy_nats.errors import ConfigurationError, PermissionDeniedError, ServerError, StreamMissingError
from romancy_nats.jetstream.api import CONSUMER_MISSING, STREAM_EXISTS, STREAM_MISSING, Answer, as_object, ask
from romancy_nats.jetstream.connection import Connection
from romancy_nats.jetstream.topology import (
    DEFAULT_SHARDS,
    FORMAT,
    FORMAT_KEY,
    SHARDS_KEY,
    TUNABLE,
    Config,
    ConsumerSpec,
    Storage,
    StreamSpec,
    Topology,
)

_log = logging.getLogger("romancy.provision")

_SHARD_0 = re.compile(r"KV_[a-z0-9-]{1,32}_0")
API_TIMEOUT = 15.0
"""A replicated stream waits for its group to elect a leader."""


class Difference(NamedTuple):
    """One setting of a stream that is not as the topology has it. `found` is None for a missing stream."""

    stream: str
    setting: str
    wanted: object
    found: object

    @property
    def tunable(self) -> bool:
        """Whether an operator may choose it."""
        return self.setting in TUNABLE

    def __str__(self) -> str:
        if not self.setting:
            return f"{self.stream} is missing"
        return (
            f"{self.stream}: {self.setting} is {json.dumps(self.found)}, should be {json.dumps(self.wanted)}"
        )


class _Outcome(Enum):
    THERE = auto()
    CREATED = auto()
    DENIED = auto()


# --- the namespace


async def ensure_streams(
    connection: Connection,
    namespace: str,
    *,
    shards: int = DEFAULT_SHARDS,
    replicas: int = 1,
    storage: Storage = "file",
) -> Topology:
    """Create what is missing; the answer has the namespace's own number of shards, whatever `shards` says.

    Raises StreamMissingError when something is missing that these credentials may not create, PermissionDeniedError
    when they may not even look, ConfigurationError when a stream differs in what must be right.
    """
    topology = Topology(namespace, shards, replicas, storage)
    # Shard 0 first: whoever creates it decides how many there are.
    first = topology.shard(0)
    began = await _create(connection, first)
    if began is not _Outcome.DENIED:
        topology = await read_topology(connection, topology)
    rest = topology.streams()
    outcomes = await asyncio.gather(*(_create(connection, spec) for spec in rest))
    denied = [spec.name for spec, outcome in zip(rest, outcomes, strict=True) if outcome is _Outcome.DENIED]
    if denied:
        raise _missing(topology.namespace, denied)
    if made := [began, *outcomes].count(_Outcome.CREATED):
        _log.info("created %d streams of namespace %s", made, topology.namespace)
    there = [spec for spec, outcome in zip(rest, outcomes, strict=True) if outcome is _Outcome.THERE]
    _refuse_conflicts(await _differences(connection, there))
    return topology


async def find_streams(connection: Connection, namespace: str) -> Topology:
    """The namespace as it is. Raises StreamMissingError naming what is not there, creates nothing."""
    topology = await read_topology(connection, Topology(namespace))
    differences = await diff(connection, topology)
    missing = [one.stream for one in differences if not one.setting]
    if missing:
        raise _missing(namespace, missing)
    _refuse_conflicts(differences)
    return topology


async def read_topology(connection: Connection, like: Topology) -> Topology:
    """`like`, with the number of shards that the namespace was created with (in the metadata of shard 0)."""
    name = like.subjects.shard_stream(0)
    answer = await _stream_info(connection, name)
    if answer is None:
        raise _missing(like.namespace, [name])
    metadata = as_object(answer.get("metadata"))
    count = str(metadata.get(SHARDS_KEY, ""))
    if not count.isdecimal() or metadata.get(FORMAT_KEY) != FORMAT:
        raise ConfigurationError(
            f"stream {name} says {SHARDS_KEY}={count!r}, {FORMAT_KEY}={metadata.get(FORMAT_KEY)!r} in its metadata: "
            f"it was not made by this release (format {FORMAT}); use another namespace or the release that made it"
        )
    return Topology(like.namespace, int(count), like.replicas, like.storage)


async def namespaces(connection: Connection) -> list[str]:
    """The names of all namespaces on the server, sorted."""
    found: list[str] = []
    seen = 0
    while True:
        request: Config = {"offset": seen, "subject": "$KV.*.instance.>"}
        answer = await ask(connection, "STREAM.NAMES", request, API_TIMEOUT)
        _raise_refused(answer, "list its streams")
        names = answer.body.get("streams")
        if not isinstance(names, list) or not names:
            return sorted(found)
        seen += len(cast("list[object]", names))
        # Shard 0 is there once in each namespace.
        found += [name[3:-2] for name in map(str, cast("list[object]", names)) if _SHARD_0.fullmatch(name)]


async def diff(connection: Connection, topology: Topology) -> list[Difference]:
    """Everything in which the server differs from the topology, missing streams included."""
    return await _differences(connection, topology.streams())


async def apply(connection: Connection, topology: Topology, *, tunable: bool = False) -> list[Difference]:
    """Create and update what differs, what an operator may choose only if `tunable`; the changes made.

    Raises ConfigurationError where the server refuses.
    """
    differences = [one for one in await diff(connection, topology) if tunable or not one.tunable]
    wanted = {spec.name: spec for spec in topology.streams()}
    for name in dict.fromkeys(one.stream for one in differences):
        missing = any(one.stream == name and not one.setting for one in differences)
        verb = "CREATE" if missing else "UPDATE"
        config = wanted[name].config if missing else await _merged(connection, wanted[name], tunable=tunable)
        answer = await ask(connection, f"STREAM.{verb}.{name}", config, API_TIMEOUT)
        if answer.code and not (missing and answer.code == STREAM_EXISTS):
            raise ConfigurationError(
                f"the server refuses to change stream {name}: {answer.text} ({answer.code})"
            )
    return differences


# --- streams


async def _create(connection: Connection, spec: StreamSpec) -> _Outcome:
    blind: PermissionDeniedError | None = None
    try:
        if await _stream_info(connection, spec.name) is not None:
            return _Outcome.THERE
    except PermissionDeniedError as error:
        blind = error
    try:
        answer = await ask(connection, f"STREAM.CREATE.{spec.name}", spec.config, API_TIMEOUT)
    except PermissionDeniedError as error:
        if blind is not None:
            raise blind from error
        return _Outcome.DENIED
    if answer.code == STREAM_EXISTS:
        return _Outcome.THERE  # somebody else was faster
    if answer.code:
        raise ServerError(
            f"the server cannot create stream {spec.name}: {answer.text} ({answer.code}); "
            "check its JetStream limits, and that no other stream has these subjects"
        )
    _log.debug("created stream %s", spec.name)
    return _Outcome.CREATED


async def _stream_info(connection: Connection, name: str) -> Mapping[str, object] | None:
    answer = await ask(connection, f"STREAM.INFO.{name}", timeout=API_TIMEOUT)
    if answer.code == STREAM_MISSING:
        return None
    _raise_refused(answer, f"look at stream {name}")
    return answer.part("config")


async def _differences(connection: Connection, specs: Iterable[StreamSpec]) -> list[Difference]:
    specs = list(specs)
    found = await asyncio.gather(*(_stream_info(connection, spec.name) for spec in specs))
    differences: list[Difference] = []
    for spec, config in zip(specs, found, strict=True):
        differences += _compare(spec, config)
    return differences


def _compare(spec: StreamSpec, found: Mapping[str, object] | None) -> list[Difference]:
    if found is None:
        return [Difference(spec.name, "", spec.config, None)]
    return [
        Difference(spec.name, setting, wanted, found.get(setting))
        for setting, wanted in spec.config.items()
        if not _equal(setting, wanted, found.get(setting))
    ]


def _equal(setting: str, wanted: object, found: object) -> bool:
    if setting == "metadata":
        return as_object(wanted).items() <= as_object(found).items()  # the server and operators add their own
    if setting == "subjects" and isinstance(wanted, list) and isinstance(found, list):
        return sorted(cast("list[str]", wanted)) == sorted(cast("list[str]", found))
    return wanted == found


async def _merged(connection: Connection, spec: StreamSpec, *, tunable: bool) -> Config:
    # What the topology does not speak of (placement, limits, descriptions) stays as the operator has it.
    found = dict(await _stream_info(connection, spec.name) or {})
    ours = {name: value for name, value in spec.config.items() if tunable or name not in TUNABLE}
    merged: Config = {**found, **ours}
    merged["metadata"] = {**as_object(found.get("metadata")), **as_object(spec.config.get("metadata"))}
    return merged


def _refuse_conflicts(differences: Iterable[Difference]) -> None:
    conflicts = [str(one) for one in differences if not one.tunable]
    if conflicts:
        raise ConfigurationError(
            "these streams exist, but not as this release needs them:\n  "
            + "\n  ".join(conflicts)
            + "\nNothing was changed. See `romancy streams diff`; `romancy streams apply` updates what can be updated; "
            "or choose another namespace."
        )


def _missing(namespace: str, names: Iterable[str]) -> StreamMissingError:
    return StreamMissingError(
        f"namespace {namespace!r} lacks the streams {', '.join(names)}, or these credentials may not see them: "
        "run `romancy streams apply` with credentials that may create streams"
    )


def _raise_refused(answer: Answer, what: str) -> None:
    if answer.code:
        raise ServerError(f"the server refuses to {what}: {answer.text} ({answer.code})")


# --- consumers


async def ensure_consumers(
    connection: Connection, topology: Topology, workflows: Mapping[str, int | None], ack_wait: float
) -> None:
    """The consumers of these workflows (name to `max_concurrency`) and of events, limits brought up to date.

    Raises StreamMissingError naming the consumers that these credentials may not create.
    """
    specs = [
        spec
        for workflow, max_concurrency in workflows.items()
        for spec in topology.consumers(workflow, max_concurrency, ack_wait)
    ]
    specs.append(topology.dispatcher(ack_wait))
    outcomes = await asyncio.gather(*(_ensure_consumer(connection, spec) for spec in specs))
    denied = [f"{spec.stream} > {spec.name}" for spec, good in zip(specs, outcomes, strict=True) if not good]
    if denied:
        raise StreamMissingError(
            f"consumers are missing or out of date, and these credentials may not create them: {', '.join(denied)}; "
            "run `romancy streams apply` with credentials that may"
        )


async def _ensure_consumer(connection: Connection, spec: ConsumerSpec) -> bool:
    found: Mapping[str, object] | None = None
    try:
        answer = await ask(connection, f"CONSUMER.INFO.{spec.stream}.{spec.name}", timeout=API_TIMEOUT)
        if answer.code != CONSUMER_MISSING:
            _raise_refused(answer, f"look at consumer {spec.name} of {spec.stream}")
            found = answer.part("config")
    except PermissionDeniedError:
        _log.debug("these credentials may not look at consumer %s", spec.name)
    wanted = spec.config
    if found is not None:
        changes = _consumer_changes(spec, found)
        if not changes:
            return True
        _log.info("consumer %s of %s: %s", spec.name, spec.stream, changes)
        wanted = {**found, **changes}
    return await _put_consumer(connection, spec, wanted)


def _consumer_changes(spec: ConsumerSpec, found: Mapping[str, object]) -> Config:
    for setting in ("filter_subject", "deliver_policy", "ack_policy", "max_deliver"):
        if found.get(setting) != spec.config[setting]:
            raise ConfigurationError(
                f"consumer {spec.name} of {spec.stream} exists with {setting} {found.get(setting)!r}, "
                f"needed is {spec.config[setting]!r}; delete it if nothing else uses it"
            )
    changes: Config = {}
    if found.get("max_ack_pending") != spec.config["max_ack_pending"]:
        changes["max_ack_pending"] = spec.config["max_ack_pending"]
    wait, wanted = found.get("ack_wait"), spec.config["ack_wait"]
    # Workers with different lease TTLs share it: the longest rules, or they would change it for ever.
    if isinstance(wait, int) and isinstance(wanted, int) and wait < wanted:
        changes["ack_wait"] = wanted
    return changes


async def _put_consumer(connection: Connection, spec: ConsumerSpec, config: Mapping[str, object]) -> bool:
    subject = f"CONSUMER.CREATE.{spec.stream}.{spec.name}.{spec.config['filter_subject']}"
    request: Config = {"stream_name": spec.stream, "config": dict(config)}
    try:
        answer = await ask(connection, subject, request, API_TIMEOUT)
    except PermissionDeniedError:
        return False
    _raise_refused(answer, f"create consumer {spec.name} of {spec.stream}")
    return True
