"""What an operator does with the command line: lists with filters, pending activities, dead letters, the doctor."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from unittest.mock import patch

import anyio
import pytest

from romancy_nats import (
    Client,
    RetryPolicy,
    WorkflowContext,
    WorkflowError,
    activity,
    activity_context,
    workflow,
)
from romancy_nats.cli.main import run
from romancy_nats.client.client import session_of
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.messages.envelope import Message
from romancy_nats.jetstream.api import ask
from romancy_nats.jetstream.connection import Connection
from romancy_nats.jetstream.dead_letters import DeadLetters
from romancy_nats.jetstream.subjects import Subjects
from romancy_nats.jetstream.writes import ack_prefix, write
from tests.integration.place import Place, until, until_status

pytestmark = pytest.mark.anyio
FORGOTTEN = 0.2
"""Seconds until the server of a test has forgotten the id of a message."""


@activity(retry=RetryPolicy(max_attempts=9, initial_interval=3600, max_interval=3600))
async def charge(amount: int) -> None:
    activity_context().heartbeat({"asked": "bank", "at": [1, 2]})
    raise ConnectionError(f"no way to charge {amount}\nfor now")


@workflow(name="order")
async def order(ctx: WorkflowContext, amount: int) -> int:
    if amount > 100:
        await ctx.run(charge, amount)
    if amount < 0:
        raise ValueError("no such amount")
    if amount == 7:
        await ctx.receive("go")
    return amount


@workflow(name="order")
async def lenient(ctx: WorkflowContext, amount: str) -> str:
    return amount


class Ran(NamedTuple):
    """What a command printed, and its exit code."""

    out: str
    err: str
    exit: int


Command = Callable[..., Any]


@pytest.fixture
def romancy(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command as its entry point runs it, in a thread of this process: a process of its own costs a second."""
    monkeypatch.setenv("ROMANCY_NATS_URL", place.url)
    monkeypatch.setenv("ROMANCY_NAMESPACE", place.namespace)
    monkeypatch.setenv("ROMANCY_SHARDS", "2")

    def ran(args: tuple[str, ...]) -> Ran:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["romancy", *args])
        code = 0
        try:
            run()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Ran(out, err, code)

    async def command(*args: str, exit: int = 0) -> Any:
        done = await anyio.to_thread.run_sync(ran, args)
        assert done.exit == exit, f"{args}: {done}"
        return json.loads(done.out) if "--json" in args else done

    return command


async def bare(client: Client, workflow: str, id: str, body: bytes) -> None:
    headers = {"Romancy-Instance-Id": id, "Own": "kept"}
    assert isinstance(await session_of(client).world.queues.start(workflow, body, headers), int)


async def ended(client: Client, *amounts: int, **options: Any) -> None:
    for amount in amounts:
        handle = await client.start(
            order.options(id=f"a{amount}", attributes={"n": amount, "who": "ada"}), amount
        )
        with contextlib.suppress(WorkflowError):
            await handle.result(20)


async def test_a_list_by_time_status_attribute_and_number(place: Place, romancy: Command) -> None:
    async with place.worker(order), place.client() as client:
        await ended(client, 1, 2, -3)
        before = datetime.now(UTC)
        await ended(client, 4)

        async def listed(*args: str) -> list[str]:
            return [one["id"] for one in await romancy("list", *args, "--json")]

        assert await listed() == ["a1", "a2", "a-3", "a4"]
        assert await listed("--since", before.isoformat()) == ["a4"]
        assert await listed("--until", before.isoformat()) == ["a1", "a2", "a-3"]
        assert await listed("--since", "2h", "--until", "1m") == []
        assert await listed("--status", "failed", "--status", "stalled") == ["a-3"]
        assert await listed("--attribute", "n=4") == ["a4"]
        assert await listed("--attribute", "who=ada", "--attribute", "n=2") == ["a2"]
        assert await listed("--attribute", 'who="ada"', "--limit", "2") == ["a-3", "a4"]
        assert await listed("--attribute", "absent=1") == []
        everywhere = await romancy("list", "--all-namespaces", "--since", "1h", "--json")
        assert {one["id"] for one in everywhere if one["namespace"] == place.namespace} >= {"a1", "a4"}
        assert (await romancy("list", "--all-namespaces")).out.startswith("namespace\tworkflow\tid\t")
        assert await client.count(since=before) == 1
        assert await client.count(attributes={"who": "ada"}, status=["failed", "completed"]) == 4
        assert await client.count(since=timedelta(hours=1), until="1s") <= 4
        row = (await romancy("list", "--status", "failed")).out.splitlines()[1].split("\t")
        assert row[:3] == ["order", "a-3", "failed"]
        assert datetime.fromisoformat(row[3]).tzinfo is not None, "times carry their zone"
        assert row[5] == "ValueError: no such amount"
    for args, text in {
        ("--since", "yesterday"): "is no time",
        ("--until", "9" * 50): "is no time",
        ("--since", "1h", "--until", "2h"): "is not before",
        ("--attribute", "who"): "NAME=VALUE",
        ("--attribute", "=x"): "NAME=VALUE",
    }.items():
        done = await romancy("list", *args, exit=2)
        [line] = done.err.splitlines()
        assert text in line


