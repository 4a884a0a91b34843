"""The pull loop against a real server: credit, cancellation, answers, and a server killed in the middle."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import anyio
import pytest

from romancy_nats.errors import PayloadError, PermissionDeniedError, StreamMissingError
from romancy_nats.jetstream.connection import Connection
from romancy_nats.jetstream.credentials import Credentials
from romancy_nats.jetstream.delivered import Delivered
from romancy_nats.jetstream.pull import Pull
from romancy_nats.jetstream.replies import Msg
from romancy_nats.jetstream.server import EmbeddedServer, LocalServer
from tests.integration.streams import consumer_state, make_consumer, make_stream, store

pytestmark = pytest.mark.anyio


@pytest.fixture
async def connection(nats_server: LocalServer) -> AsyncIterator[Connection]:
    async with Connection.open(nats_server.url) as opened:
        yield opened


async def take(pull: Pull, count: int) -> list[Delivered]:
    taken: list[Delivered] = []
    with anyio.fail_after(15):
        while len(taken) < count:
            taken += await pull.pull(count - len(taken))
    return taken


async def unacked(connection: Connection, stream: str) -> int:
    state = await consumer_state(connection, stream)
    return state["num_ack_pending"]


async def test_messages_come_in_order_with_all_that_is_known(connection: Connection) -> None:
    stream = await make_stream(connection)
    await make_consumer(connection, stream)
    before = time.time_ns()
    await connection.call(f"{stream}.m", b"first", {"Key": "value"})
    await store(connection, stream, "second")
    pull = Pull(connection, stream, "c")
    first, second = await take(pull, 2)
    assert (first.data, first.subject, dict(first.headers)) == (b"first", f"{stream}.m", {"Key": "value"})
    assert (first.stream, first.sequence, first.deliveries) == (stream, 1, 1)
    assert before <= first.time <= time.time_ns()
    assert (second.data, second.sequence, dict(second.headers)) == (b"second", 2, {})
    first.ack()
    await second.acked()
    assert await unacked(connection, stream) == 0
    await pull.close()


async def test_a_waiting_pull_gets_a_message_at_once(connection: Connection) -> None:
    stream = await make_stream(connection)
    await make_consumer(connection, stream)
    pull = Pull(connection, stream, "c")
    waiting = asyncio.create_task(pull.pull(5))
    while not (await consumer_state(connection, stream))["num_waiting"]:
        await asyncio.sleep(0.005)
    await store(connection, stream, "x")
    with anyio.fail_after(15):  # not when the pull expires, after 30 s
        (got,) = await waiting
    got.ack()
    await pull.close()


async def test_an_empty_queue_gives_nothing_after_a_while_and_can_be_pulled_again(
    connection: Connection,
) -> None:
    stream = await make_stream(connection)
    await make_consumer(connection, stream)
    pull = Pull(connection, stream, "c", expires=0.3)
    start = time.monotonic()
    assert await pull.pull(3) == []
    assert time.monotonic() - start > 0.25
    await store(connection, stream, "x")
    assert [got.data for got in await take(pull, 1)] == [b"x"]
    await pull.close()


async def test_credit_is_counted_and_the_next_pull_asks_only_for_the_rest(connection: Connection) -> None:
    stream = await make_stream(connection)
    await make_consumer(connection, stream)
    pull = Pull(connection, stream, "c")
    with anyio.move_on_after(0.1):
        await pull.pull(10)
    for _ in range(20):  # cancelled again and again: no new pulls at the server
        with anyio.move_on_after(0.001):
            await pull.pull(10)
    assert (await consumer_state(connection, stream))["num_waiting"] == 1
    await store(connection, stream, *[str(n) for n in range(25)])
    # The server counts what is pending a moment after it has stored it.
    while (state := await consumer_state(connection, stream))["num_pending"] < 15:
        await anyio.sleep(0.005)
    assert (state["num_ack_pending"], state["num_pending"]) == (10, 15)
    got = await take(pull, 25)
    assert [int(one.data) for one in got] == list(range(25))
    await pull.close()


async def test_a_cancelled_pull_loses_nothing(connection: Connection) -> None:
    stream = await make_stream(connection)
    await make_consumer(connection, stream)
    pull = Pull(connection, stream, "c")
    with anyio.move_on_after(0.05):
        await pull.pull(10)
    await store(connection, stream, "a", "b", "c")
    assert [one.data for one in await take(pull, 1)] == [b"a"]
    assert [(one.data, one.deliveries) for one in await take(pull, 2)] == [(b"b", 1), (b"c", 1)]
    await pull.close()


async def test_nak_and_in_progress(connection: Connection) -> None:
    stream = await make_stream(connection)
    await make_consumer(connection, stream, ack_wait=600_000_000)
    await store(connection, stream, "x")
    pull = Pull(connection, stream, "c")
    (first,) = await take(pull, 1)
    first.nak()
    (second,) = await take(pull, 1)
    assert second.deliveries == 2
    start = time.monotonic()
    second.nak(0.4)
    (third,) = await take(pull, 1)
    assert third.deliveries == 3
    assert time.monotonic() - start > 0.38
    for _ in range(6):  # 1.2 s, twice the ack wait
        third.in_progress()
        with anyio.move_on_after(0.2):
            assert await pull.pull(1) == []
    third.ack()
    with anyio.fail_after(5):  # acks and questions about them pass the server in no order
        while await unacked(connection, stream):
            await asyncio.sleep(0.005)
    await pull.close()


async def test_close_gives_back_what_is_buffered(connection: Connection) -> None:
    stream = await make_stream(connection)
    await make_consumer(connection, stream)
    pull = Pull(connection, stream, "c")
    with anyio.move_on_after(0.05):
        await pull.pull(3)
    await store(connection, stream, "a", "b", "c")
    with anyio.fail_after(5):
        while await unacked(connection, stream) < 3:
            await asyncio.sleep(0.005)
    await pull.close()
    assert await pull.pull(1) == []
    other = Pull(connection, stream, "c")
    with anyio.fail_after(15):  # not after the ack wait of 30 s
        got = await take(other, 3)
    assert sorted(one.data for one in got) == [b"a", b"b", b"c"]
    await other.close()
    assert connection.on_reconnect == []
    assert connection.on_denied == []


async def test_a_server_killed_in_the_middle_of_a_pull() -> None:
    async with EmbeddedServer() as server, Connection.open(server.url) as connection:
        # On a stream that keeps messages the server would forget acks of the last moments, answered or not.
        stream = await make_stream(connection, retention="workqueue")
        await make_consumer(connection, stream, ack_wait=1_000_000_000)
        await store(connection, stream, "a", "b")
        pull = Pull(connection, stream, "c")
        first, second = await take(pull, 2)
        await first.acked()
        waiting = asyncio.create_task(pull.pull(10))
        while not (await consumer_state(connection, stream))["num_waiting"]:
            await asyncio.sleep(0.005)
        server.kill()
        with anyio.fail_after(10):
            while connection.connected:
                await asyncio.sleep(0.005)
        second.ack()  # dropped: it comes again
        await server.restart()
        with anyio.fail_after(10):
            again = await waiting
        assert [(one.data, one.sequence) for one in again] == [(b"b", 2)]
        await again[0].acked()
        await store(connection, stream, "c")
        assert [one.data for one in await take(pull, 1)] == [b"c"]
        await pull.close()


async def test_missed_heartbeats_make_it_pull_again(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = await make_stream(connection)
    await make_consumer(connection, stream)
    await store(connection, stream, "x")
    lost: list[str] = []

    def lose(subject: str, payload: bytes, headers: dict[str, str] | None, reply: str) -> None:
        lost.append(subject)

    with monkeypatch.context() as patch:  # a pull that never reaches the server, or that it forgot
        patch.setattr(connection, "publish", lose)
        pull = Pull(connection, stream, "c", idle_heartbeat=0.1)
        with anyio.move_on_after(0.05):
            await pull.pull(1)
    assert lost == [f"$JS.API.CONSUMER.MSG.NEXT.{stream}.c"]
    with anyio.fail_after(5):
        assert [one.data for one in await pull.pull(1)] == [b"x"]
    await pull.close()


async def test_a_deleted_consumer_is_told(connection: Connection) -> None:
    stream = await make_stream(connection)
    await make_consumer(connection, stream)
    pull = Pull(connection, stream, "c")
    waiting = asyncio.create_task(pull.pull(1))
    while not (await consumer_state(connection, stream))["num_waiting"]:
        await asyncio.sleep(0.005)
    await connection.call(f"$JS.API.CONSUMER.DELETE.{stream}.c")
    with anyio.fail_after(5):
        with pytest.raises(StreamMissingError, match=stream):
            await waiting
        with pytest.raises(StreamMissingError, match=stream):  # nobody answers any more
            await pull.pull(1)
    await make_consumer(connection, stream)
    await store(connection, stream, "x")
    assert [one.data for one in await take(pull, 1)] == [b"x"]
    await pull.close()


async def test_a_denied_pull_fails_with_the_reason() -> None:
    config = """authorization { users: [
      { user: all, password: x }
      { user: weak, password: x, permissions: { publish: ["$JS.API.INFO"], subscribe: ["_INBOX.>"] } }
    ] }"""
    with LocalServer(sync_always=False, extra_config=config) as server:
        async with Connection.open(server.url, credentials=Credentials(user="all", password="x")) as admin:
            stream = await make_stream(admin)
            await make_consumer(admin, stream)
        async with Connection.open(
            server.url, credentials=Credentials(user="weak", password="x")
        ) as connection:
            pull = Pull(connection, stream, "c")
            with anyio.fail_after(5), pytest.raises(PermissionDeniedError, match="publish to"):
                await pull.pull(1)
            await pull.close()


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.STREAM.cons.3.17.9.1700000000000000001.5",
        "$JS.ACK._.ACCOUNT.STREAM.cons.3.17.9.1700000000000000001.5",
        "$JS.ACK.domain.ACCOUNT.STREAM.cons.3.17.9.1700000000000000001.5.random",
    ],
)
async def test_every_form_of_the_ack_subject_is_read(connection: Connection, reply: str) -> None:
    got = Delivered(connection, Msg("subject", reply, b"", None))
    assert (got.stream, got.deliveries, got.sequence, got.time) == ("STREAM", 3, 17, 1700000000000000001)


async def test_another_reply_subject_is_refused(connection: Connection) -> None:
    with pytest.raises(PayloadError):
        Delivered(connection, Msg("subject", "$JS.ACK.x", b"", None))
