"""The table of events: every class of the union has a row, and every field that may grow has a bound."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest

from romancy_nats.core.commit import encode_commit
from romancy_nats.core.determinism import same
from romancy_nats.core.events import (
    EVENTS,
    Bound,
    Command,
    CompensationBegun,
    Delivered,
    Emitted,
    Ending,
    Event,
    WaitStarted,
    is_command,
    weight,
)

ALL = [*get_args(Delivered), *get_args(Command)]
NAMES = [event.__name__ for event in ALL]
BY_VALUE_ALONE = {*get_args(Ending), Emitted}
"""Commands that have no other field than the value of their author."""


def test_every_class_has_one_row_and_a_tag_of_its_own() -> None:
    assert set(EVENTS) == set(ALL)
    assert len({spec.tag for spec in EVENTS.values()}) == len(EVENTS)
    assert [
        event.__name__ for event in EVENTS if (EVENTS[event].tag >= 32) != (event in get_args(Command))
    ] == []


@pytest.mark.parametrize("event", ALL, ids=NAMES)
def test_every_field_of_bytes_or_text_has_a_bound(event: type[Event]) -> None:
    grows = {name for name, kind in get_type_hints(event).items() if kind in (bytes, str)}
    assert set(EVENTS[event].bounds) == grows


@pytest.mark.parametrize("event", ALL, ids=NAMES)
def test_what_was_added_to_an_event_has_a_default(event: type[Event]) -> None:
    first = EVENTS[event].at_first or len(event._fields)
    assert set(event._fields[first:]) <= set(event._field_defaults)


@pytest.mark.parametrize("command", get_args(Command), ids=lambda command: command.__name__)
def test_no_command_is_compared_by_its_class_alone(command: type[Command]) -> None:
    identity = EVENTS[command].identity
    assert set(identity) <= set(command._fields)
    assert bool(identity) or command in BY_VALUE_ALONE


def an_event(event: type[Event], size: int) -> Event:
    filled = {bytes: b"x" * size, str: "x" * size, int: 1, bool: True}
    return event(*(filled[kind] for kind in get_type_hints(event).values()))


@pytest.mark.parametrize("event", ALL, ids=NAMES)
def test_the_weight_of_an_event_is_about_its_size_in_a_commit(event: type[Event]) -> None:
    for size in (0, 10, 1000, 200_000):
        made = an_event(event, size)
        bytes_ = len(encode_commit("", "", 0, 0, [made]))
        assert bytes_ - 64 <= weight(made) <= bytes_ + 64


@pytest.mark.parametrize("command", get_args(Command), ids=lambda command: command.__name__)
def test_a_command_is_the_same_when_its_identity_is(command: type[Command]) -> None:
    made = an_event(command, 3)
    assert is_command(made)
    for field in EVENTS[command].identity:
        other = made._replace(**{field: not getattr(made, field) if field == "keyed" else "other"})
        assert not same(made, other), field  # type: ignore[arg-type]


def test_what_a_saga_is_for_belongs_to_its_identity() -> None:
    assert not same(CompensationBegun("WorkflowFailed"), CompensationBegun("WorkflowCancelled"))
    assert not same(WaitStarted("event:1", "event", "a"), WaitStarted("event:1", "event", "b"))


def test_errors_are_shortened_and_values_refused() -> None:
    """Fields of one meaning have one bound, whichever event they are in."""
    found = {
        (field, bound)
        for spec in EVENTS.values()
        for field, bound in spec.bounds.items()
        if field in ("failure", "reason", "input", "result", "data", "value", "heartbeat", "carried")
    }
    assert found == {
        ("failure", Bound.SHORTENED),
        ("reason", Bound.SHORTENED),
        ("input", Bound.REFUSED),
        ("result", Bound.REFUSED),
        ("data", Bound.REFUSED),
        ("value", Bound.REFUSED),
        ("carried", Bound.REFUSED),
        ("heartbeat", Bound.DROPPED),
    }
