"""What becomes of what did not fit: one warning, and a copy in the dead letters, written before the rest (L5)."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from romancy_nats.core.events import EventReceived, Skipped
from romancy_nats.runtime.dead_letters import copy_of, write_letter
from romancy_nats.runtime.part import Part

_log = logging.getLogger("romancy.worker")


class SkippedAnswers(Part):
    """Parks what one owned instance skipped, in the order of its commands."""

    _todo: deque[Skipped]
    _task: asyncio.Task[None] | None = None

    def begin(self, skipped: Skipped) -> None:
        """Park a copy of it; it is recorded."""
        if self._task is None or self._task.done():
            self._todo = deque([skipped])
            self._task = self._instance.spawn(self._run())
        else:
            self._todo.append(skipped)

    async def done(self) -> None:
        """Return when the server has all of it, or the memory is gone."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        instance = self._instance
        while self._todo and not instance.dropped:
            skipped = self._todo.popleft()
            answer = instance.execution.state.waiting.skipped.get((skipped.stream, skipped.sequence))
            if answer is None:
                continue
            what = (
                f"event {answer.event_id!r}"
                if isinstance(answer, EventReceived)
                else f"message {answer.id!r}"
            )
            reason = f"{instance.key!r}, {skipped.wait or 'receive'}: {skipped.reason}"
            _log.warning("%s is skipped and parked: %s", what, reason)
            await write_letter(
                instance.owner.world, copy_of(instance.key, instance.record.generation, answer, reason)
            )
            instance.execution.state.waiting.skipped.pop((skipped.stream, skipped.sequence), None)
