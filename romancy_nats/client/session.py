"""What a client and its handles share: every call on the world, and what is known of one instance. No result types.

Each call waits for a server that does not answer as long as `World.patience` says, then raises ServerUnavailableError.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing, suppress
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from romancy_nats.client.calls import UpdateCall, ask_query
from romancy_nats.client.outbox import Outbox
from romancy_nats.client.watch import WatchItem, watch
from romancy_nats.core import cloudevents
from romancy_nats.core.commit import Commit
from romancy_nats.core.events import Event
from romancy_nats.core.headers import MESSAGE_ID, derived_id, named_id
from romancy_nats.core.ids import InstanceKey, check_id, check_name, check_text
from romancy_nats.core.limits import shortened
from romancy_nats.core.messages.envelope import Message
from romancy_nats.core.messages.kinds import ENDING_KINDS
from romancy_nats.core.messages.update import update_message
from romancy_nats.core.record import LONGEST_ERROR, InstanceRecord, InstanceStatus
from romancy_nats.core.start_options import read_options
from romancy_nats.errors import (
    AmbiguousInstanceError,
    InstanceConflictError,
    InstanceEndedError,
    InstanceNotFoundError,
    InvalidNameError,
    PayloadError,
    PermissionDeniedError,
    RomancyError,
    ServerUnavailableError,
    UpdateRejectedError,
)
from romancy_nats.ports import Delivery, Duplicate, Held, Listed, World, WriteReply
from romancy_nats.storage.backoff import answered_in_time, until_answered
from romancy_nats.storage.histories import recorded
from romancy_nats.storage.publishing import publish
from romancy_nats.storage.records import read_commit, read_record
from romancy_nats.storage.unclaimed import end_unclaimed

T = TypeVar("T")
_PAGE = 200
_SOON = 1.0
"""Seconds that a remark about a workflow may take."""
_MOST_REMEMBERED = 100_000
"""Instances that a list gave as queued, and does not give again when they are claimed meanwhile."""
_SAY_AGAIN = "say it again, twice is once"


class Session:
    """The world as one client acts on it."""

    def __init__(self, world: World) -> None:
        self.world = world

    @cached_property
    def outbox(self) -> Outbox:
        """What this client sends on channels."""
        return Outbox(f"client-{self.world.chance.id()}", self.send, lambda: self.world.limits.value)

    async def send(self, message: Message) -> int:
        """Publish a message to an instance; returns its sequence once it is durable."""
        what = f"the {message.kind} to {message.key!r}"
        remedy = f"send it again with message_id={message.message_id!r}, which counts once"
        return await self._publish(
            lambda: self.world.queues.send(message), what, remedy, message.key.id, message.message_id
        )

    async def publish_event(self, event: cloudevents.Event, message_id: str) -> None:
        """Publish an event; returns once it is durable."""
        remedy = f"send it again with message_id={message_id!r}, which counts once"
        await self._publish(
            lambda: self.world.events.publish(event, message_id),
            f"the event {event.type!r}",
            remedy,
            message_id=message_id,
        )

    async def start(self, key: InstanceKey, data: bytes, headers: Mapping[str, str]) -> int:
        """Put a start into the queue; returns its sequence, or that of the equal one that was there before."""
        sequence = await self._put(key, data, headers)
        if not isinstance(sequence, Duplicate) or not await self._is_forgotten(key, sequence):
            return sequence
        # It has ended, and its retention has passed, before the server forgot the message id: the id is free again.
        return await self._put(key, data, {**headers, MESSAGE_ID: f"{key.token}:{self.world.chance.id()}"})

    async def _is_forgotten(self, key: InstanceKey, sequence: int) -> bool:
        """Whether a start that the server has seen before is neither in the queue nor an instance."""
        try:
            return await self.start_at(sequence) is None and await self.record(key) is None
        except PermissionDeniedError:
            return False

    async def _put(self, key: InstanceKey, data: bytes, headers: Mapping[str, str]) -> int:
        remedy = f"start it again with options(id={key.id!r}): the same id is one instance"
        return await self._publish(
            lambda: self.world.queues.start(key.workflow, data, headers),
            f"the start of {key!r}",
            remedy,
            key.id,
        )

    async def _publish(
        self,
        write: Callable[[], Awaitable[WriteReply]],
        what: str,
        remedy: str,
        instance_id: str = "",
        message_id: str = "",
    ) -> int:
        try:
            return await publish(self.world, write, what, remedy)
        except ServerUnavailableError as error:
            error.instance_id, error.message_id = instance_id, message_id
            raise

    # --- instances

    async def record(self, key: InstanceKey) -> Held | None:
        """The record of an instance, None while nobody claimed it."""
        return await read_record(self.world, key)

    async def record_if_allowed(self, key: InstanceKey) -> Held | None:
        """The same, None also for credentials that may start workflows but not look at them."""
        try:
            return await read_record(self.world, key)
        except PermissionDeniedError:
            return None

    async def scan(self, workflow: str | None = None, id: str | None = None) -> AsyncGenerator[Listed]:
        """Records, of one workflow or one id if named."""
        async for listed in self._items(lambda: self.world.ledger.scan(workflow, id)):
            yield listed

    async def instances(
        self, workflow: str | None, statuses: Collection[InstanceStatus] = ()
    ) -> AsyncGenerator[tuple[InstanceKey, InstanceRecord]]:
        """All instances, or those of these statuses: the unclaimed first, so that none claimed meanwhile is missed."""
        if workflow is not None:
            check_name(workflow)
        queued: set[InstanceKey] = set()
        if not statuses or InstanceStatus.QUEUED in statuses:
            async for key, record in self._queued(workflow):
                if key in queued:
                    continue
                if len(queued) < _MOST_REMEMBERED:
                    queued.add(key)
                yield key, record
        async for listed in self.scan(workflow):
            if (not statuses or listed.record.status in statuses) and listed.key not in queued:
                yield listed.key, listed.record

    async def _queued(self, workflow: str | None) -> AsyncGenerator[tuple[InstanceKey, InstanceRecord]]:
        page: dict[InstanceKey, InstanceRecord] = {}
        async for start in self._items(lambda: self.world.queues.stored_starts(workflow)):
            if (key := start_key(start)) is not None:
                page.setdefault(key, queued_record(start))
            if len(page) >= _PAGE:
                for one in await self._unclaimed(page):
                    yield one
                page = {}
        for one in await self._unclaimed(page):
            yield one

    async def _unclaimed(
        self, page: Mapping[InstanceKey, InstanceRecord]
    ) -> list[tuple[InstanceKey, InstanceRecord]]:
        claimed = (
            await until_answered(self.world, lambda: self.world.ledger.existing(list(page)))
            if page
            else frozenset[InstanceKey]()
        )
        return [(key, record) for key, record in page.items() if key not in claimed]

    async def follow(self, key: InstanceKey, news: Callable[[], None]) -> Callable[[], Awaitable[None]]:
        """Call `news` for each new commit of an instance; best effort. Returns what ends it."""
        world = self.world
        return await until_answered(world, lambda: world.wire.follow(key, lambda _generation, _n: news()))

    async def unserved(self, workflow: str) -> str:
        """That no worker serves a workflow just now, and what to do; "" when one does or that cannot be told soon."""
        if await self.world.wire.served(workflow, _SOON) is not False:
            return ""
        near: list[str] = []
        with suppress(RomancyError, TimeoutError):
            async with asyncio.timeout(_SOON):
                known = set(await self.world.orphans.workflows()) - {workflow}
                near = difflib.get_close_matches(workflow, known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return (
            f"no worker serves workflow {workflow!r} just now{hint}; start one (`romancy worker MODULE:app`), "
            "it will go on"
        )

    async def start_at(self, sequence: int) -> Delivery | None:
        """The start at that place of the queue, None when it is there no more."""
        return await until_answered(self.world, lambda: self.world.queues.start_at(sequence))

    async def find_start(self, id: str, workflow: str | None = None) -> Delivery | None:
        """The first start of that id in the queue."""
        if (place := id.rpartition("-")[2]).isdecimal() and len(place) < 19:
            # The id of a start that names none says where it is.
            start = await self.start_at(int(place))
            if start is not None and _begins(start, id, workflow):
                return start
        async for start in self._items(lambda: self.world.queues.stored_starts(workflow)):
            if _begins(start, id, workflow):
                return start
        return None

    async def _items(self, make: Callable[[], AsyncIterator[T]]) -> AsyncGenerator[T]:
        """What a scan gives: begun again until it gave something, each later part waited for as long as for a call."""

        async def begin() -> tuple[AsyncIterator[T], list[T]]:
            items = make()
            return items, await _next(items)

        items, item = await until_answered(self.world, begin)
        while item:
            yield item[0]
            async with answered_in_time(self.world, "the list is incomplete; ask again"):
                item = await _next(items)


async def _next(items: AsyncIterator[T]) -> list[T]:
    try:
        return [await anext(items)]
    except StopAsyncIteration:
        return []


class OwnStart(NamedTuple):
    """The start message behind a handle: its place in the queue, and what it wants of an instance that exists."""

    sequence: int
    on_conflict: str
    named: bool


class Seen(NamedTuple):
    """An instance as it was seen: its record, or what its start says while nobody claimed it."""

    record: InstanceRecord
    claimed: bool


class Target:
    """One instance that a client speaks with, by id and, once it is known, workflow."""

    def __init__(
        self,
        session: Session,
        id: str,
        workflow: str | None,
        *,
        own: OwnStart | None = None,
        fingerprint: str = "",
    ) -> None:
        self.session = session
        self.id = check_id(id)
        self.workflow = workflow
        self.own = own
        self.fingerprint = fingerprint
        """Of the input that this client started it with, "" when it did not."""
        self.last: InstanceRecord | None = None
        """The record that was seen last."""
        self._start: Delivery | None = None

    def __repr__(self) -> str:
        return f"{self.workflow or '?'}/{self.id}"

    async def key(self) -> InstanceKey:
        """Its identity. Raises InstanceNotFoundError, AmbiguousInstanceError."""
        if self.workflow is None:
            self.workflow = await self._found_workflow()
        return InstanceKey(self.workflow, self.id)

    async def _found_workflow(self) -> str:
        workflows = {listed.key.workflow async for listed in self.session.scan(None, self.id)}
        if not workflows:
            self._start = await self.session.find_start(self.id)
            if self._start is not None:
                return self._start.workflow
            # It may have been claimed, and acknowledged, between the two looks.
            workflows = {listed.key.workflow async for listed in self.session.scan(None, self.id)}
        if not workflows:
            raise InstanceNotFoundError(self.id)
        if len(workflows) > 1:
            raise AmbiguousInstanceError(self.id, tuple(sorted(workflows)))
        return workflows.pop()

    async def record(self) -> InstanceRecord:
        """Its record, or what its start says. Raises InstanceNotFoundError."""
        return (await self.look()).record

    async def look(self) -> Seen:
        """The same, and whether somebody claimed it."""
        seen = await self._look()
        self.last = seen.record
        return seen

    async def _look(self) -> Seen:
        key = await self.key()
        held = await self.session.record(key)
        if held is not None:
            return Seen(held.record, claimed=True)
        start = await self._waiting(key)
        if start is not None:
            return Seen(queued_record(start), claimed=False)
        # It may have been claimed between the two looks.
        held = await self.session.record(key)
        if held is None:
            raise InstanceNotFoundError(self.id, self.workflow)
        return Seen(held.record, claimed=True)

    async def _waiting(self, key: InstanceKey) -> Delivery | None:
        """Its start in the queue; where that is known, it is looked at and not looked for."""
        place = self._start.source.sequence if self._start is not None else 0
        place = place or (self.own.sequence if self.own is not None else 0)
        if place:
            self._start = await self.session.start_at(place)
        else:
            self._start = await self.session.find_start(key.id, key.workflow)
        return self._start

    async def checked(self) -> InstanceRecord:
        """Its record, once it is sure that it is not that of a start with another input: InstanceConflictError.

        Which of several starts in the queue counts is known when one of them is claimed, not before.
        """
        record = await self.record()
        joins = self.own is not None and self.own.on_conflict == "join"
        if joins and self.fingerprint and record.fingerprint and record.fingerprint != self.fingerprint:
            raise InstanceConflictError(self.id, self.workflow or "")
        return record

    async def commits(self, record: InstanceRecord) -> list[Commit]:
        """The recorded commits of the generation that a record is of."""
        return await recorded(self.session.world, await self.key(), record)

    async def last_event(self, record: InstanceRecord) -> Event | None:
        """The last recorded event of the generation that a record is of."""
        if not record.archived:
            key = await self.key()
            data = await read_commit(self.session.world, key, record.generation, record.commits)
            if data is not None:
                return Commit.decode(data).events[-1]
            # It may have been archived between the two reads.
            record = await self.record()
        commits = await self.commits(record)
        return commits[-1].events[-1] if commits else None

    # --- what is said to it

    async def say(self, kind: str, text: str) -> bool:
        """Cancel, terminate or retry; returns once that is durable: False when the instance has ended already."""
        record, claimed = await self.look()
        if record.status.ended:
            return False
        key, world = await self.key(), self.session.world
        status = None if claimed else ENDING_KINDS.get(kind)
        if status is not None:
            # Decided here and now: a worker that appears next must not be faster than the message.
            unknown = f"the {kind} of {key!r} may or may not have been stored; {_SAY_AGAIN}"
            async with answered_in_time(world, unknown):
                if await end_unclaimed(world, key, status, text, created=record.created):
                    return True
        message = Message(key, kind, shortened(text, LONGEST_ERROR).encode(), world.chance.id())
        await publish(world, lambda: world.queues.send(message), f"the {kind} of {key!r}", _SAY_AGAIN)
        return True

    async def send(
        self, channel: str, data: object, metadata: Mapping[str, Any] | None, message_id: str | None
    ) -> None:
        """Send a message to a channel; returns once it is durable. Raises InstanceNotFoundError, InstanceEndedError."""
        id, outbox = message_id or self.session.world.chance.id(), self.session.outbox
        # Looked at while waiting for the turn: the place in the line is that of the call, not of the answer.
        looking = asyncio.ensure_future(self.record())
        try:
            async with outbox.turn(self.id):
                record, key = await looking, await self.key()
                if record.status.ended:
                    raise InstanceEndedError(self.id, record.status)
                await outbox.put(key, record.start, channel, data, metadata, id)
        finally:
            looking.cancel()

    async def query(self, name: str, body: bytes) -> bytes:
        """Ask a query with arguments as a payload; returns the answer as one. Raises QueryError."""
        check_text(name, "the name of a query")
        key = await self.key()
        return await ask_query(self.session.world, key, name, body, self.record)

    async def update(self, name: str, body: bytes, message_id: str | None) -> bytes:
        """Carry out an update with arguments as a payload; returns the result as one.

        Raises UpdateRejectedError, UpdateFailedError.
        """
        record, key = await self.record(), await self.key()
        id = message_id or self.session.world.chance.id()
        call = UpdateCall(self.session.world, key, id)
        try:
            if record.status.ended:
                found = await call.recorded() if message_id else None
                if found is None:
                    raise UpdateRejectedError(f"instance {self.id!r} has ended ({record.status})")
                return found
            sent = await self.session.send(
                update_message(key, name, body, id, call.inbox, self.session.world.limits.value)
            )
            return await self._answer(call, id, asked_before=isinstance(sent, Duplicate))
        finally:
            call.close()

    async def _answer(self, call: UpdateCall, id: str, *, asked_before: bool) -> bytes:
        try:
            return await call.answer(asked_before=asked_before)
        except ServerUnavailableError as error:
            raise ServerUnavailableError(
                f"the server does not answer: the update of {self!r} is stored, and whether it was carried out is "
                f"unknown; call it again with message_id={id!r}, which counts once and gives the same answer",
                instance_id=self.id,
                message_id=id,
            ) from error

    async def watch(self) -> AsyncGenerator[WatchItem]:
        """Its history and what is announced, until it ends. Raises InstanceNotFoundError."""
        await self.record()
        async with aclosing(watch(self.session.world, await self.key())) as items:
            async for item in items:
                yield item


def start_key(start: Delivery) -> InstanceKey | None:
    """The instance that a start message begins, None where it names none that can be."""
    try:
        return InstanceKey(start.workflow, named_id(start.headers) or derived_id(*start.source))
    except InvalidNameError:
        return None


def _begins(start: Delivery, id: str, workflow: str | None) -> bool:
    key = start_key(start)
    return key is not None and key.id == id and workflow in (None, key.workflow)


def queued_record(start: Delivery) -> InstanceRecord:
    """What is known of an instance whose start nobody claimed yet; its time is that at which the start was stored."""
    record = InstanceRecord(status=InstanceStatus.QUEUED, created=start.time)
    try:
        options = read_options(start.headers)
    except PayloadError:
        return record  # a worker will reject it
    record.attributes, record.memo = dict(options.attributes), dict(options.memo)
    if options.begins(start.time) > start.time:
        record.waiting_for = ["start"]
    return record
