"""Queries and updates of a client: ask a worker, or wait for the notice and read the history."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress

from romancy_nats.client.tail import Tail
from romancy_nats.core.activity import registered_errors
from romancy_nats.core.commit import Commit
from romancy_nats.core.events import Event, UpdateAnswered, WorkflowStarted
from romancy_nats.core.failure import Failure
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.inheritance import inherited_answer
from romancy_nats.core.limits import fitting
from romancy_nats.core.messages.query import ANSWERED, NOT_BEGUN, Answer, Question
from romancy_nats.core.messages.update import read_update_notice
from romancy_nats.errors import QueryError, UpdateFailedError, UpdateRejectedError
from romancy_nats.ports import World
from romancy_nats.storage.backoff import answered_in_time

_LONGEST_ANSWER = 30.0
_PATIENCE = 5.0
"""Seconds until a worker has to be there, and the instance to have begun."""
_AGAIN_AFTER = 0.05
_FIRST_LOOK = 1.0
_QUIET = 1.0
"""Seconds without an answer to a query after which the server is asked something else."""


async def ask_query(
    world: World, key: InstanceKey, name: str, body: bytes, exists: Callable[[], Awaitable[object]]
) -> bytes:
    """The answer as a payload. `exists` raises when there is no such instance.

    Raises QueryError, also when no worker answers.
    """
    fitting(body, f"the arguments of query {name!r}", world.limits.value)
    question = Question(key.workflow, key.id, name, body).encode()
    until = world.clock.monotonic() + _PATIENCE
    looked = False
    while True:
        data = await _asked(world, key, question, exists)
        answer = None if data is None else Answer.decode(data)
        if answer is not None and answer.kind == ANSWERED:
            return answer.data
        if answer is not None and answer.kind != NOT_BEGUN:
            raise QueryError(answer.data.decode(errors="replace"))
        if not looked:
            looked = True
            await exists()
        if world.clock.monotonic() > until:
            raise QueryError(_nobody(key, name, begun=answer is None))
        await asyncio.sleep(_AGAIN_AFTER)


async def _asked(
    world: World, key: InstanceKey, question: bytes, exists: Callable[[], Awaitable[object]]
) -> bytes | None:
    """Ask a worker; meanwhile look whether the server still answers, so that a lost one is noticed in time."""
    asking = asyncio.ensure_future(world.wire.ask(key.workflow, question, _LONGEST_ANSWER, shared=True))
    try:
        async with answered_in_time(world, "the query changed nothing; ask again") as limit:
            quiet = None if world.patience is None else min(_QUIET, world.patience / 4)
            done, _ = await asyncio.wait({asking}, timeout=quiet)
            if not done:
                await exists()
                limit.reschedule(None)
            return await asking
    finally:
        asking.cancel()


def _nobody(key: InstanceKey, name: str, *, begun: bool) -> str:
    if begun:
        return (
            f"nobody answered query {name!r} of {key!r}: no worker with workflow {key.workflow!r} is running, or it "
            "could not answer in time; start one (`romancy worker MODULE:app`) and ask again"
        )
    return f"{key!r} has not begun yet, so that query {name!r} has no answer; ask again later"


class UpdateCall:
    """One call of an update: its answer comes as a notice, or is found in the history."""

    def __init__(self, world: World, key: InstanceKey, id: str) -> None:
        self._world = world
        self._key = key
        self._id = id
        self._answered = asyncio.Event()
        self._notified: UpdateAnswered | None = None
        self.inbox, self.close = world.wire.expect(self._notice)

    def _notice(self, data: bytes) -> None:
        self._notified = read_update_notice(data)
        self._answered.set()

    async def answer(self, *, asked_before: bool = False) -> bytes:
        """Wait for the result; raises UpdateRejectedError, UpdateFailedError.

        Where the same call was made before, the notice went to that one: the history has the answer.
        """
        if not asked_before:
            with suppress(TimeoutError):
                async with asyncio.timeout(_FIRST_LOOK):
                    await self._answered.wait()
        return _result(self._notified or await self._notified_or_recorded())

    async def recorded(self) -> bytes | None:
        """The result, when the history has it already."""
        found = await self._recorded(wait=False)
        return None if found is None else _result(found)

    async def _notified_or_recorded(self) -> UpdateAnswered:
        if self._answered.is_set():
            return await self._recorded_or_gone()
        looking = asyncio.ensure_future(self._recorded_or_gone())
        hearing = asyncio.ensure_future(self._answered.wait())
        try:
            await asyncio.wait({looking, hearing}, return_when=asyncio.FIRST_COMPLETED)
            return self._notified or await looking
        finally:
            for task in (looking, hearing):
                task.cancel()
            await asyncio.gather(looking, hearing, return_exceptions=True)

    async def _recorded_or_gone(self) -> UpdateAnswered:
        found = await self._recorded(wait=True)
        if found is None:
            raise UpdateRejectedError(f"{self._key!r} ended before the update was carried out")
        return found

    async def _recorded(self, *, wait: bool) -> UpdateAnswered | None:
        """Read the history, with `wait` until it has the answer or the instance has ended."""
        tail = Tail(self._world, self._key)
        async with aclosing(tail.items()) as items:
            async for item in items:
                if isinstance(item, Commit):
                    for event in item.events:
                        if (found := self._answer_in(event)) is not None:
                            return found
                elif tail.over or not wait:
                    return None
        return None

    def _answer_in(self, event: Event) -> UpdateAnswered | None:
        if isinstance(event, WorkflowStarted):
            return inherited_answer(event.carried, self._id)
        return event if isinstance(event, UpdateAnswered) and event.id == self._id else None


def _result(answered: UpdateAnswered) -> bytes:
    if not answered.failure:
        return answered.result
    failure = Failure.decode(answered.failure)
    cause = failure.rebuild(registered_errors)
    if answered.rejected:
        text = (
            failure.message
            if failure.error_type == "RomancyError"
            else f"{failure.error_type}: {failure.message}"
        )
        raise UpdateRejectedError(text) from cause
    raise UpdateFailedError(failure.message, failure.error_type) from cause
