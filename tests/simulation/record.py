"""The external record: what activities really did, kept outside the engine and its server."""

from __future__ import annotations

from dataclasses import dataclass, field

from romancy_nats import ActivityContext
from romancy_nats.testing.virtual_time import VirtualTimeLoop


@dataclass(slots=True)
class Attempt:
    """One attempt that really began. `ended` is None for one that never did."""

    record: Record
    workflow: str
    id: str
    activity_id: str
    number: int
    process: str
    began: float
    serial: int
    generation: int = 0
    ended: float | None = None
    value: str = ""
    error: str = ""

    def end(self) -> str:
        """It returned; the value is unlike any other, so that a history shows which attempt it used."""
        self.ended = self.record.server.loop.time()
        self.value = f"{self.id}/{self.activity_id}#{self.serial}"
        return self.value

    def fail(self, error: BaseException) -> None:
        """It raised."""
        self.ended = self.record.server.loop.time()
        self.error = type(error).__name__


@dataclass(slots=True)
class Ledgerbook:
    """All attempts of a run."""

    loop: VirtualTimeLoop
    attempts: list[Attempt] = field(default_factory=list[Attempt])


class Record:
    """The record as one worker process writes it (what the app's lifespan yields)."""

    def __init__(self, server: Ledgerbook, process: str) -> None:
        self.server = server
        self.process = process

    def begin(self, me: ActivityContext, label: str) -> Attempt:
        """An attempt begins."""
        book = self.server
        attempt = Attempt(
            self,
            me.workflow_name,
            me.instance_id,
            me.activity_id,
            me.attempt,
            self.process,
            book.loop.time(),
            len(book.attempts),
            int(me.idempotency_key.split("/")[2]),
        )
        book.attempts.append(attempt)
        return attempt
