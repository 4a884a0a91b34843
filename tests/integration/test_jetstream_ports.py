"""Every port on a real server: what is refused, what is unknown, what comes back. The engine is not in here."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import anyio
import pytest

from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.messages.envelope import Message
from romancy_nats.core.record import InstanceRecord, InstanceStatus
from romancy_nats.errors import ServerUnavailableError
from romancy_nats.jetstream import ledger as ledger_module
from romancy_nats.jetstream import writes
from romancy_nats.jetstream.api import ask
from romancy_nats.jetstream.connect_options import ConnectOptions
from romancy_nats.jetstream.server import LocalServer
from romancy_nats.jetstream.world import JetStreamWorld, open_world
from romancy_nats.ports import DeadLetter, Delivery, QueueKind, Refusal, Refused, Source, WriteReply

pytestmark = pytest.mark.anyio

NAMESPACE = f"t{secrets.token_hex(4)}"
ODD = 'order. *>=%:\t"é'


@pytest.fixture
async def world(nats_server: LocalServer) -> AsyncIterator[JetStreamWorld]:
    async with open_world(
        ConnectOptions(nats_server.url, namespace=NAMESPACE, shards=3, lease_ttl=4.0)
    ) as opened:
        yield opened


def fresh(workflow: str = "order") -> InstanceKey:
    return InstanceKey(workflow, secrets.token_hex(6))


def why(reply: WriteReply) -> Refusal:
    assert isinstance(reply, Refused), reply
    return reply.why


async def append(
    world: JetStreamWorld, key: InstanceKey, n: int, data: bytes, fence: int, generation: int = 0
) -> WriteReply:
    future: asyncio.Future[WriteReply] = asyncio.get_running_loop().create_future()
    world.ledger.append(key, generation, n, data, fence, future.set_result)
    return await future


async def claim(world: JetStreamWorld, key: InstanceKey, expected: int = 0, owner: str = "w") -> int:
    revision = await world.ledger.write(key, InstanceRecord(owner=owner), expected)
    assert isinstance(revision, int), revision
    return revision


async def eventually(happened: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not happened():
            await asyncio.sleep(0.005)


async def pull(world: JetStreamWorld, kind: QueueKind, workflow: str, count: int) -> list[Delivery]:
    taken: list[Delivery] = []
    with anyio.fail_after(10):
        while len(taken) < count:
            taken += await world.queues.pull(kind, workflow, count - len(taken))
    return taken


class TestLedger:
    async def test_a_record_is_created_once_and_replaced_by_its_revision(self, world: JetStreamWorld) -> None:
        key = fresh()
        assert await world.ledger.read(key) is None
        first = await claim(world, key, owner="a")
        assert why(await world.ledger.write(key, InstanceRecord(), 0)) is Refusal.STALE
        second = await claim(world, key, first, owner="b")
        assert why(await world.ledger.write(key, InstanceRecord(), first)) is Refusal.STALE
        held = await world.ledger.read(key)
        assert held is not None
        assert (held.record.owner, held.revision) == ("b", second)

    async def test_only_the_owner_commits_and_each_number_once(self, world: JetStreamWorld) -> None:
        key = fresh(ODD)
        first = await claim(world, key)
        assert isinstance(await append(world, key, 0, b"zero", first), int)
        assert why(await append(world, key, 0, b"other", first)) is Refusal.EXISTS
        second = await claim(world, key, first, owner="b")
        assert why(await append(world, key, 1, b"late", first)) is Refusal.STALE
        assert isinstance(await append(world, key, 1, b"one", second), int)
        assert isinstance(await append(world, key, 0, b"next", second, generation=1), int)
        assert await world.ledger.read_history(key, 0, 0, 100) == [b"zero", b"one"]
        assert await world.ledger.read_commit(key, 0, 1) == b"one"
        assert await world.ledger.read_commit(key, 1, 0) == b"next"
        assert await world.ledger.read_commit(key, 0, 2) is None
        held = await world.ledger.read(key)
        assert held is not None
        assert held.revision == second  # commits do not move it

    async def test_a_commit_without_a_record_is_refused(self, world: JetStreamWorld) -> None:
        assert why(await append(world, fresh(), 0, b"", 17)) is Refusal.STALE

    async def test_too_much_is_refused_before_it_costs_the_connection(self, world: JetStreamWorld) -> None:
        key = fresh()
        fence = await claim(world, key)
        limit = world.connection.max_payload
        for size in (limit + 1, limit, limit - 20):
            assert why(await append(world, key, 0, b"x" * size, fence)) is Refusal.TOO_LARGE
        record = InstanceRecord(result="x" * limit)
        assert why(await world.ledger.write(key, record, fence)) is Refusal.TOO_LARGE
        assert isinstance(await append(world, key, 0, b"x" * (limit - 300), fence), int)

    async def test_the_longest_names_fit(self, world: JetStreamWorld) -> None:
        key = InstanceKey("é" * 128, "ü" * 120 + secrets.token_hex(4))
        fence = await claim(world, key)
        assert isinstance(await append(world, key, 0, b"zero", fence), int)
        assert await world.ledger.read_history(key, 0, 0, 10) == [b"zero"]
        assert [one.key async for one in world.ledger.scan(id=key.id)] == [key]

    async def test_a_long_history_is_read_in_order_and_to_a_gap(self, world: JetStreamWorld) -> None:
        key = fresh()
        fence = await claim(world, key)
        commits = [b"%d " % n * (n % 50) for n in range(1300)]
        # One at a time, as the engine does: R3 refuses a commit while another under the same fence is in flight.
        for n, data in enumerate(commits):
            assert isinstance(await append(world, key, n, data, fence), int)
        assert isinstance(await append(world, key, 1302, b"behind a gap", fence), int)
        assert await world.ledger.read_history(key, 0, 0, 10_000) == commits
        assert await world.ledger.read_history(key, 0, 1290, 5) == commits[1290:1295]
        assert await world.ledger.read_history(key, 0, 1300, 5) == []

    async def test_large_commits_are_read_in_small_helpings(self, world: JetStreamWorld) -> None:
        key = fresh()
        fence = await claim(world, key)
        for n in range(40):
            assert isinstance(await append(world, key, n, bytes([n]) * 700_000, fence), int)
        history = await world.ledger.read_history(key, 0, 0, 100)
        assert [(data[0], len(data)) for data in history] == [(n, 700_000) for n in range(40)]

    async def test_a_deleted_record_is_absent_and_may_be_created_again(self, world: JetStreamWorld) -> None:
        key = fresh()
        await claim(world, key)
        subject = world.topology.subjects.record(key.shard(3), key)
        purge = {"KV-Operation": "PURGE", "Nats-Rollup": "sub", "Nats-TTL": "3600s"}
        assert "seq" in (await world.connection.call(subject, b"", purge)).json()
        assert await world.ledger.read(key) is None
        assert [one async for one in world.ledger.scan(id=key.id)] == []
        again = await claim(world, key)
        assert isinstance(await append(world, key, 0, b"zero", again), int)
        assert why(await world.ledger.write(key, InstanceRecord(), 0)) is Refusal.STALE

    async def test_scan_lists_records_of_all_of_a_workflow_or_of_an_id(
        self, world: JetStreamWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ledger_module, "SCAN_PAGE", 7)
        one, other = f"scan{secrets.token_hex(4)}", f"scan {secrets.token_hex(4)}"
        keys = [InstanceKey(workflow, str(n)) for workflow in (one, other) for n in range(60)]
        revisions = await asyncio.gather(*(claim(world, key, owner=key.id) for key in keys))
        listed = [line async for line in world.ledger.scan(other)]
        assert {line.key for line in listed} == set(keys[60:])
        assert len(listed) == 60
        assert all(line.record.owner == line.key.id for line in listed)
        assert {line.revision for line in listed} == set(revisions[60:])
        both = {line.key async for line in world.ledger.scan(id="17")}
        assert both >= {InstanceKey(one, "17"), InstanceKey(other, "17")}
        assert [line.key async for line in world.ledger.scan(one, "17")] == [InstanceKey(one, "17")]
        assert [line async for line in world.ledger.scan(one, "nobody")] == []
        assert {line.key async for line in world.ledger.scan()} >= set(keys)

    async def test_a_record_nobody_can_read_does_not_hide_the_others(self, world: JetStreamWorld) -> None:
        good, bad = fresh("damaged"), fresh("damaged")
        await claim(world, good)
        await world.connection.call(world.topology.subjects.record(bad.shard(3), bad), b"not JSON")
        assert [line.key async for line in world.ledger.scan("damaged")] == [good]


class TestLeases:
    async def test_taken_renewed_released(self, world: JetStreamWorld) -> None:
        me = world.chance.id()
        assert not await world.leases.alive(me)
        first = await world.leases.take(me, 30.0, "here")
        assert isinstance(first, int)
        assert await world.leases.alive(me)
        assert why(await world.leases.take(me, 30.0, "here")) is Refusal.STALE
        second = await world.leases.renew(me, first, 30.0, "here")
        assert isinstance(second, int)
        assert second > first
        assert why(await world.leases.renew(me, first, 30.0, "here")) is Refusal.STALE
        await world.leases.release(me)
        assert not await world.leases.alive(me)
        assert why(await world.leases.renew(me, second, 30.0, "here")) is Refusal.STALE

    async def test_expiry_is_seen_and_never_early(self, world: JetStreamWorld) -> None:
        gone: list[str] = []
        me, other = world.chance.id(), world.chance.id()

        async def watch() -> None:
            async with aclosing(world.leases.deaths()) as deaths:
                async for one in deaths:
                    gone.append(one)  # noqa: PERF401 - each is looked at while others are awaited

        loop = asyncio.get_running_loop()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await asyncio.sleep(0)
            await world.connection.call("$JS.API.INFO")  # the subscription is known to the server
            taken = await world.leases.take(me, 1.5, "")
            assert isinstance(taken, int)
            assert isinstance(await world.leases.take(other, 30.0, ""), int)
            begun = loop.time()
            assert isinstance(await world.leases.renew(me, taken, 1.5, ""), int)
            await eventually(lambda: me in gone)
            assert loop.time() - begun >= 1.5
            await world.leases.release(other)
            await eventually(lambda: other in gone)
            tasks.cancel_scope.cancel()
        assert gone == [me, other]
        assert not await world.leases.alive(me)

    async def test_a_renewal_whose_answer_was_lost_is_not_stale(
        self, world: JetStreamWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        me = world.chance.id()
        first = await world.leases.take(me, 30.0, "")
        assert isinstance(first, int)
        request = world.connection.request

        def lose(
            subject: str, payload: bytes, headers: dict[str, str] | None, done: object, timeout: float
        ) -> None:
            request(subject, payload, headers, lambda _: done(None), timeout)  # type: ignore[operator]

        monkeypatch.setattr(world.connection, "request", lose)
        assert await world.leases.renew(me, first, 30.0, "") is None
        monkeypatch.undo()
        again = await world.leases.renew(me, first, 30.0, "")
        assert isinstance(again, int)
        assert isinstance(await world.leases.renew(me, again, 30.0, ""), int)


class TestQueues:
    async def test_starts_come_to_the_workers_of_their_workflow(self, world: JetStreamWorld) -> None:
        workflow = f"{ODD}{secrets.token_hex(4)}"
        await world.ensure_consumers({workflow: None})
        reply = await world.queues.start(
            workflow, b"{}", {"Romancy-Instance-Id": "o-1", "Nats-Msg-Id": workflow[-8:]}
        )
        assert isinstance(reply, int)
        assert await world.queues.start(workflow, b"{}", {"Nats-Msg-Id": workflow[-8:]}) == reply
        assert isinstance(await world.queues.start("nobody runs this", b"{}", {}), int)
        [one] = await pull(world, QueueKind.START, workflow, 1)
        assert one.source == Source(world.topology.subjects.start_stream, reply)
        assert (one.workflow, one.id, one.data, one.deliveries) == (workflow, "", b"{}", 1)
        assert one.headers["Romancy-Instance-Id"] == "o-1"
        assert abs(one.time - world.clock.now() * 1e6) < 60e6
        one.nak()
        [again] = await pull(world, QueueKind.START, workflow, 1)
        assert (again.source, again.deliveries) == (one.source, 2)
        found = await world.queues.waiting_start(InstanceKey(workflow, "o-1"))
        assert found is not None
        assert found.source == one.source
        again.ack()
        with anyio.fail_after(10):
            while await world.queues.fetch(one.source) is not None:
                await asyncio.sleep(0.005)
        assert await world.queues.waiting_start(InstanceKey(workflow, "o-1")) is None

    async def test_a_bare_start_from_outside_is_understood(self, world: JetStreamWorld) -> None:
        await world.ensure_consumers({"order_workflow": None})
        await world.connection.call(f"{NAMESPACE}.start.order_workflow", b'{"args": []}')
        await world.connection.call(f"{NAMESPACE}.start.order=zz", b"stays, and harms nobody")
        [one] = await pull(world, QueueKind.START, "order_workflow", 1)
        assert one.workflow == "order_workflow"
        one.ack()

    async def test_a_message_names_its_instance_and_can_be_fetched_by_its_place(
        self, world: JetStreamWorld
    ) -> None:
        key = fresh(f"m{secrets.token_hex(4)}")
        await world.ensure_consumers({key.workflow: 1})
        message = Message(key, "cancel", b"why", f"{key.token}/1", {"traceparent": "t"})
        reply = await world.queues.send(message)
        assert isinstance(reply, int)
        assert await world.queues.send(message) == reply
        source = Source(world.topology.subjects.messages_stream, reply)
        [one] = await pull(world, QueueKind.MESSAGE, key.workflow, 1)
        fetched = await world.queues.fetch(source)
        assert fetched is not None
        for delivery in (one, fetched):
            assert (delivery.source, delivery.workflow, delivery.id) == (source, key.workflow, key.id)
            assert delivery.data == b"why"
            assert delivery.headers["Romancy-Kind"] == "cancel"
            assert delivery.headers["Nats-Msg-Id"] == f"{key.token}:{key.token}/1"
            assert delivery.headers["traceparent"] == "t"
        assert one.time == fetched.time
        fetched.ack()
        one.ack()
        assert await world.queues.fetch(Source(source.stream, 10**9)) is None

    async def test_a_forward_may_not_name_any_stream(self, world: JetStreamWorld) -> None:
        key = fresh()
        revision = await claim(world, key)
        stream = world.topology.subjects.shard_stream(key.shard(3))
        assert await world.queues.fetch(Source(stream, revision)) is None

    async def test_a_subject_that_names_no_instance_has_an_empty_id(self, world: JetStreamWorld) -> None:
        workflow = f"m{secrets.token_hex(4)}"
        await world.ensure_consumers({workflow: None})
        await world.connection.call(f"{NAMESPACE}.message.{workflow}.a=zz", b"")
        [one] = await pull(world, QueueKind.MESSAGE, workflow, 1)
        assert (one.workflow, one.id) == (workflow, "")
        one.ack()

    async def test_max_concurrency_holds_starts_back_but_no_message(self, world: JetStreamWorld) -> None:
        key = fresh(f"m{secrets.token_hex(4)}")
        await world.ensure_consumers({key.workflow: 2})
        for _ in range(4):
            await world.queues.start(key.workflow, b"", {})
            await world.queues.send(Message(key, "cancel"))
        starts = await pull(world, QueueKind.START, key.workflow, 2)
        assert len(await pull(world, QueueKind.MESSAGE, key.workflow, 4)) == 4
        with anyio.move_on_after(0.3):
            starts += await world.queues.pull(QueueKind.START, key.workflow, 1)
        assert len(starts) == 2
        starts[0].ack()
        assert await pull(world, QueueKind.START, key.workflow, 1)

    async def test_a_letter_is_parked_once_with_its_reason(self, world: JetStreamWorld) -> None:
        headers = {"Nats-Msg-Id": "x", "Nats-Rollup": "all", "traceparent": "t"}
        sequence = secrets.randbelow(10**9)
        letter = DeadLetter("order", "no such\r\nthing", b"body", headers, Source("S", sequence))
        reply = await world.queues.park(letter)
        assert isinstance(reply, int)
        assert await world.queues.park(letter) == reply
        stream = world.topology.subjects.dead_stream
        found = (
            await world.connection.collect(f"$JS.API.DIRECT.GET.{stream}", b'{"batch":1,"seq":%d}' % reply)
        )[0]
        assert found.data == b"body"
        assert found.headers["Nats-Subject"] == f"{NAMESPACE}.dead.order"
        assert found.headers["Romancy-Reason"].split() == ["no", "such", "thing"]
        assert found.headers["Romancy-Origin-Stream"] == "S"
        assert found.headers["Romancy-Origin-Sequence"] == str(sequence)
        assert found.headers["Romancy-Origin-Msg-Id"] == "x"
        assert found.headers["traceparent"] == "t"
        assert "Nats-Rollup" not in found.headers

    async def test_a_letter_that_fills_a_message_is_parked_all_the_same(self, world: JetStreamWorld) -> None:
        data = b"x" * (world.connection.max_payload - 10)
        letter = DeadLetter("", "r" * 10_000, data, {}, Source("S", secrets.randbelow(10**9)))
        assert isinstance(await world.queues.park(letter), int)


class TestWire:
    async def test_a_worker_answers_and_nobody_else(self, world: JetStreamWorld) -> None:
        me = world.chance.id()
        assert await world.wire.ask(me, b"?", 5.0) is None

        async def answer(question: bytes) -> bytes:
            return question + b"!"

        stop = await world.wire.serve(me, answer)
        assert await world.wire.ask(me, b"who", 5.0) == b"who!"
        await stop()
        assert await world.wire.ask(me, b"who", 5.0) is None

    async def test_a_silent_worker_costs_the_timeout(self, world: JetStreamWorld) -> None:
        me = world.chance.id()

        async def answer(question: bytes) -> bytes:
            await asyncio.Event().wait()
            return question

        stop = await world.wire.serve(me, answer)
        with anyio.fail_after(3):
            assert await world.wire.ask(me, b"who", 0.2) is None
        await stop()

    async def test_notices_reach_their_inbox_and_nothing_else(self, world: JetStreamWorld) -> None:
        heard: list[bytes] = []
        forged: list[bytes] = []
        inbox, give_up = world.wire.expect(heard.append)
        spy = await world.connection.subscribe(f"{NAMESPACE}.>", lambda msg: forged.append(msg.data))
        for subject in (
            f"{NAMESPACE}.start.order",
            "$JS.API.STREAM.DELETE.X",
            "_INBOX.*",
            "_INBOX.>",
            "_INBOX",
            "",
        ):
            world.wire.notify(subject, b"forged")
        world.wire.notify(inbox, b"one")
        await eventually(lambda: bool(heard))
        give_up()
        world.wire.notify(inbox, b"two")
        await world.connection.call("$JS.API.INFO")
        spy.close()
        assert heard == [b"one"]
        assert forged == []

    async def test_a_follower_hears_each_commit(self, world: JetStreamWorld) -> None:
        key, other = fresh(ODD), fresh(ODD)
        seen: list[tuple[int, int]] = []
        stop = await world.wire.follow(key, lambda generation, n: seen.append((generation, n)))
        for one in (other, key):
            fence = await claim(world, one)
            await append(world, one, 0, b"x", fence)
            await append(world, one, 1, b"x", fence)
        await eventually(lambda: len(seen) == 2)
        await stop()
        assert seen == [(0, 0), (0, 1)]


@pytest.mark.slow
async def test_an_unanswered_write_is_unknown_and_reads_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writes, "TIMEOUT", 0.3)
    with LocalServer(sync_always=False) as server:
        async with open_world(ConnectOptions(server.url, shards=1)) as world:
            key = fresh()
            fence = await claim(world, key)
            server.kill()
            await eventually(lambda: not world.connection.connected)
            with anyio.fail_after(20):
                assert await append(world, key, 0, b"zero", fence) is None
                assert await world.ledger.write(key, InstanceRecord(), fence) is None
                with pytest.raises(ServerUnavailableError):
                    await world.ledger.read(key)
            server.restart()
            await world.connection.ready()
            assert isinstance(await append(world, key, 0, b"zero", fence), int)
            record = InstanceRecord(status=InstanceStatus.COMPLETED)
            assert isinstance(await world.ledger.write(key, record, fence), int)


async def test_a_stream_that_is_full_is_no_commit_that_exists(nats_server: LocalServer) -> None:
    async with open_world(
        ConnectOptions(nats_server.url, namespace=f"t{secrets.token_hex(4)}", shards=1)
    ) as world:
        key = fresh()
        fence = await claim(world, key)
        spec = world.topology.shard(0)
        assert (
            await ask(world.connection, f"STREAM.UPDATE.{spec.name}", {**spec.config, "max_msgs": 1})
        ).code == 0
        assert why(await append(world, key, 0, b"zero", fence)) is Refusal.OTHER
