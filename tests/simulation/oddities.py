"""What a few plans have besides: odd errors, direct calls, stalls, misfits, updates that wait at a recur."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from tests.simulation.program import ODD_ERRORS, Program
from tests.simulation.waits import AT_THE_WAIT, Sending, Waiting

ODD_SHARE = 0.08
"""The part of all plans that has such things."""
_Odd = tuple[list[Any], list[Sending]]


def odd(dice: Random, id: str, program: Program) -> Waiting:
    """The same program with one odd thing somewhere in it."""
    ops, sendings = dice.choice(_KINDS)(dice, id)
    at = dice.randrange(len(program) + 1)
    return Waiting([*program[:at], *ops, *program[at:]], sendings)


def _calls(dice: Random, id: str) -> _Odd:
    mode = dice.choice(["ok", "flaky1", "fatal"])
    seconds = dice.choice([0.0, 0.05, 1.0])
    if dice.random() < 0.4:
        hasty = [
            "act",
            "hasty",
            "h",
            dice.choice(["flaky1", "flaky2", "flaky9"]),
            dice.choice([0.0, 0.1, 0.3]),
        ]
        return [["timeout", dice.choice([0.1, 0.5, 5.0]), hasty]], []
    return [["chain", 1 + dice.randrange(3), "c", seconds], ["direct", "d", mode, seconds]], []


def _raises(dice: Random, id: str) -> _Odd:
    error: list[Any] = ["raise", dice.choice(sorted(ODD_ERRORS))]
    roll = dice.random()
    if roll < 0.4:
        beside = ["act", "work", "beside", "ok", dice.choice([0.0, 1.0])]
        return [[dice.choice(["par", "group"]), [beside, ["seq", [["sleep", 0.5], error]]]]], []
    return [["try", error] if roll < 0.6 else error], []


def _stalls(dice: Random, id: str) -> _Odd:
    every = 5.0 + dice.random() * 30
    return [["stall"]], [Sending("cancel", "", None, 0, every, again_every=every)]


def _skips(dice: Random, id: str) -> _Odd:
    every = 10.0 + dice.random() * 30
    listens = dice.random() < 0.4
    op = ["listen", "news", id, 2, 60.0] if listens else ["wait", "news", id, None]
    delays = [dice.choice([0.0, 0.01, 0.2, 1.0, 5.0]) for _ in range(1 + dice.randrange(3))]
    misfits = [Sending("event", "news", id, AT_THE_WAIT, delay, misfit=True) for delay in delays]
    return [op], [*misfits, Sending("event", "news", id, 0, every, again_every=every)]


def _carries_over(dice: Random, id: str) -> _Odd:
    """An update comes before its handler is there, and the generation ends meanwhile."""
    delay = dice.choice([0.0, 0.1, 1.0])
    ops = [
        ["sleep", dice.choice([0.5, 2.0, 5.0])],
        ["recur", 0.0, None],
        ["sleep", 0.5],
        ["serve"],
        ["sleep", 9.0],
    ]
    return ops, [Sending("update", "put", None, dice.randrange(2), delay, seconds=dice.choice([0.0, 0.5]))]


_KINDS: tuple[Callable[[Random, str], _Odd], ...] = (_calls, _raises, _stalls, _skips, _carries_over)
