"""The harness's own test: with one guard of the engine taken out some schedule shows it, by the rule that it broke."""

from __future__ import annotations

import pytest

from romancy_nats.errors import RomancyError
from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.schedule import leaning, run

MOST = 400
"""Seeds tried from the mutant's own on. The first does it until the engine or the generator changes."""


def violations(mutant: Mutant, seed: int) -> list[str]:
    """What a schedule shows of the mutant."""
    with pytest.MonkeyPatch.context() as patch:
        mutant.change(patch)
        try:
            return run(leaning(seed, **mutant.lean)).violations
        except RomancyError as error:
            return [str(error)]


@pytest.mark.parametrize("mutant", MUTANTS, ids=[f"{mutant.law}: {mutant.name}" for mutant in MUTANTS])
def test_a_missing_guard_is_found(mutant: Mutant) -> None:
    for seed in range(mutant.seed, mutant.seed + MOST):
        if any(mutant.seen in violation for violation in violations(mutant, seed)):
            return
    pytest.fail(
        f"{mutant.name} survived seeds {mutant.seed} to {mutant.seed + MOST}: {mutant.law} is not guarded"
    )


@pytest.mark.parametrize(
    "lean", {tuple(sorted(mutant.lean.items())): mutant.lean for mutant in MUTANTS}.values()
)
def test_the_same_faults_harm_nothing_with_all_guards(lean: dict[str, float]) -> None:
    for seed in range(10):
        assert not run(leaning(seed, **lean)).violations
