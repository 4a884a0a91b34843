"""Malformed and hostile starts: refused, parked with the reason and told; nothing else is disturbed, nothing lost."""

from __future__ import annotations

import asyncio
from typing import Any

import msgpack
import pytest

from romancy_nats import InstanceNotFoundError, StartRejectedError, WorkflowContext, activity, workflow
from tests.integration.outsider import Outsider, outsider
from tests.integration.place import Place, until, until_status

pytestmark = pytest.mark.anyio

entered: list[Any] = []


@pytest.fixture(autouse=True)
def fresh() -> None:
    entered.clear()


@activity
async def pauses() -> None:
    await asyncio.sleep(0.05)


@workflow
async def takes(ctx: WorkflowContext, count: int, name: str = "n") -> int:
    entered.append((count, name))
    await ctx.run(pauses)
    return count


DEEP = b'{"count": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"
BODIES: dict[str, tuple[bytes, str]] = {
    "not JSON": (b"{count: 1}", "cannot be read"),
    "cut off": (b'{"count": 1', "cannot be read"),
    "not msgpack": (b"\xc1\xc1\xc1", "cannot be read"),
    "msgpack with a tail": (msgpack.packb({"count": 1}) + b"\x00", "cannot be read"),
    "msgpack that lies about its length": (b"\xdf\xff\xff\xff\xff", ""),
    "not text": (b'{"count": "\xff"}', "cannot be read"),
    "an array": (b"[1]", "object"),
    "a number": (b"17", "object"),
    "null": (b"null", "count"),
    "nothing": (b"", "count"),
    "a wrong type": (b'{"count": "many"}', "count"),
    "a missing argument": (b'{"name": "x"}', "count"),
    "one too many": (b'{"args": [1, "x", 2]}', "positional"),
    "an unknown argument": (b'{"count": 1, "colour": 2}', "colour"),
    "twice the same": (b'{"args": [1], "kwargs": {"count": 2}}', "twice"),
    "args that are none": (b'{"args": 1}', "args"),
    "fields beside args": (b'{"args": [1], "more": 2}', "args"),
    "a key twice": (b'{"count": 1, "count": 2}', "twice"),
    "NaN": (b'{"count": NaN}', "NaN"),
    "a huge number": (b'{"count": 1e999}', "too large"),
    "a million digits": (b'{"count": ' + b"9" * 500_000 + b"}", ""),
    "nested deep": (DEEP, "deeper"),
    "nested deep in msgpack": (b"\x81\xa5count" + b"\x91" * 10_000 + b"\x90", "deeper"),
    "too many values": (b'{"count": [' + b"1," * 200_000 + b"1]}", "values"),
    "an extension of msgpack": (b"\x81\xa5count\xd4\x05\x00", "ext code"),
}


async def rejected(program: Outsider, place: Place, body: bytes, because: str, **headers: str) -> None:
    answer = await program.ask("takes", body, **headers)
    assert answer["error"] == "StartRejectedError"
    assert because in answer["message"]
    assert len(answer["message"]) < 4000
    (letter,) = await program.dead_letters("takes")
    assert letter.data == body
    assert letter.headers is not None
    reason = letter.headers["Romancy-Reason"]
    assert reason.startswith("StartRejectedError")
    assert because in reason


@pytest.mark.parametrize("name", BODIES)
async def test_a_bad_body_is_parked_and_whoever_waits_is_told(place: Place, name: str) -> None:
    body, because = BODIES[name]
    async with place.run(takes) as client, outsider(place) as program:
        running = await client.start(takes, 5)
        await rejected(program, place, body, because, Romancy_Instance_Id="bad")
        waiting = client.get("bad", takes)
        with pytest.raises(StartRejectedError) as told:
            await waiting.result(5)
        assert because in str(told.value)
        assert (await waiting.describe()).status == "rejected"
        assert await running.result(5) == 5
        assert await program.drained()
    assert entered == [(5, "n")]


BAD_IDS = {"too long": "x" * 129, "empty": ""}


@pytest.mark.parametrize("name", BAD_IDS)
async def test_a_bad_id_is_parked(place: Place, name: str) -> None:
    async with place.run(takes) as client, outsider(place) as program:
        await rejected(program, place, b'{"count": 1}', "id", Romancy_Instance_Id=BAD_IDS[name])
        assert await client.count() == 0
    assert entered == []


@pytest.mark.parametrize("token", ["a.b", "*", ">", "=zz", "a b", "=41", "=2", "x" * 500])
async def test_a_bad_token_of_an_id_is_parked(place: Place, token: str) -> None:
    async with place.run(takes), outsider(place) as program:
        await rejected(program, place, b'{"count": 1}', "", Romancy_Instance_Token=token)
    assert entered == []


