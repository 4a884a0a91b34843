"""The instance record: ownership, status and index of an instance in one KV key, as JSON anybody can read."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from romancy_nats.core.limits import shortened
from romancy_nats.errors import PayloadError

_SHORT_ERROR = 200
_SHORT_NAME = 40
_FEW_NAMES = 3
LONGEST_ERROR = 4000
"""Bytes of an error or a reason that a record, or a history, keeps, in UTF-8."""


class InstanceStatus(StrEnum):
    """Where an instance stands."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING_FOR_EVENT = "waiting_for_event"
    WAITING_FOR_TIMER = "waiting_for_timer"
    WAITING_FOR_MESSAGE = "waiting_for_message"
    WAITING_FOR_CHILD = "waiting_for_child"
    COMPENSATING = "compensating"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TERMINATED = "terminated"
    STALLED = "stalled"
    REJECTED = "rejected"

    @property
    def ended(self) -> bool:
        """Whether nothing can happen to the instance any more."""
        return self in _ENDED


_ENDED = frozenset(
    {
        InstanceStatus.COMPLETED,
        InstanceStatus.FAILED,
        InstanceStatus.CANCELLED,
        InstanceStatus.TERMINATED,
        InstanceStatus.REJECTED,
    }
)


@dataclass(slots=True)
class InstanceRecord:
    """One instance. Times are µs since the epoch, 0 for not yet; `owner` is a worker's incarnation, "" at rest."""

    status: InstanceStatus = InstanceStatus.RUNNING
    owner: str = ""
    generation: int = 0
    commits: int = 0
    settled: int = 0
    """The commits whose effects the server has acknowledged (L5): the others are carried out again after a crash."""
    start: int = 0
    """The sequence of the start message that began this generation."""
    fingerprint: str = ""
    created: int = 0
    started: int = 0
    updated: int = 0
    ended: int = 0
    takeovers: int = 0
    parent: str = ""
    next_due: int = 0
    waiting_for: list[str] = field(default_factory=list[str])
    error_type: str = ""
    error: str = ""
    result: str = ""
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])
    memo: dict[str, Any] = field(default_factory=dict[str, Any])
    retention: float = 0.0
    """Seconds that the record is kept once it has ended; 0 for what the workers are set to."""
    code: str = ""
    archived: list[int] = field(default_factory=list[int])
    """Where the history is once it has left the ledger."""
    skipped: int = 0
    """How many events and messages of this generation did not fit what the workflow asked for, and were parked."""
    sealed: bool = False
    """Whether the ledger holds no commit of it any more; the record itself expires."""
    write: str = ""
    """Fresh for each write, so that a write whose answer was lost is recognised when read back (L3)."""
    version: int = 1

    @property
    def let_go(self) -> bool:
        """Whether a worker gave it back unfinished: anybody may take it up at once, as a delayed start may not."""
        return self.status is InstanceStatus.QUEUED and not self.owner and not self.next_due

    def shorten(self) -> None:
        """Leave out what the history has as well, and what only people read: the record has to fit into a message."""
        self.result = ""
        self.error = shortened(self.error, _SHORT_ERROR)
        self.waiting_for = [shortened(name, _SHORT_NAME) for name in self.waiting_for[:_FEW_NAMES]]

    def encode(self) -> bytes:
        """JSON without the fields that say nothing."""
        plain = {name: value for name in _NAMES if (value := getattr(self, name))}
        return _encode(plain).encode()

    @staticmethod
    def decode(data: bytes) -> InstanceRecord:
        """Read a record, unknown fields left aside; raises PayloadError when it is none."""
        try:
            known = _decode(data.decode())
            if not known.keys() <= _KNOWN:
                known = {name: value for name, value in known.items() if name in _KNOWN}
            known["status"] = InstanceStatus(known["status"])
            return InstanceRecord(**known)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise PayloadError(f"not an instance record: {error}") from error


_NAMES = tuple(f.name for f in fields(InstanceRecord))
_KNOWN = frozenset(_NAMES)
_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().decode
