"""What is measured, and how: W1, W2, W3, takeover, and a crowd in flight. Judges nothing, prints nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.processes import Stage, WorkerProcess
from tests.benchmarks.workload import RECORD, Record

Numbers = dict[str, float]


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    steps: int = 2000
    workflows: int = 2000
    rounds: int = 500
    crowd: int = 10_000
    crowd_seconds: int = 30
    lease: float = 15.0
    instances: int = 20
    raw_seconds: float = 1.5
    waiting: int = 10_000
    broadcast: int = 100_000
    finished: int = 200_000


FULL = Scale()
QUICK = Scale(500, 500, 100, 1000, 10, 3.0, 10, 0.7, 2000, 5000, 10_000)


def sequential(stage: Stage, scale: Scale) -> Numbers:
    """W1: steps per second of one workflow, beside the raw sequential rate."""
    before = stage.baseline(scale.raw_seconds)
    namespace = stage.namespace()
    with stage.workers(namespace, 1):
        found = stage.client(namespace, "w1", scale.steps)
    raw = between(before, stage.baseline(scale.raw_seconds))
    return {"steps/s": found["rate"], "raw": raw["sequential"], "ratio": found["rate"] / raw["sequential"]}


def throughput(workers: int) -> Callable[[Stage, Scale], Numbers]:
    """W2: workflows per second, beside the raw concurrent rate."""

    def measure(stage: Stage, scale: Scale) -> Numbers:
        before = stage.baseline(scale.raw_seconds)
        namespace = stage.namespace()
        with stage.workers(namespace, workers):
            rate = stage.client(namespace, "w2", scale.workflows)["rate"]
        raw = between(before, stage.baseline(scale.raw_seconds))["concurrent"]
        return {"workflows/s": rate, "raw": raw, "ratio": rate / raw}

    return measure


def latency(stage: Stage, scale: Scale) -> Numbers:
    """W3: start to result, in raw round trips."""
    before = stage.baseline(scale.raw_seconds)
    namespace = stage.namespace()
    with stage.workers(namespace, 1):
        found = stage.client(namespace, "w3", scale.rounds)
    raw = between(before, stage.baseline(scale.raw_seconds))["p50"]
    return {"p50 ms": found["p50"] * 1e3, "p99 ms": found["p99"] * 1e3, "ratio": found["p50"] / raw}


def takeover_after_kill(stage: Stage, scale: Scale) -> Numbers:
    """From kill -9 to the last of the instances going on at the other worker."""

    def strike(victim: WorkerProcess, record: Record, held: set[str]) -> float:
        struck = time.monotonic()
        victim.kill()
        return max(_went_on(record, victim, held, scale.lease + 30).values()) - struck

    return {"seconds": _takeover(stage, scale, strike), "lease": scale.lease}


def takeover_after_sigterm(stage: Stage, scale: Scale) -> Numbers:
    """The longest pause of an instance between its last activity on the old worker and its first on the new one."""

    def strike(victim: WorkerProcess, record: Record, held: set[str]) -> float:
        victim.terminate()
        resumed = _went_on(record, victim, held, scale.lease + 30)
        last = {e.instance: e.time for e in record.entries() if e.pid == victim.pid}
        return max(at - last[instance] for instance, at in resumed.items())

    return {"seconds": _takeover(stage, scale, strike)}


def _takeover(
    stage: Stage, scale: Scale, strike: Callable[[WorkerProcess, Record, set[str]], float]
) -> float:
    namespace = stage.namespace()
    record = Record(stage.directory / f"{namespace}.record")
    settings = {
        RECORD: str(record.path),
        "ROMANCY_LEASE_TTL": str(scale.lease),
        "ROMANCY_GRACE": "1",
    }
    with stage.workers(namespace, 1, **settings) as (victim,):
        stage.client(namespace, "go", scale.instances)
        _until(lambda: len(_held_by(record, victim)) == scale.instances, 30)
        held = _held_by(record, victim)
        with stage.workers(namespace, 1, **settings) as (heir,):
            try:
                return strike(victim, record, held)
            finally:
                heir.kill()


def _held_by(record: Record, worker: WorkerProcess) -> set[str]:
    return {entry.instance for entry in record.entries() if entry.pid == worker.pid}


def _went_on(record: Record, victim: WorkerProcess, held: set[str], patience: float) -> dict[str, float]:
    """When each instance was first seen at another worker."""

    def resumed() -> dict[str, float]:
        first: dict[str, float] = {}
        for entry in record.entries():
            if entry.pid != victim.pid and entry.instance in held:
                first.setdefault(entry.instance, entry.time)
        return first

    _until(lambda: len(resumed()) == len(held), patience)
    return resumed()


def crowd(stage: Stage, scale: Scale) -> Numbers:
    """Many instances, each in a long activity, on one worker: memory, keep-alive cost, and whether any is lost."""
    namespace = stage.namespace()
    record = Record(stage.directory / f"{namespace}.record")
    settings = {RECORD: str(record.path), "ROMANCY_CONCURRENCY": str(scale.crowd * 2)}
    what = "crowd" if scale.crowd_seconds == FULL.crowd_seconds else "small_crowd"
    with stage.workers(namespace, 1, **settings) as (worker,):
        empty = worker.memory()
        client = stage.begin_client(namespace, what, scale.crowd)
        _until(lambda: _lines(record.path) >= scale.crowd, 120)
        seen = _quiet(worker, record, scale)
        seen["memory KB/instance"] = (worker.memory() - empty) / scale.crowd / 1024
        found = stage.finish(client)
    runs = Counter(entry.instance for entry in record.entries())
    return {
        "instances": scale.crowd,
        "completed": found["completed"],
        "ran twice": sum(count > 1 for count in runs.values()),
        "starts/s": scale.crowd / found["started_in"],
        **seen,
    }


def _quiet(worker: WorkerProcess, record: Record, scale: Scale) -> Numbers:
    """CPU while nothing happens but keeping alive: until shortly before the first activity ends."""
    first = min(entry.time for entry in record.entries())
    window = first + scale.crowd_seconds - 1.0 - time.monotonic()
    if window < 1.0:
        return {"keep-alive CPU %": float("nan"), "window s": 0.0}
    before = worker.cpu()
    time.sleep(window)
    return {"keep-alive CPU %": 100 * (worker.cpu() - before) / window, "window s": window}


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _until(condition: Callable[[], bool], patience: float) -> None:
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"the condition did not come true within {patience:g} s")
        time.sleep(0.01)


def between(before: Numbers, after: Numbers) -> Numbers:
    """The mean of two baselines."""
    return {name: (before[name] + after[name]) / 2 for name in before}


MEASUREMENTS: dict[str, Callable[[Stage, Scale], Numbers]] = {
    "w1": sequential,
    "w2": throughput(1),
    "w2x2": throughput(2),
    "w2x4": throughput(4),
    "w3": latency,
    "kill": takeover_after_kill,
    "sigterm": takeover_after_sigterm,
    "crowd": crowd,
}
