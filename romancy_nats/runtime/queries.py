"""Queries: from whoever has the workflow in memory, else from a replay of its history. Claims and writes nothing."""

from __future__ import annotations

import asyncio
import logging
from itertools import islice

from romancy_nats.core.error_text import shown
from romancy_nats.core.execution import Execution
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.limits import shortened
from romancy_nats.core.messages.query import ANSWERED, ELSEWHERE, FAILED, NOT_BEGUN, Answer, Question
from romancy_nats.core.plain import decode_plain
from romancy_nats.core.record import LONGEST_ERROR, InstanceRecord
from romancy_nats.errors import PayloadTooLargeError, QueryError, RomancyError
from romancy_nats.runtime.cancellation import is_own_cancel
from romancy_nats.runtime.claim import YIELD_EVERY
from romancy_nats.runtime.host import Host
from romancy_nats.runtime.instance import Instance
from romancy_nats.storage.histories import recorded
from romancy_nats.storage.records import read_record

_log = logging.getLogger("romancy.worker")
_FORWARDED_WITHIN = 5.0


class Queries:
    """Answers the queries that reach one worker."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def answer(self, data: bytes) -> bytes:
        """One question in, one answer out."""
        try:
            question = Question.decode(data)
            key = InstanceKey(question.workflow, question.id)
            body = decode_plain(question.body)
        except (RomancyError, ValueError, TypeError) as error:
            return _failed(f"the query cannot be read: {error}").encode()
        try:
            answer = await self._answer(key, question, body)
        except QueryError as error:
            answer = _failed(str(error))
        except BaseException as error:
            if is_own_cancel(error):
                raise
            text = shown(error, LONGEST_ERROR)
            _log.warning("query %r of %r cannot be answered: %s", question.name, key, text)
            answer = _failed(text)
        return answer.encode()

    async def _answer(self, key: InstanceKey, question: Question, body: object) -> Answer:
        if key.workflow not in self._host.workflows:
            raise QueryError(f"this worker has no workflow {key.workflow!r}")
        answer = await self._from_memory(key, question, body)
        if answer is not None:
            return answer
        if question.forwarded:
            return Answer(ELSEWHERE)
        held = await read_record(self._host.world, key)
        if held is None:
            return Answer(NOT_BEGUN)
        asleep = self._host.asleep.get(key)
        if asleep is not None and asleep.revision == held.revision and asleep.stalled is None:
            # The record is as it left it: nobody else has been at work since.
            return self._ask(asleep, question.name, body)
        owner = held.record.owner
        if owner and owner != self._host.lease.incarnation:
            answer = await self._from_owner(owner, question)
            if answer is not None:
                return answer
        return await self._from_history(key, held.record, question, body)

    async def _from_memory(self, key: InstanceKey, question: Question, body: object) -> Answer | None:
        """The answer of an instance that this worker owns, once what it rests on is recorded (L2)."""
        instance = self._host.instances.get(key)
        if instance is None or instance.stalled is not None or not self._host.lease.valid():
            return None
        if not instance.execution.begun:
            return Answer(NOT_BEGUN)
        answer = self._ask(instance, question.name, body)
        return answer if await instance.confirmed() else None

    def _ask(self, instance: Instance, name: str, body: object) -> Answer:
        try:
            return _fitting(instance.execution.query(name, body), self._host.world.limits.value)
        finally:
            if instance.execution.disturbed:
                self._forget(instance)

    def _forget(self, instance: Instance) -> None:
        """A query handler woke the workflow up: what it did is in no history, so this memory is not used again."""
        _log.error(
            "%r: a query handler changed the workflow; it is loaded anew from its history", instance.key
        )
        if self._host.asleep.get(instance.key) is instance:
            del self._host.asleep[instance.key]
            instance.close()
        else:
            self._host.discard(instance)

    async def _from_owner(self, owner: str, question: Question) -> Answer | None:
        forwarded = question._replace(forwarded=True)
        data = await self._host.world.wire.ask(owner, forwarded.encode(), _FORWARDED_WITHIN)
        if data is None:
            return None
        answer = Answer.decode(data)
        return None if answer.kind == ELSEWHERE else answer

    async def _from_history(
        self, key: InstanceKey, record: InstanceRecord, question: Question, body: object
    ) -> Answer:
        commits = await recorded(self._host.world, key, record)
        if not commits:
            return Answer(NOT_BEGUN)
        execution: Execution = self._host.execution(key, record.generation)
        try:
            events = 0
            for index, commit in enumerate(commits):
                execution.replay(commit, islice(commits, index + 1, None))
                events += len(commit.events)
                if events >= YIELD_EVERY:
                    events = 0
                    await asyncio.sleep(0)
            return _fitting(execution.query(question.name, body), self._host.world.limits.value)
        finally:
            execution.evict()


def _failed(text: str) -> Answer:
    return Answer(FAILED, shortened(text, LONGEST_ERROR).encode())


def _fitting(answer: bytes, most: int) -> Answer:
    if len(answer) > most:
        raise QueryError(str(PayloadTooLargeError("the answer", len(answer), most)))
    return Answer(ANSWERED, answer)
