"""The subject grammar: what is written can be read back, and nothing from outside gets into a subject."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from romancy_nats.core.ids import InstanceKey
from romancy_nats.errors import InvalidNameError
from romancy_nats.jetstream.subjects import Subjects

SUBJECTS = Subjects("shop-1")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=128)
TOKENS = re.compile(r"[A-Za-z0-9_$=-]+(\.[A-Za-z0-9_$=-]+)*")
CONSUMER = re.compile(r"[A-Za-z0-9_=-]{1,255}")


def test_names_of_a_namespace() -> None:
    key = InstanceKey("order workflow", "o.1")
    assert SUBJECTS.shard_stream(3) == "KV_shop-1_3"
    assert SUBJECTS.start_stream == "SHOP-1_START"
    assert SUBJECTS.record(3, key) == "$KV.shop-1_3.instance.order=20workflow.o=2E1"
    assert SUBJECTS.commit(3, key, 1, 17) == "shop-1.history.3.order=20workflow.o=2E1.1.17"
    assert SUBJECTS.live(3, key) == "shop-1.live.3.order=20workflow.o=2E1.>"
    assert SUBJECTS.start("order workflow") == "shop-1.start.order=20workflow"
    assert SUBJECTS.message(key) == "shop-1.message.order=20workflow.o=2E1"
    assert SUBJECTS.consumer("start", "order workflow") == "start_order=20workflow"
    assert SUBJECTS.lease("abc") == "$KV.shop-1_workers.abc"


@pytest.mark.parametrize("namespace", ["", "Shop", "a.b", "a b", "a_b", "*", ">", "x" * 33])
def test_a_namespace_is_checked(namespace: str) -> None:
    with pytest.raises(InvalidNameError):
        Subjects(namespace)


@given(TEXT, TEXT, st.integers(0, 9), st.integers(0, 10**6), st.integers(0, 10**9))
def test_any_name_and_id_makes_plain_subjects_that_are_read_back(
    workflow: str, id: str, shard: int, generation: int, n: int
) -> None:
    key = InstanceKey(workflow, id)
    record, commit = SUBJECTS.record(shard, key), SUBJECTS.commit(shard, key, generation, n)
    for subject in (record, commit, SUBJECTS.message(key), SUBJECTS.start(workflow), SUBJECTS.dead(workflow)):
        assert TOKENS.fullmatch(subject)
    assert SUBJECTS.read_record(record) == key
    assert SUBJECTS.read_commit(commit) == (generation, n)
    assert SUBJECTS.read_commit(commit.replace(".history.", ".live.")) == (generation, n)
    assert SUBJECTS.read_target(SUBJECTS.message(key)) == key
    assert SUBJECTS.read_workflow(SUBJECTS.start(workflow)) == workflow


@given(TEXT, TEXT)
def test_consumer_names_are_legal_and_differ(one: str, other: str) -> None:
    names = {SUBJECTS.consumer("start", one), SUBJECTS.consumer("start", other)}
    assert all(CONSUMER.fullmatch(name) for name in names)
    assert len(names) == len({one, other})


def test_long_names_that_begin_alike_have_consumers_of_their_own() -> None:
    one, other = "é" * 127 + "a", "é" * 127 + "b"
    assert SUBJECTS.consumer("due", one) != SUBJECTS.consumer("due", other)
    assert CONSUMER.fullmatch(SUBJECTS.consumer("due", one))


@pytest.mark.parametrize(
    "subject",
    ["$KV.shop-1_0.other.a.b", "$KV.shop-1_0.instance.a", "$KV.shop-1_0.instance.a.b=zz", "a.b.instance.c.d"],
)
def test_what_is_no_record_is_not_read_as_one(subject: str) -> None:
    assert SUBJECTS.read_record(subject) is None


@pytest.mark.parametrize(
    "subject", ["shop-1.live.0.a.b.x.1", "shop-1.live.0.a.b.1", "shop-1.live.0.a.b.1.2.3", ""]
)
def test_what_is_no_commit_is_not_read_as_one(subject: str) -> None:
    assert SUBJECTS.read_commit(subject) is None


def test_a_cron_firing_names_no_instance_but_an_id_may_be_called_so() -> None:
    assert SUBJECTS.read_target("shop-1.due.order._cron.nightly") is None
    assert SUBJECTS.read_target("shop-1.due.order._cron.0.t1") == InstanceKey("order", "_cron")
    assert SUBJECTS.read_workflow("shop-1.due.order._cron.nightly") == "order"


@pytest.mark.parametrize("incarnation", ["", "a.b", "*", ">", "a b", "x" * 65])
def test_an_incarnation_is_one_plain_token(incarnation: str) -> None:
    with pytest.raises(InvalidNameError):
        SUBJECTS.lease(incarnation)
    with pytest.raises(InvalidNameError):
        SUBJECTS.worker(incarnation)


EVENT_TYPE = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda t: "." not in t),
                      min_size=1, max_size=5).map(".".join).filter(lambda t: len(t) <= 255)  # fmt: skip


@given(EVENT_TYPE, TEXT | st.none(), TEXT, TEXT, st.integers(0, 9))
def test_events_and_registrations_of_any_name(
    type: str, event_key: str | None, workflow: str, id: str, generation: int
) -> None:
    key = InstanceKey(workflow, id)
    event, wait = SUBJECTS.event(type), SUBJECTS.wait(type, event_key, key, generation, "event:1")
    assert TOKENS.fullmatch(event)
    assert TOKENS.fullmatch(wait)
    assert len(event) < 3500
    assert len(wait) < 4000
    assert SUBJECTS.read_event(event) == type
    assert SUBJECTS.read_wait(wait) == (key, generation, "event:1")
    assert wait.startswith(SUBJECTS.waits(type, event_key).removesuffix(">"))
    for subject in (SUBJECTS.timer(key, generation), SUBJECTS.due(key, generation)):
        assert TOKENS.fullmatch(subject)
    assert SUBJECTS.read_target(SUBJECTS.due(key, generation)) == key


@given(st.tuples(EVENT_TYPE, TEXT | st.none()), st.tuples(EVENT_TYPE, TEXT | st.none()))
def test_registrations_of_other_types_and_keys_have_other_filters(
    one: tuple[str, str | None], other: tuple[str, str | None]
) -> None:
    assert (SUBJECTS.waits(*one) == SUBJECTS.waits(*other)) == (one == other)


@pytest.mark.parametrize("key", ["", "=", "==", "*", ">", "x" * 5000, "é" * 5000])
def test_a_key_is_never_taken_for_any_key(key: str) -> None:
    assert SUBJECTS.waits("a", key) != SUBJECTS.waits("a", None)
    assert len(SUBJECTS.waits("a", key)) < 300


@pytest.mark.parametrize("type", ["", ".", "a..b", ".a", "a.", "x" * 256])
def test_an_event_type_is_checked(type: str) -> None:
    with pytest.raises(InvalidNameError):
        SUBJECTS.event(type)


def test_events_of_other_spellings() -> None:
    assert SUBJECTS.read_event("shop-1.event.größe.a=zz") == "größe.a=zz"
    for odd in ("shop-1.event", "shop-1.event.*", "shop-1.event.a.>", "shop-1.event.a\ufffd"):
        assert not SUBJECTS.read_event(odd)
