"""The external record: an SQLite file, outside NATS, of what activities and workers really did. Judges nothing.

It stands for the outside world, so a line is in the file before the activity goes on: no kill can take it back.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Literal, NamedTuple

Kind = Literal["begin", "end", "failed", "interrupted"]
_TABLES = (
    """CREATE TABLE IF NOT EXISTS lines (
    position INTEGER PRIMARY KEY, kind TEXT, workflow TEXT, id TEXT, activity TEXT, activity_id TEXT,
    attempt INTEGER, incarnation TEXT, pid INTEGER, wall INTEGER, monotonic REAL, value TEXT, seen TEXT)""",
    """CREATE TABLE IF NOT EXISTS lives (
    position INTEGER PRIMARY KEY, kind TEXT, incarnation TEXT, pid INTEGER, wall INTEGER)""",
)
_LINE = "kind, workflow, id, activity, activity_id, attempt, incarnation, pid, wall, monotonic, value, seen"
_LIFE = "kind, incarnation, pid, wall"
_Statement = tuple[str, tuple[object, ...]]


class Line(NamedTuple):
    """What one attempt says: that it begins, or how it went. `wall` is in µs since the epoch.

    `value` is unique to the attempt and is what it returns, so that a history proves which attempt was used. `seen` are
    the values that it was given.
    """

    kind: Kind
    workflow: str
    id: str
    activity: str
    activity_id: str
    attempt: int
    incarnation: str
    pid: int
    wall: int
    monotonic: float
    value: str
    seen: tuple[str, ...] = ()


class Life(NamedTuple):
    """What a worker says of its lease: `taken`, `lost` (noticed), or `left` (drained)."""

    kind: str
    incarnation: str
    pid: int
    wall: int


def wall_clock() -> int:
    """µs since the epoch; all processes of a run share this clock."""
    return time.time_ns() // 1000


class Record:
    """One process's pen. Lines that come together are written together, in a thread of their own."""

    def __init__(self, path: Path, written: Callable[[Line], None] = lambda _line: None) -> None:
        self.incarnation = ""
        self._written = written
        self._todo: queue.SimpleQueue[tuple[_Statement, Line | None, Future[None]] | None] = (
            queue.SimpleQueue()
        )
        self._database = connect(path)
        self._thread = threading.Thread(target=self._write, name="record", daemon=True)
        self._thread.start()

    def line(self, line: Line) -> Future[None]:
        """Add a line; the future is done when it is in the file."""
        row = (*line[:-1], json.dumps(line.seen))
        marks = ", ".join("?" * len(row))
        return self._put((f"INSERT INTO lines ({_LINE}) VALUES ({marks})", row), line)

    def life(self, kind: str, incarnation: str) -> Future[None]:
        """Add what happened to a lease of this process."""
        row = (kind, incarnation, os.getpid(), wall_clock())
        return self._put((f"INSERT INTO lives ({_LIFE}) VALUES (?, ?, ?, ?)", row), None)

    def close(self) -> None:
        """Write what is left."""
        self._todo.put(None)
        self._thread.join()
        self._database.close()

    def _put(self, statement: _Statement, line: Line | None) -> Future[None]:
        done: Future[None] = Future()
        self._todo.put((statement, line, done))
        return done

    def _write(self) -> None:
        while (first := self._todo.get()) is not None:
            batch = [first]
            ending = False
            while not self._todo.empty() and not ending:
                another = self._todo.get()
                ending = another is None
                if another is not None:
                    batch.append(another)
            self._database.execute("BEGIN IMMEDIATE")
            for statement, _, _ in batch:
                self._database.execute(*statement)
            self._database.execute("COMMIT")
            for _, line, done in batch:
                if line is not None:
                    self._written(line)
                done.set_result(None)
            if ending:
                return


async def settled(future: Future[None]) -> None:
    """Await a line without holding up the loop, on which the worker renews its lease."""
    await asyncio.shield(asyncio.wrap_future(future))


def connect(path: Path) -> sqlite3.Connection:
    """Open the file for writing, every commit of it on the disk."""
    database = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    for pragma in ("busy_timeout = 30000", "journal_mode = WAL", "synchronous = FULL"):
        database.execute(f"PRAGMA {pragma}").close()
    for table in _TABLES:
        database.execute(table)
    return database


def read(path: Path) -> tuple[Sequence[Line], Sequence[Life]]:
    """All lines and lives, in the order in which they became durable."""
    database = connect(path)
    try:
        lines = [
            Line(*row[:-1], tuple(json.loads(row[-1])))
            for row in database.execute(f"SELECT {_LINE} FROM lines ORDER BY position")
        ]
        lives = [Life(*row) for row in database.execute(f"SELECT {_LIFE} FROM lives ORDER BY position")]
    finally:
        database.close()
    return lines, lives
