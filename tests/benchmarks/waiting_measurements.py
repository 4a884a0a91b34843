"""What is measured of waiting: events, timers, instances at rest, and the room that ended ones leave on the server."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable
from typing import cast

from romancy_nats.jetstream.api import ask
from romancy_nats.jetstream.connection import Connection
from romancy_nats.jetstream.topology import Topology
from tests.benchmarks.measurements import Numbers, Scale, between
from tests.benchmarks.processes import Stage, resident

APP = "waiting"
_ROUNDS = 300
_STEPS = 4


def event_cached(stage: Stage, scale: Scale) -> Numbers:
    """From `send_event` to the result, in raw round trips; the instance rests in the memory of the worker."""
    before = stage.baseline(scale.raw_seconds)
    namespace = stage.namespace()
    with stage.workers(namespace, 1, APP):
        client = _waiting(stage, namespace)
        found = _go(stage, client)
    return _in_round_trips(found, between(before, stage.baseline(scale.raw_seconds)))


def event_elsewhere(stage: Stage, scale: Scale) -> Numbers:
    """The same on a worker that never saw the instance and has to replay it."""
    before = stage.baseline(scale.raw_seconds)
    namespace = stage.namespace()
    with stage.workers(namespace, 1, APP):
        client = _waiting(stage, namespace)
    with stage.workers(namespace, 1, APP):
        found = _go(stage, client)
    return _in_round_trips(found, between(before, stage.baseline(scale.raw_seconds)))


def _waiting(stage: Stage, namespace: str) -> subprocess.Popen[str]:
    client = stage.begin_client(namespace, "wake_each", _ROUNDS)
    assert client.stdout is not None
    client.stdout.readline()
    return client


def _go(stage: Stage, client: subprocess.Popen[str]) -> Numbers:
    assert client.stdin is not None
    client.stdin.write("go\n")
    client.stdin.flush()
    return stage.finish(client)


def _in_round_trips(found: Numbers, raw: Numbers) -> Numbers:
    ratio = found["p50"] / raw["p50"]
    return {"p50 ms": found["p50"] * 1e3, "p99 ms": found["p99"] * 1e3, "ratio": ratio}


def asleep(stage: Stage, scale: Scale) -> Numbers:
    """What waiting instances cost in memory, once the worker's cache is full."""
    namespace = stage.namespace()
    with stage.workers(namespace, 1, APP) as (worker,):
        stage.client(namespace, "set_waiting", scale.waiting)
        held, served = worker.memory(), resident(stage.server)
        stage.client(namespace, "set_waiting", scale.waiting)
        more, more_served = worker.memory() - held, resident(stage.server) - served
    return {
        "instances": scale.waiting,
        "worker bytes each": more / scale.waiting,
        "server bytes each": more_served / scale.waiting,
    }


def broadcast(stage: Stage, scale: Scale) -> Numbers:
    """One event that every waiting instance hears."""
    namespace = stage.namespace()
    with stage.workers(namespace, 1, APP):
        started = stage.client(namespace, "set_listening", scale.broadcast)
        woken = stage.client(namespace, "wake_all", scale.broadcast)
    return {
        "instances": scale.broadcast,
        "completed": woken["completed"],
        "woken/s": woken["rate"],
        "set waiting/s": started["rate"],
    }


def timers(stage: Stage, scale: Scale) -> Numbers:
    """How late the timers of instances at rest fire, all due within one minute."""
    namespace = stage.namespace()
    with stage.workers(namespace, 1, APP):
        found = stage.client(namespace, "sleep_all", scale.waiting)
    return {
        "instances": scale.waiting,
        "p50 ms": found["p50"] * 1e3,
        "p99 ms": found["p99"] * 1e3,
        "earliest ms": found["earliest"] * 1e3,
    }


def retention(stage: Stage, scale: Scale) -> Numbers:
    """The memory of the server while instances end, are archived, and their records stay."""
    return _ending(stage, scale, {})


def expiry(stage: Stage, scale: Scale) -> Numbers:
    """The same while the records expire: what is there at all stops growing, and the memory with it."""
    return _ending(stage, scale, {"ROMANCY_RETENTION": "5"})


def _ending(stage: Stage, scale: Scale, settings: dict[str, str]) -> Numbers:
    namespace = stage.namespace()
    seen: Numbers = {"instances": scale.finished, "server MB at 0": resident(stage.server) / 2**20}
    with stage.workers(namespace, 1, APP, **{"ROMANCY_ARCHIVE_AFTER": "1", **settings}):
        for part in range(1, _STEPS + 1):
            found = stage.client(namespace, "finish", scale.finished // _STEPS)
            time.sleep(2)
            done = scale.finished * part // _STEPS
            seen[f"server MB at {done}"] = resident(stage.server) / 2**20
            seen[f"subjects at {done}"] = asyncio.run(_subjects(stage.url, namespace))
        seen["ends/s"] = found["rate"]
    return seen


async def _subjects(url: str, namespace: str) -> int:
    """The subjects of the ledger: its records, their expiry markers, and the commits not archived yet."""
    topology = Topology(namespace)
    async with Connection.open(url) as connection:
        names = (topology.shard(p).name for p in range(topology.shards))
        states = [(await ask(connection, f"STREAM.INFO.{name}")).part("state") for name in names]
    return sum(cast("int", state["num_subjects"]) for state in states)


MEASUREMENTS: dict[str, Callable[[Stage, Scale], Numbers]] = {
    "event": event_cached,
    "event_far": event_elsewhere,
    "asleep": asleep,
    "broadcast": broadcast,
    "timers": timers,
    "retention": retention,
    "expiry": expiry,
}
