"""Each row of the table of events: something too large for it comes in by the public API, and ends as the row says."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from romancy_nats import (
    Client,
    ConfigurationError,
    InstanceNotFoundError,
    PayloadError,
    QueryError,
    RetryPolicy,
    StartRejectedError,
    UpdateFailedError,
    WorkflowCancelledError,
    WorkflowContext,
    WorkflowFailedError,
    WorkflowHandle,
    WorkflowTerminatedError,
    activity,
    activity_context,
    workflow,
)
from romancy_nats.client.client import session_of
from romancy_nats.core.events import EVENTS, Bound
from romancy_nats.core.execution import Execution
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.messages.envelope import Message
from romancy_nats.runtime.attempts import Attempts
from tests.integration.place import Place, until_status

pytestmark = pytest.mark.anyio
HUGE = 2_000_000
REASON = "why " * (HUGE // 4)
ONCE = RetryPolicy(max_attempts=1)


class HugeError(Exception):
    pass


@activity(retry=ONCE)
async def give(size: int) -> str:
    return "x" * size


@activity(retry=ONCE, errors=[HugeError])
async def fail(size: int) -> None:
    raise HugeError("x" * size)


@activity(retry=RetryPolicy(max_attempts=2, initial_interval=0.3), errors=[HugeError])
async def beat(size: int) -> str:
    context = activity_context()
    context.heartbeat("x" * size)
    if context.attempt == 1:
        raise HugeError("x" * size)
    return repr(context.last_heartbeat)


@activity
async def take(value: str) -> int:
    return len(value)


@workflow
async def attempt(ctx: WorkflowContext, what: str) -> str:
    """Asks for something huge; says how that was refused."""
    text = "x" * HUGE
    calls: dict[str, Callable[[], Any]] = {
        "input": lambda: ctx.run(take, text),
        "id": lambda: ctx.run(take.options(id=text), "a"),
        "name": lambda: ctx.step(text, lambda: 1),
        "result": lambda: ctx.run(give, HUGE),
        "type": lambda: ctx.wait_event(text),
        "key": lambda: ctx.wait_event("t", key=text),
        "channel": lambda: ctx.receive(text),
        "to a channel": lambda: ctx.send_to(ctx.instance_id, text, 1),
        "event": lambda: ctx.send_event("t", text),
        "beat": lambda: ctx.run(beat, HUGE),
        "fail": lambda: ctx.run(fail, HUGE),
    }
    try:
        if what == "emit":
            ctx.emit(text, durable=True)
        else:
            return f"{await calls[what]()}"
    except (PayloadError, ConfigurationError) as error:
        return f"{type(error).__name__}: {error}"
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {type(error.__cause__).__name__}"
    return "taken"


@workflow
async def returns(ctx: WorkflowContext, what: str) -> str:
    if what == "raise":
        raise HugeError("x" * HUGE)
    if what == "recur":
        ctx.recur("x" * HUGE)
    if what == "carry":
        while sum(len(m) for q in ctx._state.waiting.unread.values() for m in map(str, q)) < 1_200_000:
            await ctx.sleep(0.05)
        ctx.recur("end")
    return "x" * HUGE


@workflow
async def waits(ctx: WorkflowContext) -> str:
    ctx.on_query("fail", _raise)
    ctx.on_query("size", lambda size: "x" * size)
    ctx.on_update("fail", _raise)
    ctx.on_update("size", lambda size: "x" * size)
    return str((await ctx.receive("stop")).data)


def _raise(size: int) -> None:
    raise HugeError("x" * size)


Check = Callable[[Client, WorkflowHandle[Any]], Awaitable[None]]


async def _says(client: Client, what: str, *words: str) -> None:
    said = await client.execute(attempt, what)
    assert all(word in said for word in words), (what, said)
    assert len(said) < 5_000


def says(what: str, *words: str) -> Check:
    return lambda client, _handle: _says(client, what, *words)


def fails(what: str, error_type: str) -> Check:
    async def check(client: Client, _handle: WorkflowHandle[Any]) -> None:
        handle = await client.start(returns, what)
        if what == "carry":
            for n in range(15):
                await handle.send("never", f"{n}" + "x" * 90_000)
        with pytest.raises(WorkflowFailedError) as failed:
            await handle.result()
        assert failed.value.error_type == error_type
        assert len(str(failed.value)) < 10_000

    return check


def refused(error: type[Exception], call: Callable[[Client, WorkflowHandle[Any]], Awaitable[Any]]) -> Check:
    async def check(client: Client, handle: WorkflowHandle[Any]) -> None:
        with pytest.raises(error) as caught:
            await call(client, handle)
        assert len(str(caught.value)) < 10_000

    return check


async def cancelled(client: Client, _handle: WorkflowHandle[Any]) -> None:
    handle = await client.start(waits)
    await until_status(handle, "waiting_for_message")
    assert await handle.cancel(REASON)
    with pytest.raises(WorkflowCancelledError) as caught:
        await handle.result()
    assert caught.value.reason.startswith("why why")
    assert len(caught.value.reason) <= 4_000


async def terminated(client: Client, _handle: WorkflowHandle[Any]) -> None:
    for reason in (REASON, "\ud800 lone"):
        handle = await client.start(waits)
        await handle.terminate(reason)
        with pytest.raises(WorkflowTerminatedError) as caught:
            await handle.result()
        assert 0 < len(caught.value.reason) <= 4_000


TOO_LARGE = ("PayloadTooLargeError", " bytes, the limit is 1,000,000")
CASES: dict[str, Check] = {
    "WorkflowStarted.input": refused(StartRejectedError, lambda c, _: c.start(attempt, "x" * HUGE)),
    "WorkflowStarted.carried": fails("carry", "PayloadTooLargeError"),
    "ActivityCompleted.result": says("result", "the result of activity 'give'", *TOO_LARGE),
    "ActivityFailed.failure": says("fail", "RetryExhaustedError: HugeError"),
    "ActivityAttemptFailed.failure": says("beat", "None"),
    "ActivityAttemptFailed.heartbeat": says("beat", "None"),
    "CancelRequested.reason": cancelled,
    "TerminateRequested.reason": terminated,
    "EventReceived.event_type": refused(ConfigurationError, lambda c, _: c.send_event("x" * HUGE)),
    "EventReceived.data": refused(PayloadError, lambda c, _: c.send_event("t", "x" * HUGE)),
    "EventReceived.subject": refused(ConfigurationError, lambda c, _: c.send_event("t", 1, key="x" * HUGE)),
    "EventReceived.source": refused(PayloadError, lambda c, _: c.send_event("t", 1, source="x" * HUGE)),
    "EventReceived.event_id": refused(PayloadError, lambda c, _: c.send_event("t", 1, id="x" * HUGE)),
    "EventReceived.time": refused(PayloadError, lambda c, _: c.send_event("t", 1, time="x" * HUGE)),
    "EventReceived.extensions": refused(
        PayloadError, lambda c, _: c.send_event("t", 1, extensions={"a": "x" * HUGE})
    ),
    "EventReceived.message_id": refused(
        ConfigurationError, lambda c, _: c.send_event("t", 1, message_id="x" * HUGE)
    ),
    "MessageReceived.channel": refused(ConfigurationError, lambda _, h: h.send("x" * HUGE, 1)),
    "MessageReceived.data": refused(PayloadError, lambda _, h: h.send("c", "x" * HUGE)),
    "MessageReceived.metadata": refused(
        PayloadError, lambda _, h: h.send("c", 1, metadata={"a": "x" * HUGE})
    ),
    "MessageReceived.message_id": refused(
        ConfigurationError, lambda _, h: h.send("c", 1, message_id="x" * HUGE)
    ),
    "UpdateRequested.name": refused(ConfigurationError, lambda _, h: h.update("x" * HUGE)),
    "UpdateRequested.input": refused(PayloadError, lambda _, h: h.update("size", "x" * HUGE)),
    "ActivityScheduled.id": says("id", "1 to 128 characters"),
    "ActivityScheduled.name": says("name", "1 to 128 characters"),
    "ActivityScheduled.input": says("input", "the input of activity 'take'", *TOO_LARGE),
    "WorkflowCompleted.result": fails("return", "PayloadTooLargeError"),
    "WorkflowFailed.failure": fails("raise", "HugeError"),
    "WaitStarted.name": says("type", "1 to 255 characters"),
    "WaitStarted.key": says("key", "1 to 1000 characters"),
    "UpdateAnswered.result": refused(UpdateFailedError, lambda _, h: h.update("size", HUGE)),
    "UpdateAnswered.failure": refused(UpdateFailedError, lambda _, h: h.update("fail", HUGE)),
    "Emitted.value": says("emit", "what is emitted", *TOO_LARGE),
    "WorkflowRecurred.input": fails("recur", "PayloadTooLargeError"),
}
"""The others are the same values again, in another event."""
AGAIN = {
    "WorkflowStarted.workflow": "the name of a workflow, checked where it is defined and read from a subject",
    "WorkflowStarted.trace": "test_a_trace_that_is_none",
    "MessageReceived.sender": "the id of an instance or of a client",
    "Skipped.reason": "tests/unit/test_misfits.py",
    "Converted.made": "tests/unit/test_conversions.py",
    "MessageReceived.id": "MessageReceived.message_id",
    "UpdateRequested.id": "MessageReceived.message_id",
    "UpdateRequested.message_id": "MessageReceived.message_id",
    "CancelRequested.message_id": "made by the client",
    "TerminateRequested.message_id": "made by the client",
    "RetryRequested.message_id": "made by the client",
    "ActivityCompleted.id": "ActivityScheduled.id",
    "ActivityFailed.id": "ActivityScheduled.id",
    "ActivityAttemptFailed.id": "ActivityScheduled.id",
    "ActivityAbandoned.id": "ActivityScheduled.id",
    "ActivityScheduled.compensates": "ActivityScheduled.id",
    "UpdateAnswered.id": "UpdateRequested.id",
    "WorkflowCancelled.reason": "CancelRequested.reason",
    "WorkflowTerminated.reason": "TerminateRequested.reason",
    "WorkflowRecurred.carried": "WorkflowStarted.carried",
}
MORE: dict[str, Check] = {
    "a channel to receive on": says("channel", "1 to 255 characters"),
    "a channel to send to": says("to a channel", "1 to 255 characters"),
    "an event of a workflow": says("event", *TOO_LARGE),
    "the arguments of a query": refused(PayloadError, lambda _, h: h.query("size", "x" * HUGE)),
    "the answer of a query": refused(QueryError, lambda _, h: h.query("size", HUGE)),
    "the error of a query": refused(QueryError, lambda _, h: h.query("fail", HUGE)),
}


def test_every_row_has_its_case() -> None:
    bounded = {
        f"{event.__name__}.{field}"
        for event, spec in EVENTS.items()
        for field, bound in spec.bounds.items()
        if bound is not Bound.OURS
    }
    assert set(CASES) | set(AGAIN) == bounded
    assert not set(CASES) & set(AGAIN)


async def test_what_is_too_large_ends_as_its_row_says(place: Place) -> None:
    wrong: list[str] = []
    async with asyncio.timeout(120), place.run(attempt, returns, waits) as client:
        handle = await client.start(waits)
        await until_status(handle, "waiting_for_message")
        for name, check in {**CASES, **MORE}.items():
            try:
                async with asyncio.timeout(15):
                    await check(client, handle)
            except BaseException as error:  # noqa: BLE001
                wrong.append(f"{name}: {type(error).__name__}: {str(error)[:300]}")
        # Nobody was harmed.
        await handle.send("stop", "end")
        assert await handle.result() == "end"
    assert wrong == []


async def test_messages_from_outside_that_no_commit_could_hold(place: Place) -> None:
    """They are answered and parked, or cut; the instance that they were for goes on."""
    floats = b'{"args": [' + b",".join([b"[0.1,0.2,0.3]"] * 24_000) + b"]}"
    async with asyncio.timeout(60), place.run(attempt, returns, waits) as client:
        world = session_of(client).world
        handle = await client.start(waits)
        await until_status(handle, "waiting_for_message")
        key = InstanceKey("waits", handle.id)
        most = world.max_payload
        for n, (kind, headers) in enumerate(
            [
                ("update", {"Romancy-Update": "size"}),
                ("message", {"Romancy-Channel": "c"}),
                ("event", {"Romancy-Wait": "event:1", "Romancy-Generation": "0"}),
                ("message", {"Romancy-Channel": "x" * 50_000}),
            ]
        ):
            room = most - sum(len(name) + len(value) for name, value in headers.items()) - 500
            sent = await world.queues.send(
                Message(key, kind, b'"' + b"x" * (room - 2) + b'"', f"m{n}", headers)
            )
            assert isinstance(sent, int), (kind, sent)
        await world.queues.send(Message(key, "update", floats, "floats", {"Romancy-Update": "size"}))
        await handle.send("stop", "end")
        assert await handle.result() == "end"
        other = await client.start(waits)
        await until_status(other, "waiting_for_message")
        place_of = InstanceKey("waits", other.id)
        await world.queues.send(Message(place_of, "cancel", b"\xff" * (most - 500), "c"))
        with pytest.raises(WorkflowCancelledError):
            await other.result()


async def test_a_trace_that_is_none(place: Place) -> None:
    async with asyncio.timeout(30), place.run(waits) as client:
        headers = {"Romancy-Instance-Id": "traced", "traceparent": "0" * 50_000}
        assert isinstance(await session_of(client).world.queues.start("waits", b"{}", headers), int)
        handle = client.get("traced", waits)
        async with asyncio.timeout(10):
            while True:
                try:
                    await until_status(handle, "waiting_for_message")
                    break
                except InstanceNotFoundError:
                    await asyncio.sleep(0.01)
        async for item in handle.watch():
            assert item.data["trace"] == ""
            break


@workflow
async def many(ctx: WorkflowContext, calls: int) -> int:
    return sum(await asyncio.gather(*(ctx.run(take, f"{n:05}" + "x" * 1000) for n in range(calls))))


async def test_thousands_of_calls_leave_the_loop_to_others(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the lease would be renewed too late: so much begins, and so much is taken up, in one pass of the loop."""
    loop = asyncio.get_running_loop()
    passes, counting = 0, True
    begun, delivered = Counter[int](), Counter[int]()
    begin, deliver = Attempts.begin, Execution.deliver

    def next_pass() -> None:
        nonlocal passes
        passes += 1
        if counting:
            loop.call_soon(next_pass)

    def counted_begin(self: Attempts) -> None:
        begun[passes] += 1
        begin(self)

    def counted_deliver(self: Execution, event: Any, now: int) -> Any:
        delivered[passes] += 1
        return deliver(self, event, now)

    monkeypatch.setattr(Attempts, "begin", counted_begin)
    monkeypatch.setattr(Execution, "deliver", counted_deliver)
    async with asyncio.timeout(120), place.run(many) as client:
        next_pass()
        assert await client.execute(many, 3_000) == 3_015_000
        counting = False
    assert begun.total() == 3_000
    assert max(begun.values()) <= 200
    assert max(delivered.values()) <= 1_000


async def test_more_calls_in_one_step_than_a_message_holds(place: Place) -> None:
    async with asyncio.timeout(240), place.run(many, settings=place.settings(lease_ttl=15.0)) as client:
        assert await client.execute(many, 2_000) == 2_010_000
