"""The external record: an SQLite file, outside NATS, in which activities say what they really did. Judges nothing.

It stands for the outside world (the warehouse, the bank, the courier), so it must not be lost when a worker is killed:
every line is on the disk before the activity goes on.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from pathlib import Path
from types import TracebackType

from entry import Entry, Kind

from romancy_nats import activity_context

_TABLE = """CREATE TABLE IF NOT EXISTS entries (
    position INTEGER PRIMARY KEY, "order" TEXT, activity TEXT, activity_id TEXT, attempt INTEGER,
    pid INTEGER, kind TEXT, wall INTEGER, monotonic REAL, idempotency_key TEXT)"""
_COLUMNS = '"order", activity, activity_id, attempt, pid, kind, wall, monotonic, idempotency_key'


class Record:
    """One connection to the file; safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        for pragma in ("busy_timeout = 30000", "journal_mode = WAL", "synchronous = FULL"):
            self._database.execute(f"PRAGMA {pragma}").close()
        self._database.execute(_TABLE)

    def write(self, entry: Entry) -> None:
        """Add a line; returns when it is on the disk."""
        with self._lock:
            self._database.execute(
                f"INSERT INTO entries ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", entry
            )

    def entries(self) -> list[Entry]:
        """Every line, in order."""
        with self._lock:
            rows = self._database.execute(f"SELECT {_COLUMNS} FROM entries ORDER BY position").fetchall()
        return [Entry(*row) for row in rows]

    def close(self) -> None:
        # Threads go on after their task was cancelled, and SQLite crashes when a connection goes under one of them.
        with self._lock:
            self._database.close()


class Visit:
    """One attempt of an activity, from its begin line to the line that says how it went; `with` or `async with`."""

    def __init__(self, record: Record, activity: str) -> None:
        self._record = record
        self._activity = activity
        self._context = activity_context()

    def _write(self, kind: Kind) -> None:
        context = self._context
        # The compensations of this example get their order's id from the instance, as every activity does.
        self._record.write(
            Entry(
                context.instance_id,
                self._activity,
                context.activity_id,
                context.attempt,
                os.getpid(),
                kind,
                time.time_ns() // 1000,
                time.monotonic(),
                context.idempotency_key,
            )
        )

    def __enter__(self) -> None:
        self._write("begin")

    def __exit__(
        self, error: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write(_kind(error))

    async def __aenter__(self) -> None:
        # The disk must not hold up the loop, on which the worker renews its lease.
        await asyncio.to_thread(self._write, "begin")

    async def __aexit__(
        self, error: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._write, _kind(error))


def visit(activity: str) -> Visit:
    """Enter the running attempt into the record that this worker holds."""
    return Visit(activity_context().state(Record), activity)


def _kind(error: type[BaseException] | None) -> Kind:
    if error is None:
        return "end"
    return "interrupted" if issubclass(error, asyncio.CancelledError) else "failed"
