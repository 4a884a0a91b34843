"""A history as data, and its JSON form: written by `romancy history --json`, read by `romancy replay` and by tests.

    {"format": "romancy.history", "version": 1, "workflow": …, "id": …, "generation": 0, "commits": [
      {"number": 1, "time": "2026-01-31T12:00:00.000001+00:00", "time_us": …, "id": …, "worker": …, "fence": 7,
       "open": false, "events": [{"type": "WorkflowStarted", …, "input": {"base64": …, "shown": …}}, …]}, …]}

An event has its fields by name. Payloads are base64, `shown` beside them and `time` are for people: import reads
neither. What comes back is what was written, byte for byte. Later releases only add fields.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast, get_type_hints

from romancy_nats.core.commit import Commit
from romancy_nats.core.events import EVENTS, Event, recorded_fields
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.shown import shown_failure, shown_value
from romancy_nats.errors import PayloadError, RomancyError

FORMAT = "romancy.history"
VERSION = 1

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EVENTS: dict[str, type[Event]] = {cls.__name__: cls for cls in EVENTS}
_TYPES: dict[type[Event], dict[str, type]] = {cls: get_type_hints(cls) for cls in EVENTS}


@dataclass(slots=True, frozen=True)
class History:
    """The commits of one generation of an instance, in order and without a gap."""

    key: InstanceKey
    generation: int
    commits: tuple[Commit, ...]

    def to_plain(self) -> dict[str, object]:
        """The JSON form as a dict."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "workflow": self.key.workflow,
            "id": self.key.id,
            "generation": self.generation,
            "commits": [plain_commit(n, commit) for n, commit in enumerate(self.commits, 1)],
        }

    def to_json(self) -> str:
        """The JSON form as text."""
        return json.dumps(self.to_plain(), indent=2, ensure_ascii=False) + "\n"

    @staticmethod
    def from_plain(plain: object) -> History:
        """Read the JSON form; raises PayloadError saying where it is wrong."""
        if not isinstance(plain, Mapping):
            raise PayloadError("a history is a JSON object, as `romancy history --json` writes it")
        found = cast("Mapping[str, Any]", plain)
        if found.get("format") != FORMAT or not isinstance(found.get("version"), int):
            raise PayloadError(f'this is no history: it lacks "format": "{FORMAT}"')
        if found["version"] > VERSION:
            raise PayloadError(
                f"a history of format {found['version']}; this release reads {VERSION}: upgrade it"
            )
        generation = _field(found, "generation", int, "the history")
        name, id = (_field(found, field, str, "the history") for field in ("workflow", "id"))
        try:
            key = InstanceKey(name, id)
        except RomancyError as error:
            raise PayloadError(f"the history: {error}") from error
        commits = _field(found, "commits", list, "the history")
        return History(key, generation, tuple(_commit(n, commit) for n, commit in enumerate(commits, 1)))

    @staticmethod
    def from_json(text: str | bytes) -> History:
        """Read the JSON form; raises PayloadError."""
        try:
            plain = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PayloadError(
                f"a history is JSON, as `romancy history --json` writes it: {error}"
            ) from error
        return History.from_plain(plain)


# --- out


def plain_commit(number: int, commit: Commit) -> dict[str, object]:
    """One commit in the JSON form."""
    return {
        "number": number,
        "time": (_EPOCH + timedelta(microseconds=commit.time)).isoformat(timespec="microseconds"),
        "time_us": commit.time,
        "id": commit.id,
        "worker": commit.incarnation,
        "fence": commit.fence,
        "open": commit.open,
        "events": [plain_event(event) for event in commit.events],
    }


def plain_event(event: Event) -> dict[str, object]:
    """One event in the JSON form."""
    plain: dict[str, object] = {"type": type(event).__name__}
    for name, value in zip(event._fields, recorded_fields(event), strict=False):
        plain[name] = _bytes(name, value) if isinstance(value, bytes) else value
    return plain


def shown_field(name: str, data: bytes) -> object:
    """What the bytes of a field say."""
    show: Callable[[bytes], object] = shown_failure if name == "failure" else shown_value
    return show(data)


def _bytes(name: str, data: bytes) -> dict[str, object]:
    return {"base64": base64.b64encode(data).decode(), "shown": shown_field(name, data)}


# --- in


def _commit(number: int, plain: object) -> Commit:
    where = f"commit {number} of the history"
    found = _object(plain, where)
    if found.get("number") != number:
        raise PayloadError(f"{where} bears the number {found.get('number')!r}: commits are missing or moved")
    events = _field(found, "events", list, where)
    return Commit(
        _field(found, "id", str, where),
        _field(found, "worker", str, where),
        _field(found, "fence", int, where),
        _field(found, "time_us", int, where),
        tuple(_event(event, f"event {n} of {where}") for n, event in enumerate(events, 1)),
        _field(found, "open", bool, where),
    )


def _event(plain: object, where: str) -> Event:
    found = _object(plain, where)
    cls = _EVENTS.get(str(found.get("type")))
    if cls is None:
        raise PayloadError(f"{where} has the type {found.get('type')!r}, which this release does not know")
    fields: dict[str, Any] = {
        name: _payload(found[name], f"{name} of {where}")
        if kind is bytes
        else _field(found, name, kind, where)
        for name, kind in _TYPES[cls].items()
        if name in found
    }
    try:
        return cls(**fields)
    except TypeError as error:
        missing = sorted(_required(cls) - fields.keys())
        raise PayloadError(f"{where} ({cls.__name__}) lacks {', '.join(missing)}") from error


def _required(cls: type[Event]) -> set[str]:
    return set(cls._fields) - cls._field_defaults.keys()


def _payload(plain: object, where: str) -> bytes:
    text = _field(_object(plain, where), "base64", str, where)
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise PayloadError(f"{where} is not base64: {error}") from error


def _object(plain: object, where: str) -> Mapping[str, Any]:
    if not isinstance(plain, Mapping):
        raise PayloadError(f"{where} is not an object")
    return cast("Mapping[str, Any]", plain)


def _field(found: Mapping[str, Any], name: str, kind: type, where: str) -> Any:
    value = found.get(name)
    # bool is an int for Python, not for a history
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise PayloadError(f"{where}: {name!r} is not {_KINDS[kind]}")
    return value


_KINDS: dict[type, str] = {str: "a string", int: "a whole number", bool: "true or false", list: "an array"}


def event_count(commits: Sequence[Commit]) -> int:
    """How many events these commits hold."""
    return sum(len(commit.events) for commit in commits)
