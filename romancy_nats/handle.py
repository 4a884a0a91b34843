"""Client-side handle of one workflow instance: result, status, history, and the messages a client can send it."""

from __future__ import annotations

import asyncio
import base64
import weakref
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from romancy_nats.core.commit import Commit
from romancy_nats.core.definition import registered_errors
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
from romancy_nats.core.limits import shortened
from romancy_nats.core.payload import ValueCodec
from romancy_nats.core.plain import decode_plain
from romancy_nats.core.record import LONGEST_ERROR, InstanceRecord, InstanceStatus
from romancy_nats.core.times import utc
from romancy_nats.errors import (
    AmbiguousInstanceError,
    InstanceConflictError,
    InstanceEndedError,
    InstanceNotFoundError,
    RomancyError,
    StartRejectedError,
    UpdateRejectedError,
    WorkflowCancelledError,
    WorkflowFailedError,
    WorkflowStalledError,
    WorkflowTerminatedError,
)
from romancy_nats.ports import Duplicate, Message
from romancy_nats.runtime.asking import UpdateCall, ask_query
from romancy_nats.runtime.messages import ENDING_KINDS
from romancy_nats.runtime.notices import Notice, heard
from romancy_nats.runtime.outbox import update_message
from romancy_nats.runtime.queries import ask_body
from romancy_nats.runtime.rejection import end_unclaimed
from romancy_nats.runtime.tail import recorded
from romancy_nats.runtime.watching import WatchItem, watch
from romancy_nats.runtime.writing import read_commit, read_record

if TYPE_CHECKING:
    from romancy_nats.client import Client

R = TypeVar("R")
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
    pending_activities: tuple[PendingActivityInfo, ...] = ()

    @staticmethod
    def of(
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
        )


def _first_look(own: OwnStart | None) -> float:
    """How long to wait for the worker's notice before looking at the record."""
    if own is None:
        return _FIRST_LOOK
    # Somebody else may have started the same id a moment before; then nobody tells us of the end.
    return _FIRST_LOOK_OF_NAMED if own.named else _FIRST_LOOK_OF_OWN


def _moment(micros: int) -> datetime | None:
    return utc(micros) if micros else None


@dataclass(slots=True, frozen=True)
class OwnStart:
    """The start message behind a handle: its place in the queue, and what it wants of an instance that exists."""

    sequence: int
    on_conflict: str
    named: bool


