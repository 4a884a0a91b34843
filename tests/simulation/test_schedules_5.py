"""Part 5 of the schedules; see test_schedules."""

from __future__ import annotations

import pytest

from tests.simulation.chunks import check_chunk, chunks


@pytest.mark.parametrize("first", chunks(4))
def test_random_schedules(first: int) -> None:
    check_chunk(first)
