"""What may go wrong, how likely, and how often it did. Decides only; it carries nothing out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum, auto
from random import Random


@dataclass(slots=True)
class Faults:
    """Probabilities from 0 to 1, each drawn per call; spans are in seconds of virtual time.

    One object may serve several worlds: each draws from its own seeded dice, all count in `fired`.
    """

    seed: int = 0
    latency: float = 0.0
    """Each way of each call takes 0 to this long: calls of one process overtake each other."""
    slow: float = 0.0
    slow_for: float = 4.0
    timeout: float = 5.0
    """After this long an unanswered call is given up."""
    lost_ack: float = 0.0
    """A write is stored, its answer is lost: None after the timeout."""
    committed_error: float = 0.0
    """A write is stored, the answer is an error that proves nothing ("temporarily unavailable"): None at once."""
    late_write: float = 0.0
    """None after the timeout, and the write lands later (a zombie publish)."""
    late_by: float = 20.0
    lost_write: float = 0.0
    no_responders: float = 0.0
    outage: float = 0.0
    """A call brings the server down for everybody."""
    outage_for: float = 30.0
    stale_read: float = 0.0
    """A replica answers with an older state. Only with replicas=3: one server has no replica."""
    stale_by: float = 3.0
    lost_answer: float = 0.0
    """An ack, nak or in_progress does not arrive."""
    duplicate: float = 0.0
    """A delivery is handed out once more although nobody gave it back."""
    lost_notice: float = 0.0
    """A notice, a followed commit or a death is not told."""
    lost_ask: float = 0.0
    """A question, or its answer, is lost."""
    late_expiry: float = 0.0
    """A lease ends later than it should (the leader changed)."""
    late_expiry_by: float = 5.0
    clock_jump: float = 0.0
    clock_jump_by: float = 3600.0
    pause: float = 0.0
    """The process stands still (SIGSTOP); only on the virtual-time loop."""
    pause_for: float = 40.0
    crash: float = 0.0
    """Per boundary: kill -9."""
    fired: Counter[str] = field(default_factory=Counter[str])
    healed: bool = False

    def heal(self) -> None:
        """No fault any more: for the end of a run, when everything has to drain."""
        self.healed = True


class Fate(Enum):
    """What becomes of one write."""

    ANSWERED = auto()
    LOST_ACK = auto()
    COMMITTED_ERROR = auto()
    LATE = auto()
    LOST = auto()
    NO_RESPONDERS = auto()


_FATES = (
    ("lost_ack", Fate.LOST_ACK),
    ("committed_error", Fate.COMMITTED_ERROR),
    ("late_write", Fate.LATE),
    ("lost_write", Fate.LOST),
    ("no_responders", Fate.NO_RESPONDERS),
)


class Dice:
    """The draws of one process: same seed and name, same draws."""

    __slots__ = ("faults", "random")

    def __init__(self, faults: Faults, name: str) -> None:
        self.faults = faults
        self.random = Random(f"{faults.seed}/{name}")

    def hit(self, fault: str) -> bool:
        """Whether this fault happens now; counts it if so."""
        probability: float = getattr(self.faults, fault)
        if not probability or self.faults.healed or self.random.random() >= probability:
            return False
        self.faults.fired[fault] += 1
        return True

    def fate(self) -> Fate:
        for fault, fate in _FATES:
            if self.hit(fault):
                return fate
        return Fate.ANSWERED

    def upto(self, seconds: float) -> float:
        return self.random.random() * seconds

    def either_way(self, seconds: float) -> float:
        return (self.random.random() * 2 - 1) * seconds

    def delay(self) -> float:
        """How long one way takes."""
        faults = self.faults
        if faults.healed:
            return 0.0
        seconds = self.random.random() * faults.latency if faults.latency else 0.0
        if faults.slow and self.hit("slow"):
            seconds += self.upto(faults.slow_for)
        return seconds