async def test_status_shows_activities_that_are_not_done_and_how_it_failed(
    place: Place, romancy: Command
) -> None:
    async with place.worker(order), place.client() as client:
        handle = await client.start(order.options(id="owing", attributes={"tags": ["a", None]}), 101)
        await until_status(handle, "waiting_for_timer")
        [pending] = (await handle.describe()).pending_activities
        assert (pending.id, pending.name, pending.attempt) == ("charge:1", "charge", 2)
        assert pending.last_error == "ConnectionError: no way to charge 101\nfor now"
        assert pending.heartbeat == {"asked": "bank", "at": [1, 2]}
        assert pending.since is not None
        assert pending.next_attempt is not None
        hour = timedelta(hours=1)
        assert hour * 0.8 < pending.next_attempt - pending.since < hour * 1.3
        told = await romancy("status", "owing", "--json")
        assert told["pending_activities"][0]["attempt"] == 2
        assert datetime.fromisoformat(told["pending_activities"][0]["next_attempt"]) == pending.next_attempt
        lines = dict(line.split("\t", 1) for line in (await romancy("status", "owing")).out.splitlines())
        assert "attempt 2" in lines["pending charge:1"]
        assert "no way to charge 101\\nfor now" in lines["pending charge:1"]
        assert '{"asked": "bank", "at": [1, 2]}' in lines["pending charge:1"]
        assert lines["attributes"] == '{"tags": ["a", null]}', "a value is JSON, not Python"
        assert datetime.fromisoformat(lines["created at"]).utcoffset() == timedelta(0)
        await ended(client, -1)
        failed = (await romancy("status", "a-1")).out
        assert "error\tno such amount\n" in failed
        assert "Traceback (most recent call last):\n" in failed
        assert "ValueError: no such amount" in failed
        assert "error type\tValueError" in failed
        history = (await romancy("history", "a-1")).out
        assert '"message": "no such amount"' in history
        assert "Traceback (most recent call last):\n" in history
        assert "in order\n" in (await romancy("history", "a-1", "--follow")).out
        [*_, last] = (await romancy("history", "a-1", "--json"))["commits"][-1]["events"]
        assert "in order" in last["failure"]["shown"]["traceback"]


async def test_reading_commands_make_no_stream_and_say_where_they_looked(
    place: Place, romancy: Command
) -> None:
    for args in (("status", "x"), ("result", "x"), ("history", "x"), ("cancel", "x"), ("send", "x", "c")):
        done = await romancy(*args, exit=3)
        [line] = done.err.splitlines()
        assert f"namespace {place.namespace!r} has no streams" in line
    assert await romancy("list", "--json") == []
    assert f"namespace {place.namespace!r} has no streams" in (await romancy("list")).err
    for args in (("dead", "list"), ("dead", "show", "1"), ("dead", "redrive", "1")):
        assert "namespace" in (await romancy(*args, exit=3)).err
    [streams] = [one for one in await romancy("doctor", "--json", exit=1) if not one["ok"]]
    assert streams["what"] == "streams"
    assert place.namespace not in await names(place)


async def names(place: Place) -> list[str]:
    from romancy_nats.jetstream import provision
    from romancy_nats.jetstream.connection import Connection

    async with Connection.open(place.url) as connection:
        return await provision.namespaces(connection)


