"""The waiting part of a random plan: what programs wait for, what is sent to them and when. Decides; sends nothing."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from tests.simulation.program import Program

SHARE = 0.25
"""The part of all plans that has such waits."""
_TIMEOUTS = (0.0, 0.2, 1.0, 5.0, 30.0)
_JITTERS = (0.0, 0.0, 0.001, 0.003, 0.01, 0.1, 0.19, 0.2, 0.21, 0.3, 1.0, 3.0)
"""Seconds after a commit. 0.2 is how long an owner lingers before it rests."""


AT_THE_WAIT = -1
AT_THE_END = -2


@dataclass(frozen=True, slots=True)
class Sending:
    """Something that a user says to an instance: `delay` seconds after its commit `after`, 0 for its start.

    `AT_THE_WAIT` is the first commit that waits for what it answers, `AT_THE_END` the last one.
    """

    kind: str
    name: str
    key: str | None
    after: int
    delay: float
    seconds: float = 0.0
    again_every: float = 0.0
    """Said again and again until the instance has ended: it waits without a limit."""
    misfit: bool = False
    """Whether no program takes it."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A program with waits in it, and what is sent."""

    program: Program
    sendings: list[Sending]


def waiting(dice: Random, id: str, program: Program) -> Waiting:
    """The same program with some waits among its operations."""
    return _Maker(dice, id).whole(program)


class _Maker:
    def __init__(self, dice: Random, id: str) -> None:
        self._dice = dice
        self._id = id
        self._sendings: list[Sending] = []

    def whole(self, program: Program) -> Waiting:
        dice, made = self._dice, list(program)
        for _ in range(1 + dice.randrange(3)):
            at = dice.randrange(len(made) + 1)
            op = self._op()
            roll = dice.random()
            if roll < 0.15 and at < len(made):
                made[at] = ["par", [op, made[at]]]
            elif roll < 0.25:
                made.insert(at, ["timeout", self._limit() or 5.0, op])
            elif roll < 0.3 and at < len(made):
                made[at] = ["cleanup", op, made[at]]
            else:
                made.insert(at, op)
        if dice.random() < 0.4:
            made.insert(dice.randrange(len(made) + 1) if dice.random() < 0.3 else 0, ["serve"])
            for _ in range(1 + dice.randrange(2)):
                self._say("update", "put", None, seconds=dice.choice([0.0, 0.0, 0.5, 6.0]))
        if dice.random() < 0.2:
            self._say("cancel", "", None)
        if dice.random() < 0.1:
            # Nobody may be waiting for it.
            self._say(dice.choice(["event", "message"]), "news", None)
        return Waiting(made, self._sendings)

    def _op(self) -> list[Any]:
        dice = self._dice
        roll = dice.random()
        if roll < 0.35:
            return self._wait()
        if roll < 0.45:
            key = dice.choice([None, self._id])
            for _ in range(dice.randrange(4)):
                self._say("event", "news", key)
            return ["listen", "news", key, 1 + dice.randrange(3), dice.choice([1.0, 5.0, 30.0])]
        if roll < 0.7:
            return self._receive()
        if roll < 0.78:
            return ["say", "news", dice.choice([None, "shared", "i0", "i1"]), f"said by {self._id}"]
        if roll < 0.88:
            return ["sleep", dice.choice([3.0, 3.2, 4.0, 20.0, 100.0])]
        mode = dice.choice(["ok", "flaky1", "flaky2", "flaky9"])
        return ["act", "patient", "p", mode, dice.choice([0.0, 0.05, 1.0])]

    def _limit(self) -> float | None:
        return self._dice.choice(_TIMEOUTS) if self._dice.random() < 0.6 else None

    def _wait(self) -> list[Any]:
        dice = self._dice
        type, key, limit = (
            dice.choice(["news", "other"]),
            dice.choice([None, self._id, "shared"]),
            self._limit(),
        )
        self._answer("event", type, key, limit)
        return ["wait", type, key, limit]

    def _receive(self) -> list[Any]:
        channel, limit = self._dice.choice(["a", "b"]), self._limit()
        self._answer("message", channel, None, limit)
        return ["receive", channel, limit]

    def _answer(self, kind: str, name: str, key: str | None, limit: float | None) -> None:
        """Something that answers a wait, before it, in the moment of its registration, of its rest or of its end."""
        for _ in range(1 + self._dice.randrange(2)):
            self._say(kind, name, key, limit)
        if limit is None:
            every = 20.0 + self._dice.random() * 60
            self._sendings.append(Sending(kind, name, key, 0, every, again_every=every))

    def _say(
        self, kind: str, name: str, key: str | None, limit: float | None = None, *, seconds: float = 0.0
    ) -> None:
        dice = self._dice
        delay = dice.choice(_JITTERS)
        if limit and dice.random() < 0.6:
            # At about the moment when the wait gives up.
            delay = max(0.0, limit + dice.choice([-0.3, -0.01, -0.001, 0.0, 0.0, 0.001, 0.01, 0.2]))
        roll, after = dice.random(), dice.randrange(6)
        if roll < 0.1:
            after, delay = 0, dice.random() * 20
        elif roll < 0.6 and kind in ("event", "message"):
            after = AT_THE_WAIT
        elif roll < 0.25 or (roll < 0.6 and kind == "cancel"):
            after = AT_THE_END
        self._sendings.append(Sending(kind, name, key, after, delay, seconds))
