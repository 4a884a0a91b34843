"""Recorded bytes as something to read: JSON-like data, as good as it gets. For display only; nothing is read back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgpack

from romancy_nats.core.failure import Failure
from romancy_nats.core.msgpack_types import DEFAULT, DEQUE, JSON, OBJECT, Marker
from romancy_nats.core.scalars import FROM_EXT
from romancy_nats.errors import PayloadError

LONGEST = 64_000
"""Larger payloads are not spelt out a second time."""

_FRAME = '  File "'
_CAUSED = "The above exception was the direct cause of the following exception:"
_UNREADABLE = (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError)


def shown_value(data: bytes, longest: int | None = LONGEST) -> object:
    """A payload without the classes that wrote it: an instance is its fields, a set a list, a date its text."""
    if not data:
        return None
    if longest is not None and len(data) > longest:
        return f"… {len(data):,} bytes"
    try:
        value = msgpack.unpackb(
            data, strict_map_key=False, unicode_errors="replace", object_hook=_map, ext_hook=_ext
        )
        return _plain(value)
    except _UNREADABLE:
        return f"… {len(data):,} bytes that cannot be shown"


def shown_failure(data: bytes) -> object:
    """A failure: its class, message and traceback, and that of what caused it."""
    try:
        return _failure(Failure.decode(data))
    except PayloadError:
        return f"… {len(data):,} bytes that cannot be shown"


def traceback_text(failure: Failure, activity: bytes = b"") -> str:
    """The traceback of a failure as Python prints it, that of what caused it first.

    `activity` is the failure of the last activity that failed. An error that comes back from a record has lost its
    own traceback: where the failure names that error, the traceback recorded of the activity stands in front.
    """
    text = shown_text(_chain(failure))
    origin = _read(activity)
    named = "" if origin is None else shown_text(f"{origin.error_type}: {origin.message}")
    if origin is None or named not in text:
        return text
    begin = shown_text(_chain(origin))
    rest = text.removeprefix(named).lstrip("\n").removeprefix(_CAUSED).lstrip("\n")
    return f"{begin}\n\n{_CAUSED}\n\n{rest}"


def _chain(failure: Failure) -> str:
    text = failure.traceback.strip() or f"{failure.error_type}: {failure.message}"
    return text if failure.cause is None else f"{_chain(failure.cause)}\n\n{_CAUSED}\n\n{text}"


def _read(failure: bytes) -> Failure | None:
    try:
        return Failure.decode(failure) if failure else None
    except PayloadError:
        return None


def _failure(failure: Failure) -> dict[str, object]:
    told: dict[str, object] = {"error": failure.error_type, "message": shown_text(failure.message)}
    if _FRAME in failure.traceback:
        told["traceback"] = shown_text(failure.traceback)
    if failure.cause is not None:
        told["cause"] = _failure(failure.cause)
    return told


def _ext(code: int, data: bytes) -> object:
    if not data:
        return Marker(code)
    scalar = FROM_EXT.get(code)
    return str(scalar(data)) if scalar is not None else f"ext {code}: {data.hex()}"


def _map(found: dict[Any, Any]) -> object:
    if len(found) != 1:
        return found
    ((key, body),) = found.items()
    if type(key) is not Marker:
        return found
    if key.code == OBJECT:
        return _instance(body[1:])
    if key.code in (DEFAULT, DEQUE):
        return body[1 if key.code == DEFAULT else -1]
    return json.loads(body) if key.code == JSON else body


def _instance(state: list[Any]) -> object:
    # Models and dataclasses keep a definition mark and their fields, an enum member its name.
    fields = next((cast("object", part) for part in state if isinstance(part, dict)), None)
    if fields is not None:
        return fields
    return state[-1] if len(state) == 1 or state[0] is None else state


def _plain(value: Any) -> object:
    if isinstance(value, str):
        return shown_text(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {
            shown_text(str(key)): _plain(item) for key, item in cast("Mapping[object, Any]", value).items()
        }
    if isinstance(value, Sequence):
        return list(map(_plain, cast("list[Any]", value)))
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def shown_text(text: str) -> str:
    """Text that can be encoded: what UTF-8 cannot spell becomes a question mark."""
    return text.encode("utf-8", "replace").decode()
