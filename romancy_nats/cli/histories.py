"""Commands on histories: show one, follow it live, export it, replay it against code."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, cast

import typer

from romancy_nats.cli.connected import connected, handle_of, run_async
from romancy_nats.cli.options import AsJson, Id, Namespace, Target, Url, WorkflowName
from romancy_nats.cli.output import note, print_json, print_rows, printable, shown_time
from romancy_nats.cli.target import load_app, workflow_of
from romancy_nats.client.client import Client, session_of
from romancy_nats.client.tail import Tail
from romancy_nats.core.commit import Commit
from romancy_nats.core.described import failure_text
from romancy_nats.core.events import Event
from romancy_nats.core.history import History, plain_commit, shown_field
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.messages.announcement import Progress
from romancy_nats.core.record import InstanceStatus
from romancy_nats.core.shown import shown_value
from romancy_nats.core.times import utc
from romancy_nats.errors import ConfigurationError, DeterminismError
from romancy_nats.testing.replay import read_history
from romancy_nats.testing.replay import replay as replay_history

_COLUMNS = ("commit", "time", "event", "id", "detail")
_UNSAID = frozenset(
    {"id", "workflow", "code", "stream", "sequence", "message_id", "trace", "reply_to", "max_value"}
)
_MOMENTS = frozenset({"due", "deadline", "begin_at", "retry_at", "time"})
"""Fields in µs since the epoch, where they are numbers."""


def history(
    id: Id,
    workflow: WorkflowName = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until it ends; with --json one commit a line.")
    ] = False,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Show the history of an instance; --json gives the form that `replay` and tests read."""

    async def main() -> None:
        async with connected(url, namespace) as client:
            if follow:
                await _follow(client, id, workflow, as_json=as_json)
                return
            found = await fetch_history(client, id, workflow)
            if as_json:
                print(found.to_json(), end="")
            else:
                rows = (row for n, commit in enumerate(found.commits, 1) for row in _rows(n, commit))
                print_rows(_COLUMNS, rows, empty="no commit yet")
                _print_traceback(found.commits)

    run_async(main)


def replay(
    source: Annotated[
        str, typer.Argument(metavar="FILE|ID", help="A file of `history --json`, - for stdin, or an id.")
    ],
    target: Target,
    workflow: WorkflowName = None,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Replay a history against the code as it is now; shows the first command that differs. Carries out nothing."""
    app = load_app(target)
    recorded = _read(source) if _is_file(source) else _fetch(source, workflow, url, namespace)
    code = workflow_of(app, recorded.key.workflow)
    try:
        done = replay_history(code, recorded)
    except DeterminismError as error:
        if as_json:
            place = {"workflow": recorded.key.workflow, "id": recorded.key.id, "commit": error.position}
            told = {"expected": error.expected, "produced": error.produced, "error": str(error)}
            print_json({"replays": False, **place, **told})
        raise
    if as_json:
        print_json({"replays": True, **asdict(done)})
    else:
        print(
            f"{done.workflow}/{done.id} replays: {done.commits} commits, {done.events} events, {done.status}"
        )


def _is_file(source: str) -> bool:
    return source == "-" or source.endswith(".json") or Path(source).is_file()


def _read(source: str) -> History:
    return History.from_json(sys.stdin.read()) if source == "-" else read_history(Path(source))


def _fetch(id: str, workflow: str | None, url: str | None, namespace: str | None) -> History:
    async def main() -> History:
        async with connected(url, namespace) as client:
            return await fetch_history(client, id, workflow)

    try:
        return run_async(main)
    except ConfigurationError as error:
        raise ConfigurationError(f"there is no file {id!r}, and as an id: {error}") from error


async def fetch_history(client: Client, id: str, workflow: str | None) -> History:
    """The history of the current generation of an instance."""
    handle = handle_of(client, id, workflow)
    generation = (await handle.describe()).generation
    commits = await handle.history()
    return History(InstanceKey(handle.workflow or "", id), generation, tuple(commits))


async def _follow(client: Client, id: str, workflow: str | None, *, as_json: bool) -> None:
    """Every commit from the first on, until the instance has ended or stalled; for people announcements, too."""
    handle = handle_of(client, id, workflow)
    await handle.status()
    key = InstanceKey(handle.workflow or "", id)
    tail, commits = Tail(session_of(client).world, key), list[Commit]()
    async with aclosing(tail.items(progress=not as_json)) as items:
        async for item in items:
            if isinstance(item, Progress):
                _print_row(_announced(item))
            elif item is None:
                if tail.over or (tail.record and tail.record.status is InstanceStatus.STALLED):
                    _print_traceback(commits)
                    note(f"{key!r} is {tail.record.status if tail.record else 'gone'}")
                    return
            elif as_json:
                print_json(plain_commit(tail.seen, item), indent=None)
            else:
                commits.append(item)
                for row in _rows(tail.seen, item):
                    _print_row(row)


def _print_traceback(commits: Sequence[Commit]) -> None:
    """How the workflow failed, below its history; nothing where it did not."""
    for line in failure_text(commits).splitlines():
        print(printable(line))


def _print_row(row: tuple[object, ...]) -> None:
    local = sys.stdout.isatty()
    told = (shown_time(cell, local=local) if isinstance(cell, datetime) else str(cell) for cell in row)
    print("\t".join(map(printable, told)), flush=True)


def _announced(item: Progress) -> tuple[object, ...]:
    value = shown_value(item.data)
    id: object = ""
    if isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        id, value = fields.pop("activity_id", ""), fields
    return "", utc(item.time), item.type, id, json.dumps(value, ensure_ascii=False)


def _rows(number: int, commit: Commit) -> Iterator[tuple[object, ...]]:
    for event in commit.events:
        yield number, utc(commit.time), type(event).__name__, _id(event), detail_of(event)


def _id(event: Event) -> str:
    fields = dict(zip(event._fields, event, strict=True))
    return str(fields.get("id", ""))


def _brief(shown: object) -> object:
    """What is shown of a field in a line: a failure without its traceback, which stands below the history."""
    if not isinstance(shown, dict):
        return shown
    fields = cast("dict[str, object]", shown)
    if "error" not in fields or "traceback" not in fields:
        return fields
    return {name: _brief(value) for name, value in fields.items() if name != "traceback"}


def detail_of(event: Event) -> str:
    """What an event says beside its name and id: fields as JSON, moments with their zone."""
    parts: list[str] = []
    for name, value in zip(event._fields, event, strict=True):
        if name in _UNSAID or not value:
            continue
        if isinstance(value, bytes):
            parts.append(f"{name}={json.dumps(_brief(shown_field(name, value)), ensure_ascii=False)}")
        elif name in _MOMENTS and isinstance(value, int):
            moment = shown_time(utc(value), local=sys.stdout.isatty())
            parts.append(f"{name}={moment.replace(' ', 'T')}")
        elif value is not True:
            parts.append(f"{name}={value}")
        else:
            parts.append(name)
    return " ".join(parts)
