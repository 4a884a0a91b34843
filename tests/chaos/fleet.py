"""The processes of a run: worker processes, and what is done to them. Starts, signals and buries; judges nothing."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.chaos.crash import VARIABLE
from tests.chaos.evidence import Fault
from tests.chaos.record import wall_clock

ROOT = Path(__file__).resolve().parents[2]
LEASE = 2.0
_PATIENCE = 30.0


class WorkerProcess:
    """One of our worker processes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid
        self.paused = 0

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def await_ready(self) -> None:
        """Return when it pulls; raises RuntimeError when it ends before."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if selector.select(_PATIENCE) and self._process.stdout.readline().strip() == "ready":
                return
        raise RuntimeError(f"worker {self.pid} did not become ready; see workers.log")

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def close(self) -> None:
        if self._process.stdout is not None:
            self._process.stdout.close()

    def wait(self, most: float = _PATIENCE) -> int:
        return self._process.wait(most)


class Fleet:
    """The workers of one namespace on one server, and the faults done to them."""

    def __init__(self, url: str, namespace: str, directory: Path, **settings: str) -> None:
        self.record = directory / f"{namespace}.sqlite3"
        self.log = directory / "workers.log"
        self.faults: list[Fault] = []
        self.workers: list[WorkerProcess] = []
        self._environment = {
            **os.environ,
            "ROMANCY_NATS_URL": url,
            "ROMANCY_NAMESPACE": namespace,
            "ROMANCY_LEASE_TTL": str(LEASE),
            "ROMANCY_SHARDS": "2",
            "ROMANCY_GRACE": "1",
            **settings,
        }

    def spawn(self, *names: str, crash: str = "") -> WorkerProcess:
        """Start one; call `await_ready` when it matters."""
        environment = {**self._environment, VARIABLE: crash}
        with self.log.open("a") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.worker_main", str(self.record), *names],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        worker = WorkerProcess(process)
        self.workers.append(worker)
        return worker

    def start(self, count: int) -> None:
        """Start several and wait until all pull."""
        for worker in [self.spawn() for _ in range(count)]:
            worker.await_ready()

    def kill(self, worker: WorkerProcess) -> None:
        """SIGKILL."""
        at = wall_clock()
        worker.signal(signal.SIGKILL)
        worker.wait()
        self.died(worker, at)

    def died(self, worker: WorkerProcess, at: int) -> None:
        """It is dead, perhaps by its own hand."""
        self.faults.append(Fault("kill", worker.pid, at, at))
        self.bury(worker)

    def terminate(self, worker: WorkerProcess) -> int:
        """SIGTERM; returns when that was, at once."""
        at = wall_clock()
        worker.signal(signal.SIGTERM)
        self.faults.append(Fault("term", worker.pid, at, at))
        return at

    def pause(self, worker: WorkerProcess) -> None:
        """SIGSTOP."""
        worker.paused = wall_clock()
        worker.signal(signal.SIGSTOP)

    def go_on(self, worker: WorkerProcess) -> None:
        """SIGCONT."""
        at = wall_clock()
        worker.signal(signal.SIGCONT)
        self.faults.append(Fault("pause", worker.pid, worker.paused, at))
        worker.paused = 0

    def end(self) -> None:
        """End all that still run: drained, or killed when that takes too long."""
        for worker in self.workers:
            if worker.paused:
                self.go_on(worker)
            if worker.alive:
                worker.signal(signal.SIGTERM)
        end = time.monotonic() + 10
        for worker in list(self.workers):
            try:
                worker.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.signal(signal.SIGKILL)
                worker.wait()
            self.bury(worker)

    def bury(self, worker: WorkerProcess) -> None:
        """It has ended: forget it."""
        self.workers.remove(worker)
        worker.close()
