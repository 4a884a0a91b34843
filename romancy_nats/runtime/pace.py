"""How much a worker takes on at once: no new instance while many commits are unanswered. Knows no queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from romancy_nats.runtime.instance import Instance

MOST_UNANSWERED = 256
"""Enough to keep the server busy; beyond it instances only wait for one another, and their memory grows cold."""


class Pace:
    """The instances of one worker with a commit in flight. One in a long activity or at rest does not count."""

    def __init__(self, has_room: Callable[[], None]) -> None:
        self._has_room = has_room
        self._unanswered: set[Instance] = set()
        self._full = False

    def room(self, starting: int) -> int:
        """How many instances may be begun now, `starting` being about to commit."""
        busy = len(self._unanswered) + starting
        # Full until half of it is answered: else the server is asked for one start at a time.
        self._full = busy >= (MOST_UNANSWERED // 2 if self._full else MOST_UNANSWERED)
        return 0 if self._full else MOST_UNANSWERED - busy

    def sent(self, instance: Instance) -> None:
        """It has a commit in flight."""
        self._unanswered.add(instance)

    def answered(self, instance: Instance) -> None:
        """Its commit is answered, or nobody waits for that any more."""
        self._unanswered.discard(instance)
        if self._full and len(self._unanswered) < MOST_UNANSWERED // 2:
            self._has_room()
