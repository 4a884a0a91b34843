"""Starts: from a message to an owned instance, or to the reason why not. One delivery in, one answer out (L1, L5)."""

from __future__ import annotations

import json
import logging

from romancy_nats.core.events import WorkflowStarted
from romancy_nats.core.headers import NOTIFY, REPLY_TO, derived_id, named_id
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.limits import MAX_VALUE
from romancy_nats.core.record import InstanceRecord, InstanceStatus
from romancy_nats.core.start_options import RESTART_REJECTED
from romancy_nats.core.starting import StartRequest, read_start
from romancy_nats.errors import InvalidNameError, StartRejectedError
from romancy_nats.ports import Delivery, Held, Refusal, Refused
from romancy_nats.runtime.claims import Claims
from romancy_nats.runtime.host import Host
from romancy_nats.runtime.instance import Instance
from romancy_nats.storage.records import microseconds, read_record, write_record
from romancy_nats.storage.unclaimed import record_rejection

_log = logging.getLogger("romancy.worker")


class Intake:
    """Handles the start messages of one worker."""

    def __init__(self, host: Host, claims: Claims) -> None:
        self._host = host
        self._claims = claims

    async def handle(self, delivery: Delivery) -> None:
        """Start the instance, join it, or say why not."""
        host = self._host
        workflow = host.workflows[delivery.workflow]
        fallback = derived_id(delivery.source.stream, delivery.source.sequence)
        try:
            request = read_start(workflow, delivery.headers, delivery.data, fallback, host.world.limits.value)
        except StartRejectedError as error:
            await self._reject(delivery, error)
            return
        async with self._claims.claiming(request.key):
            await self._start(request, delivery)

    async def _start(self, request: StartRequest, delivery: Delivery) -> None:
        host = self._host
        instance = host.instances.get(request.key)
        if instance is None:
            record = self._new_record(request, delivery)
            reply = await write_record(host.world, request.key, record, 0)
            if isinstance(reply, int):
                if record.owner != host.lease.incarnation:
                    # The lease was lost while the claim was under way; the record names a dead incarnation.
                    delivery.nak()
                    return
                execution = host.execution(request.key)
                self._begin(Instance(host, request.key, execution, record, reply), request, delivery)
                return
            if reply.why is Refusal.TOO_LARGE:
                await self._reject(delivery, StartRejectedError(f"its record is too large: {reply.text}"))
                return
            held = await read_record(host.world, request.key)
            if held is None:
                delivery.nak(1.0)
                return
        else:
            held = Held(instance.record, instance.revision)
        await self._join(request, delivery, held)

    def _new_record(self, request: StartRequest, delivery: Delivery, generation: int = 0) -> InstanceRecord:
        now, options = microseconds(self._host.world), request.options
        delayed = options.begins(delivery.time) > now
        return InstanceRecord(
            generation=generation,
            start=delivery.source.sequence,
            status=InstanceStatus.QUEUED if delayed else InstanceStatus.RUNNING,
            owner=self._host.lease.incarnation,
            fingerprint=request.fingerprint,
            created=delivery.time or now,
            started=0 if delayed else now,
            updated=now,
            attributes=dict(options.attributes),
            memo=dict(options.memo),
            retention=options.retention or 0.0,
        )

    def _begin(self, instance: Instance, request: StartRequest, delivery: Delivery) -> None:
        """The first turn of an instance that has no commit yet."""
        host = self._host
        held = instance.held.add(delivery)
        if request.notify:
            instance.notify.append(request.notify)
        host.instances[instance.key] = instance
        _log.debug("%r begins", instance.key)
        event = self._started(instance.record, request, delivery)
        if instance.stalled is not None:
            instance.park(event, held)
        else:
            instance.give(event, held)
        self._answer(request.reply_to, {"workflow": request.key.workflow, "id": request.key.id})

    def _started(self, record: InstanceRecord, request: StartRequest, delivery: Delivery) -> WorkflowStarted:
        source, workflow, options = delivery.source, request.key.workflow, request.options
        # A start that was due when it was first claimed began then.
        begins = 0 if record.started else options.begins(delivery.time)
        limit = int((options.timeout or 0.0) * 1_000_000)
        return WorkflowStarted(
            workflow,
            request.input,
            self._host.workflows[workflow].code,
            source.stream,
            source.sequence,
            (record.started or begins) + limit if limit else 0,
            request.trace,
            begins,
            max_value=0 if (most := self._host.world.limits.value) == MAX_VALUE else most,
        )

    async def _join(self, request: StartRequest, delivery: Delivery, held: Held) -> None:
        """There is a record already: the same start again, or a conflict (L1)."""
        record = held.record
        if _restarts(request, delivery, record):
            await self._restart(request, delivery, held)
            return
        another = request.options.on_conflict == "fail" and record.start not in (0, delivery.source.sequence)
        if another or (record.fingerprint and record.fingerprint != request.fingerprint):
            await self._conflict(request, delivery)
            return
        self._answer(request.reply_to, {"workflow": request.key.workflow, "id": request.key.id})
        instance = self._host.instances.get(request.key)
        if instance is not None:
            if request.options.on_conflict == "restart_ended" and instance.execution.state.ending is not None:
                # It has ended, and its record is about to say so: then this start begins the next generation.
                delivery.nak(0.1)
                return
            known = (delivery.source.stream, delivery.source.sequence) in instance.execution.state.seen
            first = 1 if known or instance.commits else 0
            instance.held.add(delivery, first)
            if request.notify:
                instance.notify.append(request.notify)
            return
        if record.status.ended or (not record.owner and record.commits > 0 and not record.let_go):
            # At rest with a first commit: the start is in its history.
            delivery.ack()
            self._host.world.wire.notify(request.notify, b"")
            return
        await self._take_over(request, delivery, held)

    async def _take_over(self, request: StartRequest, delivery: Delivery, held: Held) -> None:
        """Claim an instance that needs its start, or is at work for somebody."""
        if self._host.stalls.is_known(request.key, held.record):
            # It broke before its first commit: its start is tried again, but not in a hot loop.
            delivery.nak(self._host.stalls.pause())
            return
        claimed = await self._claims.claim(request.key, held, delivery)
        if claimed is None:
            return
        if request.notify:
            claimed.notify.append(request.notify)
        if claimed.commits == 0:
            self._begin(claimed, request, delivery)
        else:
            claimed.held.add(delivery, 1)
            self._claims.resume(claimed)

    async def _restart(self, request: StartRequest, delivery: Delivery, held: Held) -> None:
        """A new generation of an instance that has ended."""
        host, generation = self._host, held.record.generation + 1
        record = self._new_record(request, delivery, generation)
        reply = await write_record(host.world, request.key, record, held.revision)
        if isinstance(reply, Refused) or record.owner != host.lease.incarnation:
            delivery.nak(0.1)
            return
        execution = host.execution(request.key, generation)
        self._begin(Instance(host, request.key, execution, record, reply), request, delivery)

    async def _conflict(self, request: StartRequest, delivery: Delivery) -> None:
        text = f"instance {request.key.id!r} exists with another input"
        reason = f"InstanceConflictError: {text}; use another id, or the same arguments"
        await self._claims.park(delivery, reason, request.key.id)
        self._host.world.wire.notify(request.notify, b"")
        self._answer(request.reply_to, {"error": "InstanceConflictError", "message": text})

    async def _reject(self, delivery: Delivery, error: StartRejectedError) -> None:
        """A start that can never run: park it with the reason, and leave a record for whoever waits by id."""
        try:
            id = named_id(delivery.headers)
        except InvalidNameError:
            id = None
        if id is not None:
            key = InstanceKey(delivery.workflow, id)
            await record_rejection(self._host.world, key, error.message, delivery.time)
        await self._claims.park(delivery, f"StartRejectedError: {error.message}", id or "")
        self._host.world.wire.notify(delivery.headers.get(NOTIFY, ""), b"")
        reply_to = delivery.headers.get(REPLY_TO, "")
        self._answer(reply_to, {"error": "StartRejectedError", "message": error.message})

    def _answer(self, inbox: str, answer: dict[str, str]) -> None:
        if inbox:
            self._host.world.wire.notify(inbox, json.dumps(answer).encode())


def _restarts(request: StartRequest, delivery: Delivery, record: InstanceRecord) -> bool:
    """Whether this start wants an ended instance again, and has not been its start before."""
    if request.options.on_conflict == RESTART_REJECTED:
        return record.status is InstanceStatus.REJECTED
    if request.options.on_conflict != "restart_ended" or not record.status.ended:
        return False
    if not record.start:
        # Cancelled before any claim: that meant the starts which were waiting then.
        return delivery.time > record.ended
    return delivery.source.sequence > record.start
