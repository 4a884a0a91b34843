"""The connection against a real server: answers, silence, refusals, and what a killed server does to them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from romancy_nats.errors import (
    ConfigurationError,
    ConnectionLostError,
    JetStreamDisabledError,
    PayloadTooLargeError,
    PermissionDeniedError,
    ServerTooOldError,
    ServerUnavailableError,
)
from romancy_nats.jetstream import server_version
from romancy_nats.jetstream.connection import Connection
from romancy_nats.jetstream.credentials import Credentials, redacted
from romancy_nats.jetstream.driving import advance
from romancy_nats.jetstream.replies import Msg, Reply
from romancy_nats.jetstream.server import EmbeddedServer, LocalServer
from tests.integration.streams import make_stream, store

pytestmark = pytest.mark.anyio

USERS = """
authorization { users: [
  { user: all, password: secret }
  { user: starter, password: secret, permissions: {
      publish: ["allowed.>", "Mixed.Case"], subscribe: ["_INBOX_starter.>"] } }
] }
"""


@pytest.fixture
async def connection(nats_server: LocalServer) -> AsyncIterator[Connection]:
    async with Connection.open(nats_server.url) as opened:
        yield opened


@asynccontextmanager
async def soon() -> AsyncGenerator[None]:
    with anyio.fail_after(10):
        yield


async def until(condition: Callable[[], bool]) -> None:
    async with soon():
        while not condition():
            await asyncio.sleep(0.005)


async def answer_of(
    connection: Connection, subject: str, payload: bytes = b"", timeout: float = 5.0
) -> Reply | None:
    future: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
    connection.request(subject, payload, None, future.set_result, timeout)
    async with soon():
        return await future


async def test_a_request_is_answered_with_body_and_headers(connection: Connection) -> None:
    def serve(msg: Msg) -> None:
        connection.publish(msg.reply, msg.data.upper(), {"Echo": msg.headers["Say"]})

    service = await connection.subscribe("echo.here", serve)
    reply = await connection.call("echo.here", b"hello", {"Say": "ü"})
    assert (reply.data, reply.headers["Echo"], reply.status) == (b"HELLO", "ü", 0)
    service.close()
    nobody = await answer_of(connection, "echo.here")
    assert nobody is not None
    assert nobody.no_responders


async def test_nobody_listening_is_an_answer_of_its_own(connection: Connection) -> None:
    reply = await answer_of(connection, "nobody.there")
    assert reply is not None
    assert reply.no_responders
    assert reply.status == 503


async def test_a_deadline_answers_none_and_a_late_answer_is_dropped(connection: Connection) -> None:
    heard: list[Msg] = []
    service = await connection.subscribe("slow.one", heard.append)
    assert await answer_of(connection, "slow.one", timeout=0.05) is None
    connection.publish(heard[0].reply, b"too late")
    assert (await connection.call("$JS.API.INFO")).data  # the late answer was delivered before this one
    service.close()


async def test_call_raises_when_nothing_answers(connection: Connection) -> None:
    with pytest.raises(ServerUnavailableError, match=r"nobody\.there"):
        await connection.call("nobody.there", timeout=0.2)
    with pytest.raises(ServerUnavailableError, match="nobody answers"):
        await connection.call("nobody.there", timeout=60, patient=False)


async def test_an_abandoned_call_harms_nobody(connection: Connection) -> None:
    heard: list[Msg] = []
    service = await connection.subscribe("slow.two", heard.append)
    task = asyncio.create_task(connection.call("slow.two"))
    await until(lambda: bool(heard))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    connection.publish(heard[0].reply, b"nobody waits")
    await connection.call("$JS.API.INFO")
    service.close()


async def test_many_answers_are_collected_up_to_the_end(connection: Connection) -> None:
    stream = await make_stream(connection)
    await store(connection, stream, *"abcde")
    payload = json.dumps({"batch": 100, "seq": 2, "next_by_subj": f"{stream}.>"}).encode()
    replies = await connection.collect(f"$JS.API.DIRECT.GET.{stream}", payload)
    assert b"".join(reply.data for reply in replies) == b"bcde"
    assert [reply.headers.get("Nats-Sequence") for reply in replies[:-1]] == ["2", "3", "4", "5"]
    assert replies[-1].status == 204
    missing = json.dumps({"multi_last": [f"{stream}.other"]}).encode()
    replies = await connection.collect(f"$JS.API.DIRECT.GET.{stream}", missing)
    assert [reply.status for reply in replies] == [404]


async def test_collect_gives_up_after_its_deadline(connection: Connection) -> None:
    service = await connection.subscribe(
        "half.done", lambda msg: connection.publish(msg.reply, b"one of two")
    )
    with pytest.raises(ServerUnavailableError):
        await connection.collect("half.done", b"", timeout=0.1)
    service.close()


async def test_an_inbox_hears_more_than_one_answer(connection: Connection) -> None:
    heard: list[Reply | None] = []
    inbox = connection.inbox(heard.append)
    for body in (b"1", b"2"):
        connection.publish(inbox.subject, body)
    await until(lambda: len(heard) == 2)
    inbox.close()
    connection.publish(inbox.subject, b"3")
    await connection.call("$JS.API.INFO")
    assert [reply.data for reply in heard if reply] == [b"1", b"2"]


async def test_a_failing_callback_does_not_stop_the_others(
    connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: Reply | None) -> None:
        raise RuntimeError("callback")

    connection.request("nobody.there", b"", None, broken)
    assert (await connection.call("$JS.API.INFO")).data
    assert "a message handler failed" in caplog.text


async def test_a_payload_that_is_too_large_is_refused_at_once(connection: Connection) -> None:
    with pytest.raises(PayloadTooLargeError) as caught:
        connection.request("big", bytes(connection.max_payload + 1), None, lambda _: None)
    assert caught.value.limit == connection.max_payload


async def test_a_killed_server_leaves_requests_unanswered_and_hearing_goes_on() -> None:
    async with EmbeddedServer() as server, Connection.open(server.url) as connection:
        heard: list[Msg] = []
        reconnects: list[bool] = []
        missed: list[Reply | None] = []
        connection.on_reconnect.append(lambda: reconnects.append(connection.connected))
        inbox = connection.inbox(missed.append)
        await connection.subscribe("news", heard.append)
        await connection.subscribe("silent", lambda _: None)
        answers: list[Reply | None] = []
        connection.request("silent", b"", None, answers.append, timeout=60)
        collecting = asyncio.create_task(connection.collect("silent", b"", timeout=60))
        await connection.call("$JS.API.INFO")
        server.kill()
        await until(lambda: not connection.connected)

        with pytest.raises(ConnectionLostError):
            connection.publish("news", b"lost")
        connection.request("news", b"lost", None, answers.append)
        assert answers == []  # never called from within request
        await asyncio.sleep(0)
        assert answers == [None]

        waiting = asyncio.create_task(connection.call("$JS.API.INFO", timeout=10))
        await server.restart()
        async with soon():
            assert (await waiting).data
            with pytest.raises(ServerUnavailableError, match="lost the connection"):
                await collecting
        await until(lambda: bool(reconnects))
        assert answers == [None, None]
        assert missed == [None]
        connection.publish(inbox.subject, b"after")
        connection.publish("news", b"after")
        await until(lambda: len(missed) == 2 and bool(heard))
        assert [msg.data for msg in heard] == [b"after"]


async def test_a_connection_that_the_server_ends_for_good_is_opened_again(nats_server: LocalServer) -> None:
    async with Connection.open(nats_server.url) as connection:
        heard: list[Msg] = []
        await connection.subscribe("still.heard", heard.append)
        answers: list[Reply | None] = []
        await connection.subscribe("silent.too", lambda _: None)
        connection.request("silent.too", b"", None, answers.append, timeout=60)
        connection.publish("x" * 5000, b"")  # longer than a line may be: nats-py closes and stays closed
        await until(lambda: answers == [None])
        await connection.call("$JS.API.INFO")
        connection.publish("still.heard", b"yes")
        await until(lambda: bool(heard))


async def test_closing_answers_what_is_open_and_sends_what_waits(nats_server: LocalServer) -> None:
    answers: list[Reply | None] = []
    heard: list[Msg] = []
    async with Connection.open(nats_server.url) as other:
        await other.subscribe("last.words", heard.append)
        await other.call("$JS.API.INFO")
        async with Connection.open(nats_server.url) as connection:
            connection.request("last.words", b"open", None, answers.append, timeout=60)
            connection.publish("last.words", b"bye")
        await until(lambda: len(heard) == 2)
    assert answers == [None]


async def test_a_cancelled_block_still_sends_what_waits(nats_server: LocalServer) -> None:
    heard: list[Msg] = []
    async with Connection.open(nats_server.url) as other:
        await other.subscribe("last.cancelled", heard.append)
        await other.call("$JS.API.INFO")
        with anyio.CancelScope() as scope:
            async with Connection.open(nats_server.url) as connection:
                connection.publish("last.cancelled", b"bye")
                scope.cancel()
                await asyncio.sleep(60)
        await until(lambda: bool(heard))


async def test_a_publish_that_has_to_wait_is_finished_later() -> None:
    gate: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    steps: list[str] = []

    async def work(wait: bool) -> None:
        steps.append("begun")
        if wait:
            steps.append(await gate)
            await asyncio.sleep(0)
        steps.append("ended")

    assert advance(work(wait=False)) is None
    rest = advance(work(wait=True))
    assert rest is not None
    assert steps == ["begun", "ended", "begun"]
    task = asyncio.create_task(rest)
    await asyncio.sleep(0)
    gate.set_result("waited")
    await task
    assert steps[3:] == ["waited", "ended"]


async def test_a_denied_publish_fails_with_the_reason() -> None:
    login = Credentials(user="starter", password="secret")
    with LocalServer(sync_always=False, extra_config=USERS) as server:
        async with Connection.open(
            server.url, credentials=login, inbox_prefix="_INBOX_starter"
        ) as connection:
            async with soon():
                with pytest.raises(PermissionDeniedError, match=r"publish to Forbidden\.Subject"):
                    await connection.call("Forbidden.Subject", timeout=60)
            denied: list[str] = []
            connection.on_denied.append(lambda subject, _: denied.append(subject))
            reply = await answer_of(connection, "Forbidden.Too")
            assert reply is not None
            assert (reply.status, reply.no_responders) == (403, False)
            assert denied == ["forbidden.too"]
            allowed = await answer_of(connection, "allowed.one")
            assert allowed is not None
            assert allowed.no_responders
            subscription = await connection.subscribe("not.mine", lambda _: None)
            await until(lambda: subscription.denied is not None)


async def test_a_denied_inbox_is_told_at_once() -> None:
    login = Credentials(user="starter", password="secret")
    with LocalServer(sync_always=False, extra_config=USERS) as server:
        async with soon():
            with pytest.raises(PermissionDeniedError, match=r"subscribe to _INBOX\."):
                async with Connection.open(server.url, credentials=login, timeout=60):
                    pytest.fail("opened")


async def test_a_refused_login_is_final_and_shows_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with LocalServer(sync_always=False, extra_config=USERS) as server:
        url = server.url.replace("//", "//all:hunter2@")
        async with soon():
            with pytest.raises(PermissionDeniedError) as caught:
                async with Connection.open(url, timeout=60):
                    pytest.fail("opened")
        assert "//***@127.0.0.1" in str(caught.value)
        async with Connection.open(server.url.replace("//", "//all:secret@")) as connection:
            assert "secret" not in repr(connection)
    assert "hunter2" not in caplog.text + str(caught.value)
    assert "hunter2" not in repr(Credentials(user="all", password="hunter2"))


async def test_no_server_there() -> None:
    with LocalServer() as server:
        url = server.url
    with pytest.raises(ServerUnavailableError, match="check that it runs"):
        async with Connection.open(url, timeout=0.5):
            pytest.fail("opened")
    with pytest.raises(ConfigurationError, match="cannot connect to"):
        async with Connection.open("nats://:x:y", timeout=0.5):
            pytest.fail("opened")


async def test_a_server_without_jetstream() -> None:
    config = "accounts { A { users: [ { user: a, password: a } ] } }"  # jetstream is not given to the account
    with LocalServer(sync_always=False, extra_config=config) as server:
        with pytest.raises(JetStreamDisabledError, match="-js"):
            async with Connection.open(server.url, credentials=Credentials(user="a", password="a")):
                pytest.fail("opened")


async def test_a_server_that_is_too_old(nats_server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_version, "OLDEST_SERVER", (99, 1))
    with pytest.raises(ServerTooOldError, match=r"is 2\.\d+\.\d+, needed is nats-server 99\.1.*upgrade"):
        async with Connection.open(nats_server.url):
            pytest.fail("opened")


async def test_a_new_server_in_a_cluster_led_by_an_old_one(
    nats_server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_version, "OLDEST_API_LEVEL", 99)
    with pytest.raises(
        ServerTooOldError, match=r"JetStream of its cluster has API level \d \(needed is 99\)"
    ):
        async with Connection.open(nats_server.url):
            pytest.fail("opened")


@asynccontextmanager
async def impostor(version: str, level: int | None) -> AsyncGenerator[str]:
    """A server that says what it is and answers `$JS.API.INFO`, and nothing else."""
    info = {"server_id": "x", "version": version, "max_payload": 1_000_000, "proto": 1, "headers": True}
    body = json.dumps({"type": "x", "api": {} if level is None else {"level": level}}).encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO " + json.dumps(info).encode() + b"\r\n")
        sids: dict[bytes, bytes] = {}
        while line := (await reader.readline()).split():
            if line[0] == b"PING":
                writer.write(b"PONG\r\n")
            elif line[0] == b"SUB":
                sids[line[1].removesuffix(b"*")] = line[-1]
            elif line[0] in (b"PUB", b"HPUB"):
                await reader.readexactly(int(line[-1]) + 2)
                reply = line[2]
                [sid] = [sid for prefix, sid in sids.items() if reply.startswith(prefix)]
                writer.write(b"MSG %s %s %d\r\n%s\r\n" % (reply, sid, len(body), body))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@pytest.mark.parametrize(
    ("version", "level", "fits"),
    [
        ("2.14.0", 4, True),
        ("2.14.0-RC.1", 4, True),
        ("v2.15.1-dev", 5, True),
        ("3.0.0", 9, True),
        ("2.15", 5, True),
        ("", 4, True),
        ("main-3f2a", 5, True),
        ("2.12.8", 3, False),
        ("v2.13.99-dev", 3, False),
        ("1.4", None, False),
        ("2.15.1", 3, False),  # the leader of its cluster is older
        ("2.15.1", None, False),
        ("", 3, False),
        ("main-3f2a", None, False),
        ("999999999999.1", 3, False),
    ],
)
async def test_versions_as_servers_spell_them(version: str, level: int | None, fits: bool) -> None:
    async with impostor(version, level) as url, soon():
        if fits:
            async with Connection.open(url) as connection:
                assert connection.server_version == version
        else:
            with pytest.raises(ServerTooOldError, match=r"needed is nats-server 2\.14\.0 or later: upgrade"):
                async with Connection.open(url):
                    pytest.fail("opened")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://h:1", "nats://h:1"),
        ("nats://u:p@h:1", "nats://***@h:1"),
        ("nats://u:p@ss@h:1,tls://token@k", "nats://***@h:1,tls://***@k"),
        ("u:p@h", "***@h"),
    ],
)
def test_urls_are_shown_without_secrets(url: str, shown: str) -> None:
    assert redacted(url) == shown
