"""How much a worker takes on at once: no new instance while many commits are unanswered. Knows no queue."""

from __future__ import annotations

from collections.abc import Callable

MOST_UNANSWERED = 256
"""Enough to keep the server busy; beyond it instances only wait for one another, and their memory grows cold."""


class Pace:
    """The writers of commits with one in flight. An instance in a long activity or at rest does not count."""

    def __init__(self, has_room: Callable[[], None]) -> None:
        self._has_room = has_room
        self._unanswered: set[object] = set()
        self._full = False

    def room(self, starting: int) -> int:
        """How many instances may be begun now, `starting` being about to commit."""
        busy = len(self._unanswered) + starting
        # Full until half of it is answered: else the server is asked for one start at a time.
        self._full = busy >= (MOST_UNANSWERED // 2 if self._full else MOST_UNANSWERED)
        return 0 if self._full else MOST_UNANSWERED - busy

    def sent(self, writer: object) -> None:
        """It has a commit in flight."""
        self._unanswered.add(writer)

    def answered(self, writer: object) -> None:
        """Its commit is answered, or nobody waits for that any more."""
        self._unanswered.discard(writer)
        if self._full and len(self._unanswered) < MOST_UNANSWERED // 2:
            self._has_room()
