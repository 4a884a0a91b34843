"""What `romancy worker` and `romancy dev` print of the log: text for people or JSON for programs, on stderr.

Only the level of the `romancy` loggers is set; the root logger and those of the application stay as they are.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from datetime import datetime
from enum import StrEnum
from typing import Annotated

import typer

from romancy_nats.core.logs import FIELDS, worker_label
from romancy_nats.errors import ConfigurationError
from romancy_nats.runtime.activity_context import activity_context


class LogLevel(StrEnum):
    """How much the `romancy` loggers tell."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How a record is printed."""

    TEXT = "text"
    JSON = "json"


Level = Annotated[
    LogLevel, typer.Option("--log-level", help="How much romancy tells; other loggers keep their own level.")
]
Format = Annotated[
    LogFormat | None,
    typer.Option(
        "--log-format",
        help="How the log is printed on stderr: text, or json for one object a line. Else as the app configured it, "
        "and text where it configured nothing.",
        show_default=False,
    ),
]

_TEXT = "%(asctime)s %(levelname)-7s %(name)s [%(worker)s] %(message)s"
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def set_up(level: LogLevel, format: LogFormat | None, label: str) -> None:
    """Set the level of the `romancy` loggers, and print records where nobody has configured that yet.

    Called after the application was imported: handlers that it gave to the root logger stay the only ones, unless
    a format is asked for.
    """
    ours, root = logging.getLogger("romancy"), logging.getLogger()
    ours.setLevel(level.upper())
    if root.handlers and format is None:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if format is LogFormat.JSON else _Text(_TEXT))
    handler.addFilter(_Known(label))
    if root.handlers:
        ours.addHandler(handler)
        ours.propagate = False
    else:
        root.addHandler(handler)


class _Known(logging.Filter):
    """Adds to any record of this process what is known of where it was written: worker, instance, activity, attempt."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self._label = label

    def filter(self, record: logging.LogRecord) -> bool:
        known = record.__dict__
        try:
            attempt = activity_context()
        except ConfigurationError:
            pass
        else:
            _fill(known, "workflow", attempt.workflow_name)
            _fill(known, "instance_id", attempt.instance_id)
            _fill(known, "activity_id", attempt.activity_id)
            _fill(known, "attempt", attempt.attempt)
        _fill(known, "worker", worker_label() or self._label or str(os.getpid()))
        for name, nothing in FIELDS.items():
            known.setdefault(name, nothing)
        return True


def _fill(known: dict[str, object], name: str, value: object) -> None:
    if not known.get(name):
        known[name] = value


def _moment(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")


class _Text(logging.Formatter):
    """For people: the time with its offset from UTC."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - its name in logging
        return _moment(record)


class _Json(logging.Formatter):
    """For programs: one object a line. Fields that say nothing are left out."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, object] = {
            "time": _moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        known = vars(record)
        told |= {name: known[name] for name in FIELDS if known.get(name)}
        told |= {name: value for name, value in known.items() if name not in _STANDARD and name not in FIELDS}
        if record.exc_info and record.exc_info[0] is not None:
            told["error_type"] = record.exc_info[0].__name__
            told["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        try:
            return json.dumps(told, ensure_ascii=False, default=_shown, skipkeys=True)
        except (ValueError, RecursionError):
            return json.dumps({name: _shown(value) for name, value in told.items()}, ensure_ascii=False)


def _shown(value: object) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - whatever a program logs may not stop its log
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"
