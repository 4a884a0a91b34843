"""The record of the order example, which threads write and read while it is closed."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "01_orders"))

from entry import Entry
from record import Record


def test_closing_waits_for_whoever_reads(tmp_path: Path) -> None:
    """A cancelled `to_thread` goes on in its thread; SQLite does not survive a connection closed under it."""
    record = Record(tmp_path / "record.sqlite3")
    line = Entry("o", "reserve", "reserve:1", 1, 1, "begin", 1, 1.0, "key")
    record.write(line)
    reading, go_on = threading.Event(), threading.Event()

    def between_rows(cursor: object, row: tuple[object, ...]) -> tuple[object, ...]:
        reading.set()
        go_on.wait()
        return row

    record._database.row_factory = between_rows
    found: list[Entry] = []
    reader = threading.Thread(target=lambda: found.extend(record.entries()), daemon=True)
    closer = threading.Thread(target=record.close, daemon=True)
    reader.start()
    assert reading.wait(10)
    closer.start()
    closer.join(0.2)
    assert closer.is_alive()
    go_on.set()
    reader.join(10)
    closer.join(10)
    assert found == [line]
    assert not closer.is_alive()
