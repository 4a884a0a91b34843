"""Worker processes of the demo: hired, killed, and gone with it however it ends. Knows nothing of orders."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

FOLDER = Path(__file__).parent
_PATIENCE = 5.0

# As a program of its own: code between fork and exec is not safe in a process that has threads.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(sys.argv[1]): sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(slots=True)
class Hand:
    """One worker process."""

    name: str
    process: asyncio.subprocess.Process
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid


class Crew:
    """Every worker of this demo; none outlives the block."""

    def __init__(self, logs: Path, environment: Mapping[str, str]) -> None:
        self._logs = logs
        self._environment = environment
        self.hands: list[Hand] = []

    async def hire(self, name: str) -> Hand:
        """Start `romancy worker main:app`, as anybody would."""
        log = self._logs / f"{name}.log"
        command = [sys.executable, "-m", "romancy_nats", "worker", "main:app"]
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command),
                cwd=FOLDER,
                env={**os.environ, **self._environment, "ROMANCY_WORKER_ID": name},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the demo, which ends its workers
            )
        hand = Hand(name, process, log)
        self.hands.append(hand)
        return hand

    async def kill(self, hand: Hand) -> None:
        """kill -9; returns when the process is gone."""
        hand.process.send_signal(signal.SIGKILL)
        await hand.process.wait()

    def lost(self) -> list[Hand]:
        """Workers that ended by themselves, which none should."""
        return [hand for hand in self.hands if hand.process.returncode not in (None, -signal.SIGKILL)]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        running = [hand.process for hand in self.hands if hand.process.returncode is None]
        # Nobody waits for a worker when the demo was interrupted.
        for process in running:
            process.terminate() if kind is None else process.kill()
        try:
            async with asyncio.timeout(_PATIENCE):
                await asyncio.gather(*(process.wait() for process in running))
        finally:
            for process in running:
                if process.returncode is None:
                    process.kill()
