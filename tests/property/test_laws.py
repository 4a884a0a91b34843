"""Laws of what is stored: commits, records and histories come back as written; a history always folds the same way."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from functools import cache
from typing import Any, get_type_hints

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from romancy_nats.core.commit import Commit
from romancy_nats.core.events import EVENTS as SPECS
from romancy_nats.core.events import ActivityScheduled, Command, Converted, Event, is_command
from romancy_nats.core.execution import Execution
from romancy_nats.core.history import History
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.record import InstanceRecord, InstanceStatus
from romancy_nats.errors import DeterminismError, PayloadError
from tests.simulation.program import interpreter
from tests.simulation.schedule import Finished, plan, run

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_WHOLE = st.integers(0, 2**53)
_OF: dict[Any, st.SearchStrategy[Any]] = {
    str: _TEXT,
    bytes: st.binary(max_size=40),
    int: _WHOLE,
    bool: st.booleans(),
}


def _an(event: type[Event]) -> st.SearchStrategy[Event]:
    hints = get_type_hints(event)
    return st.tuples(*(_OF[hints[name]] for name in event._fields)).map(lambda values: event(*values))


EVENTS = st.one_of([_an(event) for event in SPECS])
COMMITS = st.builds(
    Commit,
    id=_TEXT,
    incarnation=_TEXT,
    fence=_WHOLE,
    time=st.integers(0, 4_000_000_000_000_000),
    events=st.lists(EVENTS, max_size=6).map(tuple),
    open=st.booleans(),
)
_PLAIN = st.recursive(
    st.none() | st.booleans() | _WHOLE | _TEXT, lambda some: st.lists(some, max_size=3), max_leaves=5
)
_HINTS = get_type_hints(InstanceRecord)
RECORDS = st.builds(
    InstanceRecord,
    **{
        f.name: _OF[_HINTS[f.name]]
        for f in fields(InstanceRecord)
        if _HINTS[f.name] in _OF and f.name != "version"
    },
    status=st.sampled_from(InstanceStatus),
    waiting_for=st.lists(_TEXT, max_size=3),
    attributes=st.dictionaries(_TEXT, _PLAIN, max_size=3),
)


# --- what is written comes back


@given(COMMITS)
def test_a_commit_comes_back_as_it_was_written(commit: Commit) -> None:
    assert Commit.decode(commit.encode()) == commit


@given(COMMITS, st.lists(_PLAIN, max_size=3), st.lists(_PLAIN, max_size=3))
def test_what_a_later_release_adds_at_the_end_is_left_aside(
    commit: Commit, more: list[Any], last: list[Any]
) -> None:
    raw = msgpack.unpackb(commit.encode())
    # A field with a default may be new to the writer of an older history, never to one that writes more.
    raw[6] = [(SPECS[type(event)].tag, *event, *more) for event in commit.events]
    assert Commit.decode(msgpack.packb([*raw, *last])) == commit


@given(COMMITS)
def test_an_older_release_knew_fewer_fields(commit: Commit) -> None:
    raw = msgpack.unpackb(commit.encode())
    raw[6] = [
        (SPECS[type(event)].tag, *event[: len(event) - len(type(event)._field_defaults)])
        for event in commit.events
    ]
    read = Commit.decode(msgpack.packb(raw))
    for was, now in zip(commit.events, read.events, strict=True):
        defaults = type(was)._field_defaults
        assert now == was._replace(**defaults)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_commit_or_an_error_that_says_so(data: bytes) -> None:
    try:
        read = Commit.decode(data)
    except PayloadError:
        return
    assert Commit.decode(read.encode()) == read


@given(COMMITS, st.data())
def test_a_damaged_commit_is_a_commit_or_an_error_that_says_so(commit: Commit, data: st.DataObject) -> None:
    encoded = bytearray(commit.encode())
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= data.draw(st.integers(1, 255))
    try:
        Commit.decode(bytes(encoded))
    except PayloadError:
        return


@given(RECORDS)
def test_a_record_comes_back_as_it_was_written(record: InstanceRecord) -> None:
    assert InstanceRecord.decode(record.encode()) == record


@given(RECORDS, st.dictionaries(_TEXT.map(lambda name: f"x-{name}"), _PLAIN, max_size=3))
def test_fields_of_a_later_record_are_left_aside(record: InstanceRecord, more: dict[str, Any]) -> None:
    plain = json.loads(record.encode()) | more
    assert InstanceRecord.decode(json.dumps(plain).encode()) == record


@given(st.lists(COMMITS, max_size=4), st.integers(0, 9))
def test_a_history_comes_back_from_json(commits: list[Commit], generation: int) -> None:
    history = History(InstanceKey("flow", "id"), generation, tuple(commits))
    again = History.from_json(history.to_json())
    assert again == history
    assert [commit.encode() for commit in again.commits] == [commit.encode() for commit in commits]


def test_no_field_takes_the_place_of_the_name_of_its_event() -> None:
    assert [event.__name__ for event in SPECS if "type" in event._fields] == []


@given(COMMITS)
def test_a_commit_of_an_earlier_release_keeps_its_bytes(commit: Commit) -> None:
    short = [
        (SPECS[type(event)].tag, *event[: SPECS[type(event)].at_first or None]) for event in commit.events
    ]
    old = msgpack.packb((1, commit.id, commit.incarnation, commit.fence, commit.time, commit.open, short))
    assert Commit.decode(old).encode() == old


# --- a history is folded: real ones, as simulated workers under faults left them


@cache
def _histories() -> tuple[tuple[InstanceKey, tuple[Commit, ...]], ...]:
    found: list[tuple[InstanceKey, tuple[Commit, ...]]] = []

    def keep(done: Finished) -> None:
        for shard in done.server.shards:
            for token, key in shard.keys.items():
                places = sorted(place for place in shard.commits if place.token == token)
                found.append((key, tuple(Commit.decode(shard.commits[place].data) for place in places)))

    for seed in range(25):
        run(plan(seed), keep)
    return tuple((key, commits) for key, commits in found if commits)


HISTORIES = st.deferred(lambda: st.sampled_from(_histories()))


def _fold(key: InstanceKey, commits: tuple[Commit, ...]) -> Execution:
    execution = Execution(interpreter, key)
    try:
        for commit in commits:
            execution.replay(commit)
    except DeterminismError:
        execution.evict()
        raise
    return execution


def _state(execution: Execution) -> object:
    """All that a fold comes to."""
    activities = [
        (p.id, p.activity.name, p.input, p.compensates, p.attempts, p.heartbeat)
        for p in execution.state.activities.values()
    ]
    timers = [(id, timer.when()) for id, timer in execution.state.timers.items()]
    undos = [(undo.id, undo.input) for undo in execution.state.saga.newest_first()]
    seen = sorted(execution.state.seen), sorted(execution.state.seen_ids)
    return (
        activities,
        timers,
        undos,
        seen,
        execution.state.ending,
        execution.root.compensating,
        execution.owed,
        execution.state.waits,
    )


def _replayed(key: InstanceKey, commits: tuple[Commit, ...]) -> object:
    execution = _fold(key, commits)
    try:
        return _state(execution)
    finally:
        execution.evict()


@given(HISTORIES)
def test_folded_twice_is_folded_once(history: tuple[InstanceKey, tuple[Commit, ...]]) -> None:
    assert _replayed(*history) == _replayed(*history)


@given(HISTORIES, st.data())
def test_the_state_after_each_prefix_leads_to_the_whole(
    history: tuple[InstanceKey, tuple[Commit, ...]], data: st.DataObject
) -> None:
    """An execution may stop and go on anywhere: what was folded before is all that it needs."""
    key, commits = history
    cut = data.draw(st.integers(0, len(commits)))
    execution = _fold(key, commits[:cut])
    assert _state(execution) == _replayed(key, commits[:cut])
    for commit in commits[cut:]:
        execution.replay(commit)
    assert _state(execution) == _replayed(key, commits)
    execution.evict()


@given(HISTORIES, st.data())
def test_live_the_code_gives_what_it_gives_in_replay(
    history: tuple[InstanceKey, tuple[Commit, ...]], data: st.DataObject
) -> None:
    key, commits = history
    cut = data.draw(st.integers(0, len(commits) - 1))
    execution = _fold(key, commits[:cut])
    produced: list[Event] = []
    for event in commits[cut].events:
        if not is_command(event):
            produced += [event, *execution.deliver(event, commits[cut].time)]  # type: ignore[arg-type]
    assert produced == list(commits[cut].events)
    assert _state(execution) == _replayed(key, commits[: cut + 1])
    execution.evict()


@given(HISTORIES, st.data())
def test_an_open_commit_and_the_rest_are_one_commit(
    history: tuple[InstanceKey, tuple[Commit, ...]], data: st.DataObject
) -> None:
    """Commands may follow their delivery in the next commit, as those of a stalled instance do."""
    key, commits = history
    at = data.draw(st.integers(0, len(commits) - 1))
    commit = commits[at]
    cut = data.draw(st.integers(1, len(commit.events)))
    first = replace(commit, events=commit.events[:cut], open=True)
    rest = replace(commit, id=f"{commit.id}+", events=commit.events[cut:])
    halves = (first, rest) if rest.events else (first,)
    whole = _replayed(key, commits)
    assert _replayed(key, (*commits[:at], *halves, *commits[at + 1 :])) == whole


# --- and nothing else folds (L7)


def _places(commits: tuple[Commit, ...]) -> list[tuple[int, int]]:
    return [(n, m) for n, c in enumerate(commits) for m, event in enumerate(c.events) if is_command(event)]


def _with(commits: tuple[Commit, ...], place: tuple[int, int], events: list[Command]) -> tuple[Commit, ...]:
    n, m = place
    changed = replace(commits[n], events=(*commits[n].events[:m], *events, *commits[n].events[m + 1 :]))
    return (*commits[:n], changed, *commits[n + 1 :])


@pytest.mark.parametrize("change", ["dropped", "doubled", "renamed"])
@settings(max_examples=60)
@given(HISTORIES, st.data())
def test_a_changed_command_is_a_mismatch(
    change: str, history: tuple[InstanceKey, tuple[Commit, ...]], data: st.DataObject
) -> None:
    key, commits = history
    place = data.draw(st.sampled_from(_places(commits)))
    command: Any = commits[place[0]].events[place[1]]
    if isinstance(command, Converted):
        # What was made of data from outside: a replay uses it where the code asks for it, and passes over it elsewhere.
        return
    if change == "renamed" and not isinstance(command, ActivityScheduled):
        return
    events = {"dropped": [], "doubled": [command, command]}
    spoiled = events[change] if change in events else [command._replace(id=f"{command.id}!")]
    with pytest.raises(DeterminismError):
        _replayed(key, _with(commits, place, spoiled))


def test_the_histories_are_worth_folding() -> None:
    kinds = {
        type(event).__name__ for _, commits in _histories() for commit in commits for event in commit.events
    }
    wanted = {
        "TimerFired",
        "ActivityAbandoned",
        "CompensationBegun",
        "CancelRequested",
        "ActivityAttemptFailed",
    }
    assert wanted <= kinds
    assert max(len(commits) for _, commits in _histories()) > 8
