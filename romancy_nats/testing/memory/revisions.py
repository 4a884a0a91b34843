"""Compare-and-set on the last sequence of a subject, in the order of checks that R1 and R3 servers have. No content."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from romancy_nats.ports import Refusal, Refused
from romancy_nats.testing.memory.process import Answer

if TYPE_CHECKING:
    from romancy_nats.testing.memory.store import MemoryServer


class Revisions:
    """One stream: its sequence, and the last sequence of each subject that expectations name."""

    __slots__ = ("_in_process", "_server", "last", "sequence")

    def __init__(self, server: MemoryServer) -> None:
        self._server = server
        self.sequence = 0
        self.last: dict[str, int] = {}
        self._in_process: set[str] = set()

    def next(self) -> int:
        self.sequence += 1
        return self.sequence

    def propose(
        self,
        subject: str,
        expected: int,
        exists: Callable[[], bool] | None,
        store: Callable[[], int],
        answer: Answer,
    ) -> None:
        """Check and store. Measured on 2.15.1: the expectation comes before the once-per-subject rule (R1 and R3)."""
        if subject in self._in_process:
            # R3 refuses every expectation on a subject that another write in flight names too, even one that would
            # have held: 10164 proves nothing about the revision (200 of 200).
            answer(Refused(Refusal.STALE, "wrong last sequence"))
            return
        last = self.last.get(subject, 0)
        if last != expected:
            answer(Refused(Refusal.STALE, f"wrong last sequence: {last}"))
        elif exists is not None and exists():
            answer(Refused(Refusal.EXISTS, "maximum messages per subject exceeded"))
        elif self._server.replicas == 1:
            answer(store())
        else:
            self._in_process.add(subject)
            self._server.replicate(self._apply, subject, store, answer)

    def _apply(self, subject: str, store: Callable[[], int], answer: Answer) -> None:
        self._in_process.discard(subject)
        answer(store())
