"""Requests that are made again until the server answers (L3), and the end of a client's patience. Virtual time."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.record import InstanceRecord
from romancy_nats.errors import PermissionDeniedError, ServerUnavailableError, StorageError
from romancy_nats.ports import Duplicate, Held, Refusal, Refused
from romancy_nats.storage.backoff import Backoff, until_answered
from romancy_nats.storage.publishing import publish
from romancy_nats.storage.records import write_record
from romancy_nats.testing.virtual_time import run

KEY = InstanceKey("order", "17")


class Replies:
    """A server that gives these answers, one for each request, and raises those that are errors."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.written: list[InstanceRecord] = []

    async def ask(self) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def write(self, key: InstanceKey, record: InstanceRecord, expected: int) -> Any:
        self.written.append(record)
        return await self.ask()

    async def read(self, key: InstanceKey) -> Held | None:
        return Held(self.written[-1], 5) if await self.ask() == "ours" else Held(InstanceRecord(), 6)


def world(replies: Replies, patience: float | None = None) -> Any:
    return SimpleNamespace(ledger=replies, chance=SimpleNamespace(id=lambda: "fresh"), patience=patience)


def lost() -> ServerUnavailableError:
    return ServerUnavailableError("no answer")


def test_pauses_double_up_to_the_longest() -> None:
    async def main() -> list[float]:
        backoff, clock = Backoff(0.5, longest=2.0), asyncio.get_running_loop().time
        times = [clock()]
        for _ in range(4):
            await backoff.pause()
            times.append(clock())
        return [round(after - before, 6) for before, after in pairwise(times)]

    assert run(main) == [0.5, 1.0, 2.0, 2.0]


def test_a_read_is_made_again_until_it_is_answered() -> None:
    replies = Replies(lost(), lost(), "the answer")
    assert run(lambda: until_answered(world(replies), replies.ask)) == "the answer"


def test_a_client_gives_up_and_says_what_is_unknown() -> None:
    replies = Replies(*(lost() for _ in range(50)))
    with pytest.raises(ServerUnavailableError, match=r"30 s.*may or may not have been stored; send it again"):
        run(lambda: publish(world(replies, patience=30.0), replies.ask, "the event"))
    assert len(replies.answers) > 25


@pytest.mark.parametrize("first", [None, lost()], ids=["unanswered", "unavailable"])
def test_a_duplicate_after_a_lost_answer_is_the_own_message(first: object) -> None:
    replies = Replies(first, Duplicate(7))
    sequence = run(lambda: publish(world(replies), replies.ask, "the message"))
    assert (sequence, isinstance(sequence, Duplicate)) == (7, False)


def test_a_duplicate_at_once_is_the_message_of_an_earlier_call() -> None:
    replies = Replies(Duplicate(7))
    assert isinstance(run(lambda: publish(world(replies), replies.ask, "the message")), Duplicate)


@pytest.mark.parametrize(
    ("why", "error"), [(Refusal.DENIED, PermissionDeniedError), (Refusal.OTHER, StorageError)]
)
def test_a_refusal_ends_the_tries(why: Refusal, error: type[Exception]) -> None:
    replies = Replies(Refused(why, "no"))
    with pytest.raises(error, match="no"):
        run(lambda: publish(world(replies), replies.ask, "the message"))


def test_a_stale_refusal_after_a_lost_answer_may_be_the_own_success() -> None:
    replies = Replies(None, Refused(Refusal.STALE), "ours")
    assert run(lambda: write_record(world(replies), KEY, InstanceRecord(), 4)) == 5


@pytest.mark.parametrize("answers", [[None, Refused(Refusal.STALE), "another's"], [Refused(Refusal.STALE)]])
def test_any_other_stale_refusal_stands(answers: list[object]) -> None:
    replies = Replies(*answers)
    refused = run(lambda: write_record(world(replies), KEY, InstanceRecord(), 4))
    assert isinstance(refused, Refused)
