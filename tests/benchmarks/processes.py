"""The processes of one measurement: server, workers, client, baseline. Each is a program of its own, as deployed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from romancy_nats.jetstream.server import LocalServer

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 900.0
TICKS = os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    """The resident bytes of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class WorkerProcess:
    """A running worker."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait()

    def terminate(self) -> None:
        """SIGTERM."""
        self._process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """Drain, and kill what does not end."""
        if self._process.poll() is None:
            self.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()

    def memory(self) -> int:
        """Resident bytes."""
        return resident(self.pid)

    def cpu(self) -> float:
        """Seconds of CPU used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


class Stage:
    """One server and the programs that are run against it."""

    def __init__(self, url: str, server: int, loop: str, directory: Path) -> None:
        self.url = url
        self.server = server
        self.loop = loop
        self.directory = directory
        self._namespaces = 0

    def namespace(self) -> str:
        """A fresh one for each measurement, so that none inherits the queues of another."""
        self._namespaces += 1
        return f"bench-{self.loop}-{self._namespaces}"

    def baseline(self, seconds: float) -> dict[str, float]:
        """Measure the raw rates now."""
        program = ["tests.benchmarks.raw", "--url", self.url, "--loop", self.loop, "--seconds", str(seconds)]
        return self._read(self._spawn(program, {}))

    def client(self, namespace: str, what: str, count: int) -> dict[str, float]:
        """Run a client to its end."""
        return self._read(self.begin_client(namespace, what, count))

    def begin_client(self, namespace: str, what: str, count: int) -> subprocess.Popen[str]:
        """Start a client; `finish` waits for it."""
        program = ["tests.benchmarks.client", self.loop, what, str(count)]
        return self._spawn(program, {"ROMANCY_NAMESPACE": namespace})

    def finish(self, client: subprocess.Popen[str]) -> dict[str, float]:
        """What the client measured."""
        return self._read(client)

    @contextmanager
    def workers(
        self, namespace: str, count: int, app: str = "benchmark", **settings: str
    ) -> Iterator[list[WorkerProcess]]:
        """Workers of an app that are ready, until the block ends."""
        environment = {"ROMANCY_NAMESPACE": namespace, **settings}
        program = ["tests.benchmarks.worker", self.loop, app]
        processes = [self._spawn(program, environment) for _ in range(count)]
        workers = [WorkerProcess(process) for process in processes]
        try:
            for process in processes:
                assert process.stdout is not None
                if process.stdout.readline().strip() != "ready":
                    raise RuntimeError(f"a worker did not start; see {self.directory}/stderr")
            yield workers
        finally:
            for worker in workers:
                worker.end()

    def _spawn(self, program: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
        with (self.directory / "stderr").open("a") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", *program],
                cwd=ROOT,
                env={**os.environ, "ROMANCY_NATS_URL": self.url, **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def _read(self, process: subprocess.Popen[str]) -> dict[str, float]:
        output, _ = process.communicate(timeout=PATIENCE)
        if process.returncode:
            tail = (self.directory / "stderr").read_text()[-2000:]
            raise RuntimeError(f"{process.args} ended with {process.returncode}:\n{tail}")
        numbers: dict[str, float] = json.loads(output)
        return numbers


@contextmanager
def stage(loop: str, directory: Path, *, sync_always: bool) -> Iterator[Stage]:
    """A fresh server in a process of its own."""
    with LocalServer(sync_always=sync_always) as server:
        yield Stage(server.url, server.pid, loop, directory)