class WorkflowHandle(Generic[R]):
    """One instance, seen from a client."""

    def __init__(
        self,
        client: Client,
        id: str,
        workflow: str | None,
        codec: ValueCodec[R],
        *,
        fingerprint: str = "",
        notice: Notice | None = None,
        give_up: Callable[[], None] | None = None,
        own_start: OwnStart | None = None,
    ) -> None:
        self._client = client
        self.id = id
        self.workflow = workflow
        self._codec = codec
        self._fingerprint = fingerprint
        self._started = notice is not None
        self._own_start = own_start
        self._looked = False
        self._retried = ""
        self._notice = notice or Notice()
        if give_up is not None:
            weakref.finalize(self, give_up).atexit = False

    def __repr__(self) -> str:
        return f"<handle of {self.workflow or '?'}/{self.id}>"

    async def result(self, timeout: float | None = None) -> R:
        """Wait for the end and return the result.

        Raises WorkflowFailedError, WorkflowCancelledError, WorkflowTerminatedError, WorkflowStalledError,
        StartRejectedError, InstanceConflictError, InstanceNotFoundError, or TimeoutError (in seconds), which harms
        nothing: the instance goes on.
        """
        async with asyncio.timeout(timeout):
            return await self._result()

    async def status(self) -> InstanceStatus:
        """Where the instance stands."""
        return (await self._record()).status

    async def describe(self) -> InstanceInfo:
        """All that is known about it, from its record and its history.

        `error` of a failed instance is the message, and below it the traceback.
        """
        record = await self._record()
        key = await self._key()
        if not (record.commits or record.owner):
            return InstanceInfo.of(key, record)
        commits = await self._commits(key, record)
        info = InstanceInfo.of(key, record, compensations(commits))
        told = [text for text in (record.error, failure_text(commits)) if text]
        pending = () if record.status.ended else pending_activities(commits)
        return replace(info, error="\n".join(told) or None, pending_activities=pending)

    async def history(self) -> list[Commit]:
        """The recorded commits of the current generation."""
        record = await self._record()
        return await self._commits(await self._key(), record)

    async def cancel(self, reason: str = "") -> bool:
        """Ask for the cancel; returns once that is durable: False when the instance has ended already."""
        return await self._say("cancel", reason)

    async def terminate(self, reason: str = "") -> bool:
        """End the instance at once, without compensation; False when it has ended already."""
        return await self._say("terminate", reason)

    async def retry(self) -> bool:
        """Try a stalled instance again; False when it is not stalled."""
        record = await self._record()
        if record.status is not InstanceStatus.STALLED:
            return False
        said = await self._say("retry", "")
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
        id, outbox = message_id or self._client.world.chance.id(), self._client.outbox
        # Looked at while waiting for the turn: the place in the line is that of the call, not of the answer.
        looking = asyncio.ensure_future(self._record())
        try:
            async with outbox.turn(self.id):
                record, key = await looking, await self._key()
                if record.status.ended:
                    raise InstanceEndedError(self.id, record.status)
                await outbox.put(key, record.start, channel, data, metadata, id)
        finally:
            looking.cancel()

    async def query(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """What the workflow's query handler answers, now or, of an ended instance, at its end; changes nothing.

        Raises QueryError (no such handler, it raised, no worker is there to answer), InstanceNotFoundError.
        """
        return decode_plain(await self.ask(name, ask_body(args, kwargs)))

    async def ask(self, name: str, body: bytes) -> bytes:
        """The same for arguments and answer as payloads."""
        key = await self._key()
        return await ask_query(self._client.world, key, name, body, self._record)

    async def update(self, name: str, /, *args: Any, message_id: str | None = None, **kwargs: Any) -> Any:
        """Let the workflow's update handler change something; returns what it returns, recorded once.

        The same `message_id` twice is one update. An update waits for its handler to be there. Raises
        UpdateRejectedError (by its validator, or the instance ended first), UpdateFailedError (the handler raised),
        InstanceNotFoundError.
        """
        return decode_plain(await self.carry_out(name, ask_body(args, kwargs), message_id))

    async def carry_out(self, name: str, body: bytes, message_id: str | None) -> bytes:
        """The same for arguments and result as payloads."""
        record, key = await self._record(), await self._key()
        id = message_id or self._client.world.chance.id()
        call = UpdateCall(self._client.world, key, id)
        try:
            if record.status.ended:
                found = await call.recorded() if message_id else None
                if found is None:
                    raise UpdateRejectedError(f"instance {self.id!r} has ended ({record.status})")
                return found
            most = self._client.world.limits.value
            sent = await self._client.send(update_message(key, name, body, id, call.inbox, most))
            return await call.answer(asked_before=isinstance(sent, Duplicate))
        finally:
            call.close()

    async def watch(self) -> AsyncGenerator[WatchItem]:
        """The history from its first event on, then live: events, what is emitted, attempts; until the instance ends.

        Raises InstanceNotFoundError.
        """
        await self._record()
        async with aclosing(watch(self._client.world, await self._key())) as items:
            async for item in items:
                yield item

    async def _say(self, kind: str, text: str) -> bool:
        record = await self._record()
        if record.status.ended:
            return False
        key = await self._key()
        status = ENDING_KINDS.get(kind)
        unclaimed = status if not record.created else None
        if unclaimed is not None and await end_unclaimed(self._client.world, key, unclaimed, text):
            # Decided here and now: a worker that appears next must not be faster than the message.
            return True
        data = shortened(text, LONGEST_ERROR).encode()
        await self._client.send(Message(key, kind, data, self._client.world.chance.id()))
        return True

    # --- what is on the server

    async def _key(self) -> InstanceKey:
        if self.workflow is None:
            found = [listed.key.workflow async for listed in self._client.world.ledger.scan(None, self.id)]
            if not found:
                raise InstanceNotFoundError(self.id)
            if len(found) > 1:
                raise AmbiguousInstanceError(self.id, tuple(sorted(found)))
            self.workflow = found[0]
        return InstanceKey(self.workflow, self.id)

    async def _record(self) -> InstanceRecord:
        key = await self._key()
        held = await read_record(self._client.world, key)
        if held is not None:
            return held.record
        if not self._started and await self._client.world.queues.waiting_start(key) is None:
            # It may have been claimed between the two looks.
            held = await read_record(self._client.world, key)
            if held is None:
                raise InstanceNotFoundError(self.id, self.workflow)
            return held.record
        return InstanceRecord(status=InstanceStatus.QUEUED)

    async def _commits(self, key: InstanceKey, record: InstanceRecord) -> list[Commit]:
        return await recorded(self._client.world, key, record)

    # --- waiting for the end

    async def _result(self) -> R:
        own = self._own_start
        looked, self._looked = self._looked, True
        first_look = self._started and not looked and await heard(self._notice.news, _first_look(own))
        if first_look and (result := self._notice.result) is not None:
            return self._codec.decode(result)
        record = await self._record()
        if await self._is_over(record):
            return await self._conclude(record)
        ended = await self._wait()
        if ended is None:
            return self._codec.decode(self._notice.result or b"")
        return await self._conclude(ended)

    async def _is_over(self, record: InstanceRecord) -> bool:
        stalled = record.status is InstanceStatus.STALLED and record.write != self._retried
        own, over = self._own_start, record.status.ended or stalled
        if own is None or not record.start or record.start >= own.sequence:
            return over
        if own.on_conflict == "fail":
            raise InstanceConflictError(self.id, self.workflow or "")
        if not over or own.on_conflict != "restart_ended":
            return over
        # The end of an earlier generation, as long as our own start has not been handled.
        key = await self._key()
        if await self._client.world.queues.waiting_start(key) is not None:
            return False
        latest = await read_record(self._client.world, key)
        return latest is not None and latest.record.start == record.start

    async def _wait(self) -> InstanceRecord | None:
        """The record of the end, or None when a notice brought the result.

        Look at the record now and then in case a hint was lost; follow the commits where no notice will come.

        Thousands of clients that read at every commit would take the server from the work they wait for.
        """
        key = await self._key()
        own, news = self._own_start, self._notice.news
        told = own is not None and not own.named and not self._retried
        follow = self._client.world.wire.follow
        unfollow = None if told else await follow(key, lambda _generation, _n: news.set())
        pause = _FIRST_LOOK_OF_OWN if told else _FIRST_PAUSE
        try:
            while True:
                news.clear()
                record = await self._record()
                if await self._is_over(record):
                    return record
                if unfollow is None and self._rests(record):
                    unfollow = await follow(key, lambda _generation, _n: news.set())
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
        if self._fingerprint and record.fingerprint and record.fingerprint != self._fingerprint:
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
        key = await self._key()
        if not record.archived:
            data = await read_commit(self._client.world, key, record.generation, record.commits)
            if data is not None:
                return Commit.decode(data).events[-1]
            # It may have been archived between the two reads.
            record = await self._record()
        commits = await self._commits(key, record)
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
