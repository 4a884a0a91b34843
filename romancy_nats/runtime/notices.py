"""What a waiting client is told when an instance comes to rest: a hint with the answer in it, never a record."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import msgpack

from romancy_nats.core.events import UpdateAnswered, WorkflowCompleted, WorkflowFailed
from romancy_nats.core.failure import Failure
from romancy_nats.core.record import InstanceStatus
from romancy_nats.errors import RomancyError
from romancy_nats.runtime.instance import Instance

_LARGEST = 500_000


class Outcome(NamedTuple):
    """How an instance rests: its status, and the bytes of its result or failure when they are at hand."""

    status: InstanceStatus
    payload: bytes
    has_payload: bool


def outcome(instance: Instance) -> bytes:
    """The notice for an instance at rest; without the payload when that is large."""
    payload: bytes | None = None
    match instance.execution.ending:
        case WorkflowCompleted(result):
            payload = result
        case WorkflowFailed(failure):
            payload = failure
        case _:
            payload = None
    if payload is not None and len(payload) > _LARGEST:
        payload = None
    return msgpack.packb((str(instance.record.status), payload))


def update_notice(answered: UpdateAnswered) -> bytes:
    """What the caller of an update is told; nothing when that is large: it is in the history."""
    if len(answered.result) + len(answered.failure) > _LARGEST:
        return b""
    return msgpack.packb((answered.result, answered.failure, answered.rejected))


def rejection(text: str) -> bytes:
    """The notice for an update that nobody will carry out."""
    return update_notice(UpdateAnswered("", failure=Failure.of(RomancyError(text)).encode(), rejected=True))


def read_update_notice(notice: bytes) -> UpdateAnswered | None:
    """The answer in a notice; None says: look at the history."""
    if not notice:
        return None
    try:
        result, failure, rejected = msgpack.unpackb(notice)
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    return UpdateAnswered("", result, failure, rejected)


def read_outcome(notice: bytes) -> Outcome | None:
    """The outcome in a notice; None says: look at the record."""
    if not notice:
        return None
    try:
        status, payload = msgpack.unpackb(notice)
        return Outcome(InstanceStatus(status), payload or b"", payload is not None)
    except (ValueError, TypeError, msgpack.UnpackException):
        return None


async def heard(news: asyncio.Event, wait: float) -> bool:
    """Whether it came within `wait` seconds."""
    try:
        async with asyncio.timeout(wait):
            await news.wait()
    except TimeoutError:
        return False
    return True


class Notice:
    """Where the outcome of a start lands when the worker tells it."""

    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        self.news = asyncio.Event()
        self.told = asyncio.Event()

    def __call__(self, data: bytes) -> None:
        """Take what arrived."""
        self.outcome = read_outcome(data) or self.outcome
        self.news.set()
        self.told.set()

    @property
    def result(self) -> bytes | None:
        """The result, encoded, when the notice brought one."""
        outcome = self.outcome
        if outcome is None or outcome.status is not InstanceStatus.COMPLETED or not outcome.has_payload:
            return None
        return outcome.payload
