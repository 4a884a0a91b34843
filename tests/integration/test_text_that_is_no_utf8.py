"""Text that UTF-8 cannot spell (lone surrogates), at each entry point: refused by name, or kept as it is; never a raw
UnicodeError, never a dead worker."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from romancy_nats import (
    Client,
    InvalidNameError,
    PayloadError,
    RomancyError,
    TerminalError,
    WorkflowContext,
    WorkflowFailedError,
    WorkflowHandle,
    activity,
    activity_context,
    workflow,
)
from tests.integration.place import Place, until_status

pytestmark = [pytest.mark.anyio, pytest.mark.long]

BAD = "a\ud800b"
OURS = (InvalidNameError, PayloadError)
Handle = WorkflowHandle[Any]


@activity
async def echo(value: object) -> object:
    return value


@activity
async def fail(text: str) -> None:
    raise TerminalError(text)


@activity(name="beats")
async def beats(text: str) -> str:
    activity_context().heartbeat(text)
    activity_context().emit({text: text})
    return text


async def returned(value: str) -> str:
    return value


VERBS: dict[str, Callable[[WorkflowContext], Any]] = {
    "step": lambda ctx: ctx.step(BAD, returned, "x"),
    "options id": lambda ctx: ctx.run(echo.options(id=BAD), "x"),
    "wait_event type": lambda ctx: ctx.wait_event(BAD, timeout=0.1),
    "wait_event key": lambda ctx: ctx.wait_event("t", key=BAD, timeout=0.1),
    "receive": lambda ctx: ctx.receive(BAD, 0.1),
    "send_event type": lambda ctx: ctx.send_event(BAD, 1),
    "send_event key": lambda ctx: ctx.send_event("t", 1, key=BAD),
    "send_event data": lambda ctx: ctx.send_event("t", BAD),
    "send_to id": lambda ctx: ctx.send_to(BAD, "c", 1),
    "send_to channel": lambda ctx: ctx.send_to("x", BAD, 1),
    "send_to workflow": lambda ctx: ctx.send_to("x", "c", 1, workflow=BAD),
    "on_query": lambda ctx: ctx.on_query(BAD, lambda: 1),
    "on_update": lambda ctx: ctx.on_update(BAD, lambda: 1),
}
KEPT: dict[str, Callable[[WorkflowContext], Any]] = {
    "argument and result": lambda ctx: ctx.run(echo, {BAD: [BAD]}),
    "step result": lambda ctx: ctx.step("s", returned, BAD),
    "heartbeat and emit of an activity": lambda ctx: ctx.run(beats, BAD),
    "emit": lambda ctx: ctx.emit({BAD: BAD}),
    "durable emit": lambda ctx: ctx.emit(BAD, durable=True),
    "send_to data": lambda ctx: ctx.send_to(ctx.instance_id, "own", BAD),
}


@workflow
async def verbs(ctx: WorkflowContext) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, verb in {**VERBS, **KEPT}.items():
        try:
            answer = verb(ctx)
            if asyncio.iscoroutine(answer):
                await answer
            found[name] = "kept"
        except Exception as error:  # noqa: BLE001 - which class it is, is what is asked
            ours = isinstance(error, OURS)
            found[name] = f"refused: {error}" if ours else f"{type(error).__name__}: {error!a}"
    return found


@workflow
async def failing(ctx: WorkflowContext, where: str) -> None:
    if where == "activity":
        await ctx.run(fail, BAD)
    raise type(BAD.encode("ascii", "ignore").decode(), (ValueError,), {})(BAD, {"more": BAD})


@workflow
async def talk(ctx: WorkflowContext, value: object = None) -> object:
    said: list[object] = []

    def boom(text: str) -> None:
        raise ValueError(text)

    ctx.on_query("said", lambda *args, **more: [BAD, args, said])
    ctx.on_query("boom", boom)
    ctx.on_update("say", lambda what: what)
    ctx.on_update("boom", boom)
    return [value, (await ctx.receive("words")).data]


@workflow
async def kept(ctx: WorkflowContext, value: object) -> object:
    return value


REFUSED: dict[str, Callable[[Client, Handle], Awaitable[Any] | Any]] = {
    "workflow name": lambda client, _: client.start(BAD),
    "execute by name": lambda client, _: client.execute(BAD),
    "id": lambda client, _: client.start(talk.options(id=BAD)),
    "attribute": lambda client, _: client.start(kept.options(attributes={"a": BAD}), 1),
    "name of an attribute": lambda client, _: client.start(kept.options(attributes={BAD: 1}), 1),
    "memo": lambda client, _: client.start(kept.options(memo={"a": {BAD: [BAD]}}), 1),
    "get id": lambda client, _: client.get(BAD).status(),
    "get workflow": lambda client, _: client.get("x", BAD).status(),
    "list": lambda client, _: client.count(workflow=BAD),
    "event type": lambda client, _: client.send_event(BAD, 1),
    "event key": lambda client, _: client.send_event("t", 1, key=BAD),
    "event data": lambda client, _: client.send_event("t", {"a": BAD}),
    "event source": lambda client, _: client.send_event("t", 1, source=BAD),
    "event id": lambda client, _: client.send_event("t", 1, id=BAD),
    "event message id": lambda client, _: client.send_event("t", 1, message_id=BAD),
    "event message id beside an id": lambda client, _: client.send_event("t", 1, id="x", message_id=BAD),
    "message id of two lines": lambda _, handle: handle.send("c", 1, message_id="a\r\nb"),
    "event time": lambda client, _: client.send_event("t", 1, time=BAD),
    "event extension": lambda client, _: client.send_event("t", 1, extensions={"a": BAD}),
    "name of an event extension": lambda client, _: client.send_event("t", 1, extensions={BAD: "a"}),
    "channel": lambda _, handle: handle.send(BAD, 1),
    "metadata": lambda _, handle: handle.send("c", 1, {"a": BAD}),
    "name of metadata": lambda _, handle: handle.send("c", 1, {BAD: 1}),
    "message id": lambda _, handle: handle.send("c", 1, message_id=BAD),
    "query": lambda _, handle: handle.query(BAD),
    "update": lambda _, handle: handle.update(BAD),
    "update id": lambda _, handle: handle.update("say", 1, message_id=BAD),
    "namespace": lambda client, _: _connected(BAD),
}


async def _connected(namespace: str) -> None:
    async with Client.connect("nats://127.0.0.1:1", namespace=namespace):
        pass


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


async def test_a_client_refuses_what_nothing_can_carry(place: Place) -> None:
    wrong: dict[str, str] = {}
    async with place.run(talk, kept) as client:
        handle = await client.start(talk)
        await until_status(handle, "waiting_for_message")
        for name, call in REFUSED.items():
            try:
                async with asyncio.timeout(5):
                    answer = await call(client, handle)
                    wrong[name] = f"taken: {answer!a}"
            except OURS as error:
                str(error).encode()
            except Exception as error:  # noqa: BLE001 - which class it is, is what is asked
                wrong[name] = f"{type(error).__name__}: {error!a}"[:300]
        await handle.send("words", "still there")
        assert await handle.result(10) == [None, "still there"]
    assert not wrong, "; ".join(f"{name}: {what}" for name, what in wrong.items())


async def test_values_and_reasons_are_kept(place: Place) -> None:
    async with place.run(talk, kept) as client:
        assert await client.execute(kept, {BAD: [BAD]}) == {BAD: [BAD]}
        handle = await client.start(talk, BAD)
        await until_status(handle, "waiting_for_message")
        assert await handle.query("said", BAD, a=BAD) == [BAD, (BAD,), []]
        assert await handle.update("say", {BAD: BAD}) == {BAD: BAD}
        for call in (handle.query("boom", BAD), handle.update("boom", BAD)):
            with pytest.raises(RomancyError) as caught:
                await call
            str(caught.value).encode()
        await handle.send("words", {BAD: BAD})
        assert await handle.result(10) == [BAD, {BAD: BAD}]
        cancelled = await client.start(talk)
        assert await cancelled.cancel(BAD)
        with pytest.raises(RomancyError) as caught:
            await cancelled.result(10)
        str(caught.value).encode()
        terminated = await client.start(talk)
        assert await terminated.terminate(BAD)
        with pytest.raises(RomancyError) as caught:
            await terminated.result(10)
        str(caught.value).encode()
        delayed = await client.start(talk.options(start_delay=timedelta(hours=1)))
        assert await delayed.cancel(BAD)
        for one in (handle, cancelled, terminated, delayed):
            repr(await one.describe()).encode()


async def test_workflow_code_is_told_which_argument(place: Place) -> None:
    async with place.run(verbs) as client:
        found = await client.execute(verbs)
        assert {name: found[name] for name in VERBS if not found[name].startswith("refused: ")} == {}
        assert {name: found[name] for name in KEPT if found[name] != "kept"} == {}


@pytest.mark.parametrize("where", ["activity", "workflow"])
async def test_an_error_is_recorded_in_a_readable_form(place: Place, where: str) -> None:
    async with place.run(failing, kept) as client:
        handle = await client.start(failing, where)
        with pytest.raises(WorkflowFailedError) as caught:
            await handle.result(10)
        assert str(caught.value).encode()
        assert repr(await handle.describe()).encode()
        assert await client.execute(kept, 1) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("start", BAD),
        ("start", "kept", "--id", BAD),
        ("start", "kept", "--input", f'"{BAD}'),
        ("status", BAD),
        ("result", "x", "--workflow", BAD),
        ("cancel", BAD),
        ("send", BAD, "c"),
        ("event", BAD),
        ("event", "t", "--key", BAD),
        ("event", "t", "--source", BAD),
        ("query", "x", BAD),
        ("worker", BAD),
        ("replay", BAD, "x:app"),
        ("doctor", "--namespace", BAD),
        ("start", "kept", "--url", f"nats://{BAD}"),
    ],
    ids=lambda it: " ".join(it).encode("ascii", "replace").decode(),
)
@pytest.mark.long
async def test_the_command_line_says_so_in_one_line(place: Place, arguments: tuple[str, ...]) -> None:
    # what the shell gave is bytes; Python makes lone surrogates of those that are no UTF-8
    given = [
        argument.replace("\ud800", "\udcff").encode("utf-8", "surrogateescape") for argument in arguments
    ]
    url = [] if "--url" in arguments or arguments[0] in ("replay",) else ["--url", place.url]
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "romancy_nats", *given, *url],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode in (2, 3, 4), (done.returncode, done.stdout, done.stderr)
    assert b"Traceback" not in done.stderr
    assert b"UnicodeEncodeError" not in done.stderr
    assert done.stderr.decode().strip()