@pytest.mark.parametrize("id", ["a.b.c", "*", ">", "a b", "$KV.x", "..", "ünï", "romancy.start.x"])
async def test_ids_that_look_like_subjects_are_just_ids(place: Place, id: str) -> None:
    async with place.run(takes) as client, outsider(place) as program:
        # A client of ours spells what a header cannot carry.
        handle = await client.start(takes.options(id=id), 4)
        assert await handle.result(5) == 4
        if id.isascii():
            answer = await program.ask("takes", {"count": 4}, Romancy_Instance_Id=id)
            assert answer == {"workflow": "takes", "id": id}
        assert await client.count() == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Romancy_Timeout": "soon"},
        {"Romancy_Timeout": "-1"},
        {"Romancy_Timeout": "nan"},
        {"Content_Type": "application/vnd.romancy.input"},
    ],
    ids=lambda headers: " ".join(headers.values()),
)
async def test_bad_headers_are_parked(place: Place, headers: dict[str, str]) -> None:
    async with place.run(takes), outsider(place) as program:
        await rejected(program, place, b'{"count": 1}', "", **headers)
    assert entered == []


async def test_strange_headers_do_no_harm(place: Place) -> None:
    async with place.run(takes) as client, outsider(place) as program:
        strange = {
            "traceparent": "nonsense",
            "Romancy_Notify": "romancy.start.takes",
            "Content_Type": "text/html",
        }
        answer = await program.ask("takes", {"count": 1}, **strange)
        assert await client.get(answer["id"], takes).result(5) == 1
        await program.start("takes", {"count": 2}, Romancy_Reply_To=f"{place.namespace}.start.takes")
        await until(lambda: len(entered) == 2)
        assert await client.count() == 2


async def test_a_bad_start_does_not_touch_the_instance_that_has_its_id(place: Place) -> None:
    async with place.run(takes) as client, outsider(place) as program:
        mine = await client.start(takes.options(id="mine"), 7)
        await rejected(program, place, b"{", "", Romancy_Instance_Id="mine")
        assert await mine.result(5) == 7
        assert await mine.status() == "completed"


async def test_a_rejected_id_may_be_looked_at_and_stays_rejected(place: Place) -> None:
    async with place.run(takes) as client, outsider(place) as program:
        await rejected(program, place, b"{", "", Romancy_Instance_Id="bad")
        assert await client.get("bad").cancel() is False
        assert {info.status for info in [i async for i in client.list()]} == {"rejected"}


async def test_many_bad_ones_between_good_ones(place: Place) -> None:
    async with place.run(takes) as client, outsider(place) as program:
        for n in range(40):
            await program.start("takes", {"count": n} if n % 2 else b"\xc1 bad")
        assert len(await program.dead_letters("takes", 20)) == 20
        await until(lambda: len(entered) == 20)
        handles = [client.get(info.id, takes) async for info in client.list()]
        assert sorted([await handle.result(5) for handle in handles]) == list(range(1, 40, 2))
        assert await program.dead_count() == 20


async def test_a_typed_client_refuses_before_sending(place: Place) -> None:
    async with place.run(takes) as client, outsider(place) as program:
        untyped: Any = takes
        for wrong in (("x",), (), (1, 2), (1, "a", "b")):
            with pytest.raises(StartRejectedError):
                await client.start(untyped, *wrong)
        with pytest.raises(StartRejectedError):
            await client.start(takes, 1, "x" * 2_000_000)
        assert await program.dead_count() == 0
        assert await client.count() == 0


async def test_a_start_of_a_workflow_that_nobody_has_is_kept(place: Place) -> None:
    async with place.run(takes) as client, outsider(place) as program:
        await program.start("unknown", {"count": 1}, Romancy_Instance_Id="kept")
        handle = client.get("kept", "unknown")
        await until_status(handle, "queued")
        assert await program.dead_count() == 0
        with pytest.raises(InstanceNotFoundError):
            await client.get("other", "unknown").status()


async def test_and_parked_in_the_end(place: Place) -> None:
    quick = place.settings(unknown_workflow_after=0.5, sweep_every=0.2)
    async with place.run(takes, settings=quick) as client, outsider(place) as program:
        await program.start("unknown", {"count": 1}, Romancy_Instance_Id="gone")
        (letter,) = await program.dead_letters("unknown")
        assert letter.headers is not None
        assert "unknown" in letter.headers["Romancy-Reason"]
        with pytest.raises(StartRejectedError):
            await client.get("gone", "unknown").result(5)
        assert await program.drained()
