"""What a run under faults leaves behind, as plain data: what clients were told, histories, the record, the faults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from romancy_nats.core.commit import Commit
from tests.chaos.record import Life, Line

Key = tuple[str, str]
"""(workflow, id)"""


class Op(NamedTuple):
    """One call of a client. `unknown` may or may not have happened; it is never taken for failed."""

    what: Literal["start", "result", "cancel"]
    key: Key
    outcome: Literal["ok", "fail", "unknown"]
    told: str = ""
    """The value of an ok result, the kind of ending of a failed one."""
    invoked: int = 0
    answered: int = 0


class Fault(NamedTuple):
    """Something done to a process: `kill` and `term` have one moment, `pause` and `server` two (µs)."""

    what: Literal["kill", "term", "pause", "server"]
    pid: int
    begin: int
    end: int


class Summary(NamedTuple):
    """What a record says at the end."""

    status: str
    owner: str = ""
    owner_alive: bool = False


@dataclass(slots=True)
class Evidence:
    """All of it. `left` names what still waits in a queue: (stream or consumer) -> number of messages."""

    ops: Sequence[Op] = ()
    histories: Mapping[Key, Sequence[Commit]] = field(default_factory=dict[Key, Sequence[Commit]])
    summaries: Mapping[Key, Summary] = field(default_factory=dict[Key, Summary])
    lines: Sequence[Line] = ()
    lives: Sequence[Life] = ()
    faults: Sequence[Fault] = ()
    left: Mapping[str, int] = field(default_factory=dict[str, int])
    replay_errors: Mapping[Key, str] = field(default_factory=dict[Key, str])
    must_cancel: frozenset[Key] = frozenset()
    """Instances that nothing but a cancel can end."""
    lease_ttl: float = 2.0
