"""Waiting for the end of an instance: for the notice of its worker and for new commits, and by reading its record."""

from __future__ import annotations

import asyncio
import base64
import logging
from contextlib import suppress
from typing import Any, Generic, TypeVar

from romancy_nats.client.notice import OutcomeNotice, is_set_within
from romancy_nats.client.session import OwnStart, Target
from romancy_nats.core.activity import registered_errors
from romancy_nats.core.events import WorkflowCompleted, WorkflowFailed
from romancy_nats.core.failure import Failure
from romancy_nats.core.payload import ValueCodec
from romancy_nats.core.record import InstanceRecord, InstanceStatus
from romancy_nats.core.times import Duration, seconds
from romancy_nats.errors import (
    InstanceConflictError,
    ResultTimeoutError,
    RomancyError,
    ServerError,
    ServerUnavailableError,
    StartRejectedError,
    WorkflowCancelledError,
    WorkflowFailedError,
    WorkflowStalledError,
    WorkflowTerminatedError,
)
from romancy_nats.storage.backoff import until_answered
from romancy_nats.storage.records import read_record

R = TypeVar("R")
_log = logging.getLogger("romancy.client")
_LAST_LOOK = 1.0
"""Seconds after its time-out in which `result` finds out why."""
_FIRST_LOOK = 2.0
"""Seconds to wait for a notice before the record is read."""
_FIRST_LOOK_OF_NAMED = 0.2
"""The same for an own start with an id that others may use as well."""
_FIRST_LOOK_OF_OWN = 10.0
"""The same for an own start with an id that was made up."""
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 15.0
_SLOWER = 8
"""How many times longer each pause between two reads of the record is than the one before (s)."""
_AFTER_A_CHANGE = 0.002