async def test_dead_letters_are_listed_shown_redriven_and_deleted(place: Place, romancy: Command) -> None:
    async with place.client() as client:
        async with place.worker(order):
            await bare(client, "order", "odd", b'{"amount": "many"}')
            await bare(client, "order", "binary", b"\xff\xfe{")
            await until_status(client.get("odd", "order"), "rejected")
            await until_status(client.get("binary", "order"), "rejected")
            await ended(client, 1)
            handle = await client.start(order.options(id="late"), 7)
            await until_status(handle, "waiting_for_message")
        letters = await romancy("dead", "list", "--json")
        assert [one["workflow"] for one in letters] == ["order", "order"]
        assert all("StartRejectedError" in one["reason"] and one["size"] for one in letters)
        odd = next(one["number"] for one in letters if one["size"] > 10)
        shown = await romancy("dead", "show", str(odd), "--json")
        assert shown["body"] == {"amount": "many"}
        assert shown["headers"]["Own"] == "kept"
        assert '"many"' in (await romancy("dead", "show", str(odd))).out
        assert len(await romancy("dead", "list", "--limit", "1", "--json")) == 1
        assert await romancy("dead", "list", "--workflow", "other", "--json") == []

        doctor = await romancy("doctor", "--json", exit=1)
        wrong = {one["what"]: one["told"] for one in doctor if not one["ok"]}
        assert set(wrong) == {"dead letters", "workflow order"}
        assert "no worker serves it" in wrong["workflow order"]

        # Code that takes it: what was rejected runs after all, under its own id.
        async with place.worker(lenient):
            [done] = await romancy("dead", "redrive", str(odd), "--json")
            assert done["done"] is True
            handle = client.get("odd", "order", result_type=str)
            await until_status(handle, "completed")
            assert await handle.result(10) == "many"
        assert "no dead letter" in (await romancy("dead", "redrive", str(odd), exit=3)).err
        assert len(await romancy("dead", "list", "--json")) == 1
        assert (await romancy("dead", "delete", "--workflow", "order")).out.count("deleted") == 1
        assert await romancy("dead", "list", "--json") == []
        assert "which letters" in (await romancy("dead", "redrive", exit=2)).err


async def test_each_letter_is_one_line_of_the_log_and_names_its_instance(
    place: Place, romancy: Command, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "romancy")
    body = b"\xff not json"
    async with place.client() as client, place.worker(order):
        queues = session_of(client).world.queues
        await bare(client, "order", "odd", b"{odd")
        await bare(client, "order", "odd", b"{odder")
        await bare(client, "order", "taken", b'{"amount": 1}')
        await bare(client, "order", "taken", b'{"amount": 2}')
        await queues.start("order", b'{"amount": []}', {"Romancy-Instance-Id": "x" * 200})
        await queues.send(Message(InstanceKey("order", "taken"), "nonsense", b"junk", "id-7"))
        async with Connection.open(place.url) as connection:
            stream = f"{place.namespace.upper()}_EVENTS"
            subject = f"{place.namespace}.event.paid"
            headers = {"ce-id": "2", "ce-specversion": "1.0", "ce-type": "paid", "ce-source": "x"}
            more = {"content-type": "application/json", "Own": "kept"}
            assert isinstance(
                await write(connection, subject, body, {**headers, **more}, ack_prefix(stream)), int
            )
        await until_letters(romancy, 6)
    letters = await romancy("dead", "list", "--json")
    assert sorted((one["workflow"], one["id"]) for one in letters) == [
        ("", ""),
        ("order", ""),
        ("order", "odd"),
        ("order", "odd"),
        ("order", "taken"),
        ("order", "taken"),
    ]
    lines = [record.getMessage() for record in caplog.records if "parked" in record.getMessage()]
    assert len(lines) == len(letters)
    for letter in letters:
        named = f"order/{letter['id'] or '?'}" if letter["workflow"] else "event"
        assert [line for line in lines if named in line and letter["reason"] in line], letter
    told = [
        one
        for one in caplog.records
        if one.levelname in ("INFO", "WARNING") and "rejected" in one.getMessage()
    ]
    assert not told, "one line for one fact"
    [event] = [one["number"] for one in letters if not one["workflow"]]
    shown = await romancy("dead", "show", str(event), "--json")
    assert shown["headers"]["Own"] == "kept"
    assert shown["size"] == len(body)


