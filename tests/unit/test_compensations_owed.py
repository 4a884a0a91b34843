"""A compensation whose arguments cannot be made is owed all the same: it fails, says why, and stops no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from pydantic import BeforeValidator

from romancy_nats import PayloadError, PayloadTooLargeError
from romancy_nats.core.activity import Activity
from romancy_nats.core.limits import MAX_VALUE
from romancy_nats.core.saga import Saga

HALF = "x" * (MAX_VALUE * 2 // 3)


def _exits(value: object) -> Any:
    raise SystemExit(value)


async def act(value: str) -> str:
    return value


async def takes_a_number(value: int) -> None: ...
async def takes_both(value: str, result: str) -> None: ...
async def exits(value: Annotated[str, BeforeValidator(_exits)]) -> None: ...
async def lies(value: str = "default", result: int = 1) -> None: ...


CASES: dict[str, tuple[Callable[..., Any], str, str]] = {
    "of another type": (takes_a_number, "abc", "should be a valid integer"),
    "too large together": (takes_both, HALF, "the input of compensation 'takes_both' has"),
    "a validator that exits": (exits, "abc", "SystemExit: abc"),
    "with defaults": (lies, "abc", "should be a valid integer"),
}


@pytest.mark.parametrize("name", CASES)
def test_it_fails_and_says_why(name: str) -> None:
    compensation, value, why = CASES[name]
    activity = Activity[..., Any](act, compensation=compensation)
    saga = Saga()
    for n in (1, 2):
        saga.completed(
            f"act:{n}", activity, activity.parameters.encode([value]), activity.result.encode(value)
        )
    for undo in saga.newest_first():
        assert len(undo.input) < MAX_VALUE
        with pytest.raises(PayloadError) as caught:
            undo.compensation.parameters.decode(undo.input)
        assert why in str(caught.value)


def test_what_is_registered_is_bounded_where_it_is_registered() -> None:
    saga = Saga()
    with pytest.raises(PayloadTooLargeError, match="the input of compensation 'act'"):
        saga.register(Activity[..., Any](act), ["x" * MAX_VALUE], {})
    assert saga.newest_first() == []
