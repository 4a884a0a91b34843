"""What is checked: the protocol within several bounds, and one mutant for each guard. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MODEL = Path(__file__).with_name("protocol.pml")
SHORT = 1_500
"""How deep to look for what is wrong with a mutant: deep enough for each, and the trail stays readable."""


@dataclass(frozen=True, slots=True)
class Check:
    """Bounds and variants of the model, as its defines."""

    name: str
    defines: tuple[str, ...]


def _check(name: str, *defines: str) -> Check:
    return Check(name, defines)


SMALL = (
    _check("no fault", "FAULTS=0", "MESSAGES=7"),
    _check("an activity, then a message", "FAULTS=1"),
    _check("a message, then an activity", "FAULTS=1", "MESSAGE_FIRST"),
    _check("a cancel, perhaps before the start", "FAULTS=1", "MESSAGES=5"),
    _check("a start alone, two faults", "FAULTS=2", "MESSAGES=1"),
    _check("with the sweeper", "FAULTS=1", "SWEEPER"),
    _check("with a cache of rested memories", "FAULTS=1", "CACHE"),
    # L6 calls it a matter of latency, and so it is: the others pass without it.
    _check("with one more look before resting", "FAULTS=1", "LOOK_AGAIN"),
    _check("three workers", "NW=3", "FAULTS=0"),
)

FULL = (
    _check("an activity, then a message", "FAULTS=2"),
    _check("a message, then an activity", "FAULTS=2", "MESSAGE_FIRST"),
    _check("a cancel, perhaps before the start", "FAULTS=2", "MESSAGES=5"),
    _check("all three messages", "FAULTS=1", "MESSAGES=7"),
    _check("with one more look before resting", "FAULTS=2", "LOOK_AGAIN"),
    _check("with a cache of rested memories", "FAULTS=2", "MESSAGE_FIRST", "CACHE"),
    _check("with the sweeper", "FAULTS=2", "MESSAGES=1", "SWEEPER"),
    _check("a start alone, three faults", "FAULTS=3", "MESSAGES=1"),
    _check("three workers", "NW=3", "FAULTS=1"),
)

CYCLES = (
    _check("every run ends", "FAULTS=1"),
    _check("every run ends, with a cancel", "FAULTS=1", "MESSAGES=5"),
    _check("every run ends, with the sweeper", "FAULTS=1", "MESSAGES=1", "SWEEPER"),
)


def _mutant(name: str, *defines: str) -> Check:
    return Check(name, (f"MUTANT_{name}", "EXACTLY", *defines))


MUTANTS = (
    _mutant("NO_FENCE", "FAULTS=1"),
    _mutant("CLAIM_WITHOUT_CAS", "FAULTS=0"),
    _mutant("TAKE_FROM_THE_LIVING", "FAULTS=0"),
    _mutant("LOAD_BEFORE_CLAIM", "FAULTS=1"),
    _mutant("STALE_READ", "FAULTS=0"),
    _mutant("ADOPT_OWN_NAME", "FAULTS=2", "MESSAGES=1"),
    _mutant("SEND_UNDER_ANOTHER_NUMBER", "FAULTS=1"),
    _mutant("UNANSWERED_IS_FAILED", "FAULTS=1"),
    _mutant("EXISTS_IS_OURS", "FAULTS=2", "MESSAGES=5"),
    _mutant("KEEP_MEMORY", "FAULTS=1"),
    _mutant("CACHE_UNCHECKED", "FAULTS=2", "CACHE"),
    _mutant("ACTIVITY_BEFORE_COMMIT", "FAULTS=0"),
    _mutant("ACK_BEFORE_REST", "FAULTS=1"),
    _mutant("ACK_WITHOUT_COMMIT", "FAULTS=0"),
    _mutant("FORWARD_ACK_UNCHECKED", "FAULTS=0"),
    _mutant("FORWARD_ACKS_LET_GO", "FAULTS=1", "MESSAGE_FIRST"),
    _mutant("QUEUED_IS_REST", "FAULTS=1", "MESSAGES=1"),
    _mutant("LET_GO_UNANSWERED", "FAULTS=1"),
    _mutant("MESSAGE_CLAIMS_UNSTARTED", "FAULTS=1"),
    _mutant("WAKE_ONLY_IF_IDLE", "FAULTS=0"),
    _mutant("COMMIT_UNDER_DEAD_LEASE", "FAULTS=1"),
    _mutant("MEMORY_OF_THE_DEAD", "FAULTS=1"),
    _mutant("POKE_ONLY_FOR_MESSAGES", "FAULTS=2", "MESSAGES=1"),
)
