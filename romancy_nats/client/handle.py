"""Client-side handle of one workflow instance: result, status, history, and the messages a client can send it."""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Generic, TypeVar

from romancy_nats.client.info import InstanceInfo, compensations, instance_info
from romancy_nats.client.notice import OutcomeNotice
from romancy_nats.client.result import AwaitedResult
from romancy_nats.client.session import Target
from romancy_nats.client.watch import WatchItem
from romancy_nats.core.commit import Commit
from romancy_nats.core.described import failure_text, pending_activities
from romancy_nats.core.messages.query import ask_body
from romancy_nats.core.payload import ValueCodec
from romancy_nats.core.plain import decode_plain
from romancy_nats.core.record import InstanceStatus
from romancy_nats.core.times import Duration

R = TypeVar("R")


class WorkflowHandle(Generic[R]):
    """One instance, seen from a client."""

    def __init__(
        self,
        target: Target,
        codec: ValueCodec[R],
        *,
        notice: OutcomeNotice | None = None,
        give_up: Callable[[], None] | None = None,
    ) -> None:
        self._target = target
        self._result = AwaitedResult(target, codec, notice)
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
        return await self._result.get(timeout)

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
        self._result.ignore_stall(record.write)
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
