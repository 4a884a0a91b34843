"""What goes to stdout and stderr: tables on a terminal, tab-separated lines elsewhere, JSON when asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

_LEAST = 20
_STYLES = {
    "completed": "green",
    "failed": "red",
    "rejected": "red",
    "stalled": "bold red",
    "cancelled": "yellow",
    "terminated": "yellow",
    "compensating": "magenta",
    "running": "cyan",
}


def print_json(value: object, *, indent: int | None = 2) -> None:
    """One JSON document; with `indent=None` on one line, for a stream of them."""
    print(json.dumps(value, indent=indent, ensure_ascii=False, default=_plain), flush=True)


def print_rows(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """A table on a terminal, else tab-separated lines under a line of names."""
    console = Console()
    told = [[_cell(value, local=console.is_terminal) for value in row] for row in rows]
    if not console.is_terminal:
        for row in [list(columns), *told]:
            print("\t".join(row))
        return
    if not told:
        console.print(Text(empty, style="dim"))
        return
    # Ids are there to be copied: on a narrow terminal the last column gives way, then the terminal wraps.
    fixed = sum(max(map(len, column)) + 2 for column in list(zip(columns, *told, strict=True))[:-1])
    left = max(console.width - fixed, _LEAST)
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in told:
        last = row[-1] if len(row[-1]) <= left else f"{row[-1][: left - 1]}…"
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in (*row[:-1], last)))
    Console(width=fixed + left).print(table)


def print_pairs(pairs: Iterable[tuple[str, object]]) -> None:
    """Names and values, one a line; those that say nothing are left out."""
    console = Console()
    local = console.is_terminal
    said = [(name, _cell(value, local=local)) for name, value in pairs if value not in (None, "", (), {})]
    width = max((len(name) for name, _ in said), default=0)
    for name, value in said:
        if console.is_terminal:
            line = Text.assemble((name.ljust(width), "bold"), "  ", (value, _STYLES.get(value, "")))
            console.print(line, soft_wrap=True)
        else:
            print(f"{name}\t{value}")


def print_value(value: object) -> None:
    """A result: coloured JSON on a terminal, plain JSON elsewhere."""
    console = Console()
    if console.is_terminal:
        console.print_json(json.dumps(value, default=_plain), ensure_ascii=False)
    else:
        print_json(value)


def note(text: str) -> None:
    """Something for people, on stderr: stdout belongs to the answer."""
    print(f"romancy: {printable(text)}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Text without what a terminal or a table would take for a command."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _cell(value: object, *, local: bool) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, datetime):
        return shown_time(value, local=local)
    if isinstance(value, tuple) and all(isinstance(one, str) for one in cast("tuple[object, ...]", value)):
        return printable(", ".join(cast("tuple[str, ...]", value)))
    return printable(json.dumps(value, ensure_ascii=False, default=_plain))


def shown_time(value: datetime, *, local: bool) -> str:
    """A time with its offset: the zone of whoever reads on a terminal, else UTC."""
    return value.astimezone(None if local else UTC).isoformat(sep=" ", timespec="milliseconds")


def _plain(value: Any) -> object:
    return value.isoformat() if isinstance(value, datetime) else str(value)
