"""One line of the external record: what an activity says about itself. Data only; where it is kept is elsewhere."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["begin", "end", "failed", "interrupted"]


class Entry(NamedTuple):
    """Lines are in the order in which they became durable, over all processes. `wall` is in µs since the epoch."""

    order: str
    activity: str
    activity_id: str
    attempt: int
    pid: int
    kind: Kind
    wall: int
    monotonic: float
    idempotency_key: str
