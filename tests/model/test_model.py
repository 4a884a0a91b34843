"""The protocol holds within small bounds, every run of it ends, and each guard taken away is noticed."""

from __future__ import annotations

import re

import pytest

from tests.model.checks import CYCLES, MODEL, MUTANTS, SHORT, SMALL, Check
from tests.model.spin import missing, verify

pytestmark = pytest.mark.skipif(
    bool(missing()), reason=f"not installed: {', '.join(missing())} (.ci/run installs them)"
)


def _name(check: Check) -> str:
    return check.name


@pytest.mark.parametrize("check", SMALL, ids=_name)
def test_the_protocol_holds(check: Check) -> None:
    verdict = verify(MODEL, check.defines)
    assert not verdict.violation, f"after {verdict.steps} steps: {verdict.violation}"
    assert verdict.states > 500


@pytest.mark.parametrize("check", CYCLES, ids=_name)
def test_every_run_ends(check: Check) -> None:
    verdict = verify(MODEL, check.defines, cycles=True)
    assert not verdict.violation, f"after {verdict.steps} steps: {verdict.violation}"


@pytest.mark.long
@pytest.mark.parametrize("mutant", MUTANTS, ids=_name)
def test_a_mutant_is_noticed(mutant: Check) -> None:
    assert verify(MODEL, mutant.defines, depth=SHORT).violation


def test_each_mutant_of_the_model_is_in_the_list() -> None:
    in_the_model = set(re.findall(r"\bMUTANT_([A-Z_]+)", MODEL.read_text()))
    assert in_the_model - {"x"} == {mutant.name for mutant in MUTANTS}
