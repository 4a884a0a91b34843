"""The numbers that a worker runs by. Plain data; where they come from is not its concern."""

from __future__ import annotations

from dataclasses import dataclass

from romancy_nats.core.retry import RetryPolicy


@dataclass(frozen=True, slots=True)
class Tuning:
    """All durations in seconds, all sizes in bytes."""

    lease_ttl: float = 15.0
    ack_wait: float = 16.0
    concurrency: int = 1000
    threads: int = 40
    grace: float = 0.5
    inline_result: int = 4096
    max_takeovers: int = 10
    forward_timeout: float = 4.0
    sweep_every: float = 60.0
    block_warning: float = 1.0
    unknown_workflow_after: float = 86_400.0
    retry: RetryPolicy = RetryPolicy()
    label: str = ""
    archive_after: float = 30.0
    retention: float = 7 * 86_400.0
    linger: float = 0.2
    rest_from: float = 3.0
    cached: int = 1000
    inputs_stall: bool = True
    """Whether replayed code that gives another input than was recorded stalls; else the log warns."""
    watches_workflow_code: bool = False
    """Whether calls that workflow code should not make are reported; it costs time, so for development and tests."""
    seconds_between_resends: float = 0.05