async def test_a_letter_sent_back_twice_around_a_crash_runs_once(place: Place, romancy: Command) -> None:
    ran: list[str] = []

    @activity(name="note")
    async def note(text: str) -> None:
        ran.append(text)

    @workflow(name="order")
    async def noting(ctx: WorkflowContext, amount: str) -> str:
        await ctx.run(note, amount)
        return amount

    async with place.client() as client:
        async with place.worker(order):
            for number, id in enumerate(["named", None, "again"]):
                # The server recognises a message by its id within a window only: what comes later is told by us.
                headers = {} if id is None else {"Romancy-Instance-Id": id}
                if id == "again":
                    headers["Romancy-On-Conflict"] = "fail"
                body = b'{"amount": "many %d"}' % number
                assert isinstance(await session_of(client).world.queues.start("order", body, headers), int)
            await until_letters(romancy, 3)
        async with Connection.open(place.url) as connection:
            await forget_quickly(connection, place)
            letters = DeadLetters(connection, Subjects(place.namespace))
            found = [letter async for letter in letters.letters("order")]
            async with place.worker(noting):
                for again in range(3):
                    for letter in found:
                        # The process is gone between the two steps: the letter stays, the message was sent.
                        with patch.object(letters, "delete", crash), pytest.raises(ConnectionResetError):
                            await letters.redrive(letter)
                    await until(lambda: len(ran) >= 3)
                    await until_count(client, "completed", 3)
                    if again < 2:
                        await asyncio.sleep(FORGOTTEN * 2)
                for letter in found:
                    assert await letters.redrive(letter) == ""
                await until_idle(connection, place)
    assert sorted(ran) == ["many 0", "many 1", "many 2"]
    assert await romancy("dead", "list", "--workflow", "order", "--json") == []


async def crash(number: int) -> bool:
    raise ConnectionResetError(f"no more, with letter {number} still there")


async def forget_quickly(connection: Connection, place: Place) -> None:
    """Let the server forget the ids of starts after a moment, as it does after two minutes."""
    stream = f"{place.namespace.upper()}_START"
    config = (await ask(connection, f"STREAM.INFO.{stream}")).part("config")
    answer = await ask(
        connection, f"STREAM.UPDATE.{stream}", {**config, "duplicate_window": int(FORGOTTEN * 1e9)}
    )
    assert not answer.code, answer.text


async def until_idle(connection: Connection, place: Place) -> None:
    """Every start is handled."""
    async with asyncio.timeout(20):
        while (await ask(connection, f"CONSUMER.INFO.{place.namespace.upper()}_START.start_order")).body[
            "num_pending"
        ]:
            await asyncio.sleep(0.05)


async def until_letters(romancy: Command, number: int) -> None:
    async with asyncio.timeout(20):
        while len(await romancy("dead", "list", "--json")) < number:
            await asyncio.sleep(0.05)


async def until_count(client: Client, status: str, number: int) -> None:
    async with asyncio.timeout(20):
        while await client.count(status=status) < number:
            await asyncio.sleep(0.05)


async def test_the_doctor_says_where_somebody_has_to_act(place: Place, romancy: Command) -> None:
    async def wrong(exit: int) -> dict[str, Any]:
        return {one["what"]: one for one in await romancy("doctor", "--json", exit=exit) if not one["ok"]}

    async with place.client() as client:
        await bare(client, "order", "waits", b'{"amount": 7}')
        found = await wrong(1)
        assert list(found) == ["workflow order"]
        assert found["workflow order"]["values"]["queued"] == 1
        assert found["workflow order"]["values"]["workers"] == 0
        async with place.worker(order):
            await until_status(client.get("waits", "order"), "waiting_for_message")
            assert await wrong(0) == {}
            [one] = [one for one in await romancy("doctor", "--json") if one["what"] == "workflow order"]
            assert one["values"]["workers"] == 1
            assert one["values"]["statuses"] == {"waiting_for_message": 1}
        async with place.worker(lenient):
            # Its code does not fit what is recorded.
            await client.get("waits", "order").send("go", 1)
            await until_status(client.get("waits", "order"), "stalled")
            found = await wrong(1)
            assert found["workflow order"]["values"]["stalled"] == 1
            assert "--status stalled" in found["workflow order"]["told"]
