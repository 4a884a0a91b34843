"""Client-side handle of one workflow instance: result, status, history, and the messages a client can send it."""

from __future__ import annotations

import asyncio
import base64
import logging
import weakref
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Generic, TypeVar

from romancy_nats.client.notice import Notice, heard
from romancy_nats.client.session import OwnStart, Target
from romancy_nats.client.watch import WatchItem
from romancy_nats.core.activity import registered_errors
from romancy_nats.core.commit import Commit
from romancy_nats.core.described import PendingActivityInfo, failure_text, pending_activities
from romancy_nats.core.events import (
    ActivityCompleted,
    ActivityFailed,
    ActivityScheduled,
    WorkflowCompleted,
    WorkflowFailed,
)
from romancy_nats.core.failure import Failure
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.messages.query import ask_body
from romancy_nats.core.payload import ValueCodec
from romancy_nats.core.plain import decode_plain
from romancy_nats.core.record import InstanceRecord, InstanceStatus
from romancy_nats.core.times import Duration, seconds, utc
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
from romancy_nats.storage.records import read_commit, read_record

R = TypeVar("R")
_log = logging.getLogger("romancy.client")
_LAST_LOOK = 1.0
"""Seconds after its time-out in which `result` finds out why."""
_FIRST_LOOK = 2.0
_FIRST_LOOK_OF_NAMED = 0.2
_FIRST_LOOK_OF_OWN = 10.0
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 15.0
_SLOWER = 8
_AFTER_NEWS = 0.002


@dataclass(slots=True, frozen=True)
class CompensationInfo:
    """One compensation of an instance: what it undoes, and whether it is done, failed or still to come."""

    activity_id: str
    name: str
    status: str
    error: str = ""


@dataclass(slots=True, frozen=True)
class InstanceInfo:
    """What is known about an instance."""

    id: str
    workflow: str
    status: InstanceStatus
    generation: int = 0
    created_at: datetime | None = None
    started_at: datetime | None = None
    updated_at: datetime | None = None
    ended_at: datetime | None = None
    owner: str | None = None
    error: str | None = None
    error_type: str | None = None
    compensations: tuple[CompensationInfo, ...] = ()
    waiting_for: tuple[str, ...] = ()
    parent: str | None = None
    attributes: dict[str, Any] | None = None
    memo: dict[str, Any] | None = None
    takeovers: int = 0
    skipped: int = 0
    """How many events and messages did not fit and were parked in the dead letters, as of its last rest."""
    pending_activities: tuple[PendingActivityInfo, ...] = ()


def instance_info(
    key: InstanceKey, record: InstanceRecord, compensations: tuple[CompensationInfo, ...] = ()
) -> InstanceInfo:
    """The public view of a record."""
    return InstanceInfo(
        id=key.id,
        workflow=key.workflow,
        status=record.status,
        generation=record.generation,
        created_at=_moment(record.created),
        started_at=_moment(record.started),
        updated_at=_moment(record.updated),
        ended_at=_moment(record.ended),
        owner=record.owner or None,
        error=record.error or None,
        error_type=record.error_type or None,
        compensations=compensations,
        waiting_for=tuple(record.waiting_for),
        parent=record.parent or None,
        attributes=dict(record.attributes),
        memo=dict(record.memo),
        takeovers=record.takeovers,
        skipped=record.skipped,
    )


def _first_look(own: OwnStart | None) -> float:
    """How long to wait for the worker's notice before looking at the record."""
    if own is None:
        return _FIRST_LOOK
    # Somebody else may have started the same id a moment before; then nobody tells us of the end.
    return _FIRST_LOOK_OF_NAMED if own.named else _FIRST_LOOK_OF_OWN


def _moment(micros: int) -> datetime | None:
    return utc(micros) if micros else None