class AwaitedResult(Generic[R]):
    """The result of one instance, decoded. `notice` is where that of an own start arrives, None for any other."""

    def __init__(self, target: Target, codec: ValueCodec[R], notice: OutcomeNotice | None) -> None:
        self._target = target
        self._codec = codec
        self._started = notice is not None
        self._looked = False
        self._retried = ""
        self._notice = notice or OutcomeNotice()

    def ignore_stall(self, write: str) -> None:
        """Wait for what comes of a retry: the stalled record with that write id is not the end."""
        self._retried = write

    async def get(self, timeout: Duration | None) -> R:
        """Wait for the end. Raises what `WorkflowHandle.result` raises."""
        most = None if timeout is None else seconds(timeout, "the timeout of result()")
        limit = asyncio.timeout(most)
        try:
            async with limit:
                return await self._result_at_last()
        except TimeoutError:
            if most is None or not limit.expired():
                raise
        raise await self._late(most)

    async def _result_at_last(self) -> R:
        while True:
            try:
                return await self._result()
            except ServerUnavailableError as error:
                _log.warning("still waiting for the result of %r: %s", self._target, error)

    async def _late(self, after: float) -> ResultTimeoutError:
        """The error that says why there is no result yet, as far as the server answers within a second."""
        target, unserved = self._target, ""
        status = None if target.last is None else target.last.status
        with suppress(TimeoutError, ServerError):
            async with asyncio.timeout(_LAST_LOOK):
                status = (await target.look()).record.status
                if target.workflow is not None and not status.ended:
                    unserved = await target.session.unserved(target.workflow)
        return ResultTimeoutError(target.id, target.workflow or "", after, status, unserved)

    async def _result(self) -> R:
        own = self._target.own
        looked, self._looked = self._looked, True
        first_look = (
            self._started and not looked and await is_set_within(self._notice.changed, _first_look(own))
        )
        if first_look and (result := self._notice.result) is not None:
            return self._codec.decode(result)
        record = await self._target.record()
        if await self._is_over(record):
            return await self._conclude(record)
        ended = await self._wait()
        if ended is None:
            return self._codec.decode(self._notice.result or b"")
        return await self._conclude(ended)

    async def _is_over(self, record: InstanceRecord) -> bool:
        stalled = record.status is InstanceStatus.STALLED and record.write != self._retried
        own, over = self._target.own, record.status.ended or stalled
        if own is None or not record.start or record.start >= own.sequence:
            return over
        if own.on_conflict == "fail":
            raise InstanceConflictError(self._target.id, self._target.workflow or "")
        if not over or own.on_conflict != "restart_ended":
            return over
        # The end of an earlier generation, as long as our own start has not been handled.
        key = await self._target.key()
        world = self._target.session.world
        if await until_answered(world, lambda: world.queues.waiting_start(key)) is not None:
            return False
        latest = await read_record(world, key)
        return latest is not None and latest.record.start == record.start

    async def _wait(self) -> InstanceRecord | None:
        """The record of the end, or None when a notice brought the result.

        Follows the commits where no notice will come. Reads the record after longer and longer pauses, in case a
        notice was lost: thousands of clients that read at every commit would slow the workers that they wait for.
        """
        key = await self._target.key()
        own, changed = self._target.own, self._notice.changed
        is_notified = own is not None and not own.named and not self._retried
        unfollow = None if is_notified else await self._target.session.follow(key, changed.set)
        pause = _FIRST_LOOK_OF_OWN if is_notified else _FIRST_PAUSE
        try:
            while True:
                changed.clear()
                record = await self._target.record()
                if await self._is_over(record):
                    return record
                if unfollow is None and self._rests(record):
                    unfollow = await self._target.session.follow(key, changed.set)
                    pause = _FIRST_PAUSE
                    continue
                self._notice.received.clear()
                has_changed = await is_set_within(changed, pause)
                # The record follows its last commit by one write, which takes as long as a disk takes.
                pause = _AFTER_A_CHANGE if has_changed else min(pause * _SLOWER, _LONGEST_PAUSE)
                if (
                    has_changed
                    and await is_set_within(self._notice.received, _AFTER_A_CHANGE)
                    and self._notice.result is not None
                ):
                    return None
        finally:
            if unfollow is not None:
                await unfollow()

    def _rests(self, record: InstanceRecord) -> bool:
        """Whether it has rested since its start: the worker that wakes it next may not know where to send a notice."""
        return self._notice.outcome is not None or (record.commits > 0 and not record.owner)

    async def _conclude(self, record: InstanceRecord) -> R:
        names = {"instance_id": self._target.id, "workflow": self._target.workflow or ""}
        if self._target.fingerprint and record.fingerprint and record.fingerprint != self._target.fingerprint:
            raise InstanceConflictError(self._target.id, self._target.workflow or "")
        match record.status:
            case InstanceStatus.COMPLETED:
                return self._codec.decode(await self._result_bytes(record))
            case InstanceStatus.CANCELLED:
                raise WorkflowCancelledError(record.error, **names)
            case InstanceStatus.TERMINATED:
                raise WorkflowTerminatedError(record.error, **names)
            case InstanceStatus.REJECTED:
                raise StartRejectedError(record.error, **names)
            case InstanceStatus.STALLED:
                raise WorkflowStalledError(record.error, **names)
            case _:
                raise await self._failure(record, names)

    async def _result_bytes(self, record: InstanceRecord) -> bytes:
        if record.result:
            return base64.b64decode(record.result)
        ending = await self._target.last_event(record)
        if not isinstance(ending, WorkflowCompleted):
            raise RomancyError(
                f"{self._target!r}: the record says completed, its history does not; please report this"
            )
        return ending.result

    async def _failure(self, record: InstanceRecord, names: dict[str, str]) -> WorkflowFailedError:
        error = WorkflowFailedError(record.error, error_type=record.error_type, **names)
        ending = await self._target.last_event(record)
        if isinstance(ending, WorkflowFailed):
            error.__cause__ = Failure.decode(ending.failure).rebuild(registered_errors)
        return error


def untyped() -> ValueCodec[Any]:
    """The codec of a result whose type is not known."""
    return ValueCodec(Any)


def _first_look(own: OwnStart | None) -> float:
    """How long to wait for the worker's notice before looking at the record."""
    if own is None:
        return _FIRST_LOOK
    # Another client may have started the same id a moment before: the notice then goes to that one alone.
    return _FIRST_LOOK_OF_NAMED if own.named else _FIRST_LOOK_OF_OWN
