"""The latest answers to updates, for callers who missed theirs and ask when its history is gone. Bounded in bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from romancy_nats.core.events import UpdateAnswered

_ROOM = 100_000
_ENVELOPE = 16


class Answers:
    """As many of the newest as there is room for: an instance may answer for as long as it lives."""

    def __init__(self) -> None:
        self._kept: deque[UpdateAnswered] = deque()
        self._size = 0

    def __iter__(self) -> Iterator[UpdateAnswered]:
        return iter(self._kept)

    def add(self, answered: UpdateAnswered) -> None:
        """The newest one; the oldest make room for it."""
        self._kept.append(answered)
        self._size += _size(answered)
        while self._size > _ROOM:
            self._size -= _size(self._kept.popleft())


def _size(answered: UpdateAnswered) -> int:
    return len(answered.result) + len(answered.failure) + len(answered.id) + _ENVELOPE
