"""Workflow code that a killed worker leaves suspended is closed at the end of its run, not by the collector later on.

Closed by the collector it would run its `finally` blocks in the middle of whatever allocates just then.
"""

from __future__ import annotations

from typing import Any

from romancy_nats.core.execution import Execution
from romancy_nats.runtime.engine import Engine


class Leftovers:
    """The executions of the engines of one run."""

    def __init__(self) -> None:
        self._executions: list[Execution] = []

    def follow(self, engine: Engine) -> None:
        """Remember whatever it makes."""
        make = engine.host.execution

        def remember(*args: Any, **options: Any) -> Execution:
            execution = make(*args, **options)
            self._executions.append(execution)
            return execution

        engine.host.execution = remember  # type: ignore[method-assign]

    def close(self) -> None:
        """Evict them all; those that were are not changed by it."""
        for execution in self._executions:
            execution.evict()
        self._executions.clear()