class WorkflowHandle(Generic[R]):
    """One instance, seen from a client."""

    def __init__(
        self,
        target: Target,
        codec: ValueCodec[R],
        *,
        notice: Notice | None = None,
        give_up: Callable[[], None] | None = None,
    ) -> None:
        self._target = target
        self._codec = codec
        self._started = notice is not None
        self._looked = False
        self._retried = ""
        self._notice = notice or Notice()
        if give_up is not None:
            weakref.finalize(self, give_up).atexit = False

    @property
    def id(self) -> str:
        """The id of the instance."""
        return self._target.id

    @property
    def workflow(self) -> str | None:
        """The name of its workflow; None while it was found by id only and nothing was awaited on the handle."""
        return self._target.workflow

    def __repr__(self) -> str:
        return f"<handle of {self._target!r}>"

    async def result(self, timeout: Duration | None = None) -> R:
        """Wait for the end and return the result.

        Raises WorkflowFailedError, WorkflowCancelledError, WorkflowTerminatedError, WorkflowStalledError,
        StartRejectedError, InstanceConflictError, InstanceNotFoundError, or TimeoutError after `timeout`, which harms
        nothing: the instance goes on; it is a ResultTimeoutError, which says where the instance stands and whether a
        worker serves it. While the server cannot be reached it goes on waiting, logs a warning every `client_timeout`
        seconds, and hears of the end once the server is back.
        """
        most = None if timeout is None else seconds(timeout, "the timeout of result()")
        limit = asyncio.timeout(most)
        try:
            async with limit:
                return await self._result_at_last()
        except TimeoutError:
            if most is None or not limit.expired():
                raise
        raise await self._late(most)

    async def status(self) -> InstanceStatus:
        """Where the instance stands. Raises InstanceNotFoundError, InstanceConflictError, ServerUnavailableError."""
        return (await self._target.checked()).status

    async def describe(self) -> InstanceInfo:
        """All that is known about it, from its record and its history. Raises what `status` raises.

        `error` of a failed instance is the message, and below it the traceback.
        """
        record = await self._target.record()
        key = await self._target.key()
        if not (record.commits or record.owner):
            return instance_info(key, record)
        commits = await self._target.commits(record)
        info = instance_info(key, record, compensations(commits))
        told = [text for text in (record.error, failure_text(commits)) if text]
        pending = () if record.status.ended else pending_activities(commits)
        return replace(info, error="\n".join(told) or None, pending_activities=pending)

    async def history(self) -> list[Commit]:
        """The recorded commits of the current generation."""
        return await self._target.commits(await self._target.record())

    async def cancel(self, reason: str = "") -> bool:
        """Ask for the cancel; returns once that is durable: False when the instance has ended already."""
        return await self._target.say("cancel", reason)

    async def terminate(self, reason: str = "") -> bool:
        """End the instance at once, without compensation; False when it has ended already."""
        return await self._target.say("terminate", reason)

    async def retry(self) -> bool:
        """Try a stalled instance again; False when it is not stalled."""
        record = await self._target.record()
        if record.status is not InstanceStatus.STALLED:
            return False
        said = await self._target.say("retry", "")
        # `result()` waits for what comes of it, and does not find what was there before.
        self._retried = record.write
        return said

    async def send(
        self,
        channel: str,
        data: object,
        metadata: Mapping[str, Any] | None = None,
        message_id: str | None = None,
    ) -> None:
        """Send a message to `ctx.receive(channel)`; returns once it is durable. Kept until it is received, in order.

        The same `message_id` twice is one message. Raises InstanceNotFoundError, InstanceEndedError.
        """
        await self._target.send(channel, data, metadata, message_id)

    async def query(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """What the workflow's query handler answers, now or, of an ended instance, at its end; changes nothing.

        Raises QueryError (no such handler, it raised, no worker is there to answer), InstanceNotFoundError.
        """
        return decode_plain(await self._target.query(name, ask_body(args, kwargs)))

    async def update(self, name: str, /, *args: Any, message_id: str | None = None, **kwargs: Any) -> Any:
        """Let the workflow's update handler change something; returns what it returns, recorded once.

        The same `message_id` twice is one update. An update waits for its handler to be there. Raises
        UpdateRejectedError (by its validator, or the instance ended first), UpdateFailedError (the handler raised),
        InstanceNotFoundError.
        """
        return decode_plain(await self._target.update(name, ask_body(args, kwargs), message_id))

    async def watch(self) -> AsyncGenerator[WatchItem]:
        """The history from its first event on, then live: events, what is emitted, attempts; until the instance ends.

        Raises InstanceNotFoundError.
        """
        async with aclosing(self._target.watch()) as items:
            async for item in items:
                yield item

    # --- waiting for the end

    async def _result_at_last(self) -> R:
        while True:
            try:
                return await self._result()
            except ServerUnavailableError as error:
                _log.warning("still waiting for the result of %r: %s", self._target, error)

    async def _late(self, after: float) -> ResultTimeoutError:
        """Why there is no result yet; what the server does not say at once stays unsaid."""
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
        first_look = self._started and not looked and await heard(self._notice.news, _first_look(own))
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
            raise InstanceConflictError(self.id, self.workflow or "")
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

        Look at the record now and then in case a hint was lost; follow the commits where no notice will come.

        Thousands of clients that read at every commit would take the server from the work they wait for.
        """
        key = await self._target.key()
        own, news = self._target.own, self._notice.news
        told = own is not None and not own.named and not self._retried
        unfollow = None if told else await self._target.session.follow(key, news.set)
        pause = _FIRST_LOOK_OF_OWN if told else _FIRST_PAUSE
        try:
            while True:
                news.clear()
                record = await self._target.record()
                if await self._is_over(record):
                    return record
                if unfollow is None and self._rests(record):
                    unfollow = await self._target.session.follow(key, news.set)
                    pause = _FIRST_PAUSE
                    continue
                self._notice.told.clear()
                news_came = await heard(news, pause)
                # The record follows its last commit by one write, which takes as long as a disk takes.
                pause = _AFTER_NEWS if news_came else min(pause * _SLOWER, _LONGEST_PAUSE)
                if (
                    news_came
                    and await heard(self._notice.told, _AFTER_NEWS)
                    and self._notice.result is not None
                ):
                    return None
        finally:
            if unfollow is not None:
                await unfollow()

    def _rests(self, record: InstanceRecord) -> bool:
        """Whether it has come to rest since its start: whoever wakes it next may not know that we wait."""
        return self._notice.outcome is not None or (record.commits > 0 and not record.owner)

    async def _conclude(self, record: InstanceRecord) -> R:
        names = {"instance_id": self.id, "workflow": self.workflow or ""}
        if self._target.fingerprint and record.fingerprint and record.fingerprint != self._target.fingerprint:
            raise InstanceConflictError(self.id, self.workflow or "")
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
        ending = await self._last_event(record)
        if not isinstance(ending, WorkflowCompleted):
            raise RomancyError(
                f"{self!r}: the record says completed, its history does not; please report this"
            )
        return ending.result

    async def _failure(self, record: InstanceRecord, names: dict[str, str]) -> WorkflowFailedError:
        error = WorkflowFailedError(record.error, error_type=record.error_type, **names)
        ending = await self._last_event(record)
        if isinstance(ending, WorkflowFailed):
            error.__cause__ = Failure.decode(ending.failure).rebuild(registered_errors)
        return error

    async def _last_event(self, record: InstanceRecord) -> object:
        key = await self._target.key()
        if not record.archived:
            data = await read_commit(self._target.session.world, key, record.generation, record.commits)
            if data is not None:
                return Commit.decode(data).events[-1]
            # It may have been archived between the two reads.
            record = await self._target.record()
        commits = await self._target.commits(record)
        return commits[-1].events[-1] if commits else None


def compensations(commits: list[Commit]) -> tuple[CompensationInfo, ...]:
    """The compensations that a history knows of, in the order in which they were scheduled."""
    found: dict[str, CompensationInfo] = {}
    for commit in commits:
        for event in commit.events:
            if isinstance(event, ActivityScheduled) and event.compensates:
                found[event.id] = CompensationInfo(event.compensates, event.name, "scheduled")
            elif isinstance(event, ActivityCompleted) and (known := found.get(event.id)):
                found[event.id] = CompensationInfo(known.activity_id, known.name, "completed")
            elif isinstance(event, ActivityFailed) and (known := found.get(event.id)):
                failure = Failure.decode(event.failure)
                text = f"{failure.error_type}: {failure.message}"
                found[event.id] = CompensationInfo(known.activity_id, known.name, "failed", text)
    return tuple(found.values())


def untyped() -> ValueCodec[Any]:
    """The codec of a result whose type is not known."""
    return ValueCodec(Any)
