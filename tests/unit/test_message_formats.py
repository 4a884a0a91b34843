"""The formats that clients and workers share: one side reads what the other writes; anything else is refused."""

from __future__ import annotations

import msgpack
import pytest

from romancy_nats.core.events import UpdateAnswered
from romancy_nats.core.failure import Failure
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.messages.announcement import EMITTED, Progress, read_progress, write_progress
from romancy_nats.core.messages.channel import channel_message
from romancy_nats.core.messages.outcome import LARGEST_IN_NOTICE, Outcome, read_outcome, write_outcome
from romancy_nats.core.messages.query import ANSWERED, Answer, Question, ask_body
from romancy_nats.core.messages.update import read_update_notice, rejection, update_message, update_notice
from romancy_nats.core.plain import decode_plain
from romancy_nats.core.record import InstanceStatus
from romancy_nats.errors import InvalidNameError, PayloadError, PayloadTooLargeError, QueryError

KEY = InstanceKey("order", "17")
FOREIGN = [b"\xc1", b"text", msgpack.packb(1), msgpack.packb(("more", "than", "these", "fields", 5, 6))]


@pytest.mark.parametrize("payload", [b"", b"result", b"x" * LARGEST_IN_NOTICE])
@pytest.mark.parametrize("status", [InstanceStatus.COMPLETED, InstanceStatus.STALLED])
def test_an_outcome_is_read_as_written(status: InstanceStatus, payload: bytes) -> None:
    assert read_outcome(write_outcome(status, payload)) == Outcome(status, payload, has_payload=True)


@pytest.mark.parametrize("payload", [None, b"x" * (LARGEST_IN_NOTICE + 1)])
def test_an_outcome_without_a_payload_says_so(payload: bytes | None) -> None:
    notice = write_outcome(InstanceStatus.COMPLETED, payload)
    assert read_outcome(notice) == Outcome(InstanceStatus.COMPLETED, b"", has_payload=False)


def test_the_answer_of_an_update_is_read_as_written() -> None:
    answered = UpdateAnswered("", b"result")
    assert read_update_notice(update_notice(answered)) == answered
    refused = read_update_notice(rejection("why"))
    assert refused is not None
    assert refused.rejected
    assert Failure.decode(refused.failure).message == "why"


def test_a_large_answer_of_an_update_is_left_to_the_history() -> None:
    assert read_update_notice(update_notice(UpdateAnswered("", b"x" * (LARGEST_IN_NOTICE + 1)))) is None


@pytest.mark.parametrize("data", [b"", *FOREIGN])
def test_what_is_no_notice_is_none(data: bytes) -> None:
    assert read_outcome(data) is None
    assert read_update_notice(data) is None
    assert read_progress(data) is None


def test_an_announcement_is_read_as_written() -> None:
    assert read_progress(write_progress(EMITTED, 17, b"value")) == Progress(EMITTED, 17, b"value")


def test_a_question_and_its_answer_are_read_as_written() -> None:
    question = Question("order", "17", "total", ask_body((1,), {"b": 2}), forwarded=True)
    assert Question.decode(question.encode()) == question
    assert decode_plain(question.body) == {"args": [1], "kwargs": {"b": 2}}
    assert ask_body((), {}) == b""
    answer = Answer(ANSWERED, b"value")
    assert Answer.decode(answer.encode()) == answer


@pytest.mark.parametrize("data", FOREIGN)
def test_what_is_no_question_or_answer_is_refused(data: bytes) -> None:
    with pytest.raises(QueryError):
        Question.decode(data)
    with pytest.raises(QueryError, match="another release"):
        Answer.decode(data)


def test_messages_refuse_what_nobody_could_read() -> None:
    with pytest.raises(InvalidNameError):
        channel_message(KEY, "", b"", "me", 1, "id")
    with pytest.raises(PayloadError, match="JSON object"):
        channel_message(KEY, "words", b"", "me", 1, "id", {"a": object()})
    with pytest.raises(InvalidNameError):
        update_message(KEY, "", b"", "id", "inbox", 10)
    with pytest.raises(PayloadTooLargeError):
        update_message(KEY, "add", b"x" * 11, "id", "inbox", 10)
