# pyright: reportPrivateUsage=false
"""What goes wrong around one instance, one message or one loop of a worker stays there, and nothing is lost by it."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from romancy_nats import Client, InstanceStatus, WorkflowContext, WorkflowStalledError, activity, workflow
from romancy_nats.core.headers import CHANNEL, ORDER, SENDER
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.messages.envelope import Message
from romancy_nats.core.record import InstanceRecord
from romancy_nats.errors import PermissionDeniedError
from romancy_nats.ports import QueueKind, Refusal, Refused, WriteReply
from romancy_nats.runtime import host as host_module
from romancy_nats.runtime import rest as rest_module
from romancy_nats.runtime.engine import Engine
from romancy_nats.runtime.generations import next_generation
from romancy_nats.runtime.instance import Instance
from romancy_nats.runtime.stalls import Stalls
from romancy_nats.runtime.sweeper import OwnWake
from romancy_nats.runtime.tuning import Tuning
from romancy_nats.testing.memory import MemoryServer, MemoryWorld
from romancy_nats.testing.virtual_time import run

TUNING = Tuning(lease_ttl=3.0, ack_wait=4.0, forward_timeout=2.0, sweep_every=5.0, grace=1.0)


@activity
async def slow(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "done"


@workflow
async def hears(ctx: WorkflowContext, words: int) -> list[str]:
    """Is owned all the while, since an activity is at work, and hears."""
    work = asyncio.create_task(ctx.run(slow, 30.0))
    heard = [(await ctx.receive("words")).data for _ in range(words)]
    return [*heard, await work]


@workflow
async def counts(ctx: WorkflowContext, left: int) -> str:
    await ctx.run(slow, 0.1)
    if left:
        ctx.recur(left - 1)
    return "counted"


class Ledger:
    """A ledger whose appends `refuses` answers first."""

    def __init__(self, inner: Any, refuses: Callable[[InstanceKey, int, bytes], Refused | None]) -> None:
        self._inner = inner
        self._refuses = refuses

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def append(
        self,
        key: InstanceKey,
        generation: int,
        n: int,
        data: bytes,
        fence: int,
        done: Callable[[WriteReply], None],
    ) -> None:
        refused = self._refuses(key, generation, data)
        if refused is not None:
            asyncio.get_running_loop().call_later(0.01, done, refused)
        else:
            self._inner.append(key, generation, n, data, fence, done)


def never(key: InstanceKey, generation: int, data: bytes) -> Refused | None:
    return None


class Place:
    """A server with some workers."""

    def __init__(self) -> None:
        self.server = MemoryServer(seed=1, ack_wait=TUNING.ack_wait)
        self.client = Client(self.server.world("client"))

    @asynccontextmanager
    async def worker(
        self,
        name: str,
        refuses: Callable[[InstanceKey, int, bytes], Refused | None] = never,
        change: Callable[[MemoryWorld], MemoryWorld] = lambda world: world,
    ) -> AsyncGenerator[Engine]:
        """One worker, drained at the end."""
        world = self.server.world(name)
        await world.ensure_consumers({hears.name: None, counts.name: None})
        world = change(replace(world, ledger=Ledger(world.ledger, refuses)))  # type: ignore[arg-type]
        engine = Engine(world, [hears, counts], TUNING)
        running = asyncio.create_task(engine.run())
        try:
            await engine.ready.wait()
            yield engine
        finally:
            if not running.done():
                await engine.drain()
            await running

    def record(self, key: InstanceKey) -> InstanceRecord:
        shard = self.server.shards[key.shard(len(self.server.shards))]
        versions = shard.records.get(key.token)
        return InstanceRecord.decode(versions[-1].data) if versions else InstanceRecord(owner="nobody yet")

    async def until(self, there: Callable[[], bool], most: float = 300.0) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + most
        while not there():
            assert loop.time() < end, "it never came to that"
            await asyncio.sleep(0.1)


def played(main: Callable[[Place], Awaitable[None]]) -> None:
    async def whole() -> None:
        await main(Place())

    run(whole)


# --- messages


class OthersPull:
    """The queues of a worker that gets no message by itself."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def pull(self, kind: QueueKind, workflow: str, most: int) -> Any:
        if kind is QueueKind.MESSAGE:
            await asyncio.sleep(float("inf"))
        return await self._inner.pull(kind, workflow, most)


def test_a_message_that_no_commit_holds_is_never_acked() -> None:
    """The commit with it is refused as too large: it was seen, and yet whoever forwarded it must not ack it."""

    async def main(place: Place) -> None:
        small = True

        def refuses(key: InstanceKey, generation: int, data: bytes) -> Refused | None:
            return Refused(Refusal.TOO_LARGE, "a small server") if small and b"precious" in data else None

        def change(world: MemoryWorld) -> MemoryWorld:
            return replace(world, queues=OthersPull(world.queues))  # type: ignore[arg-type]

        async with place.worker("owner", refuses, change):
            handle = await place.client.start(hears.options(id="x"), 1)
            await asyncio.sleep(1)
            async with place.worker("another", refuses):
                await handle.send("words", "precious", message_id="m")
                key = InstanceKey(hears.name, "x")
                await place.until(lambda: place.record(key).status is InstanceStatus.STALLED)
                await asyncio.sleep(5)  # the forward is answered
                assert len(place.server.messages_stream.messages) == 1, "the message is lost"
                small = False
                assert await handle.retry()
                assert await handle.result(300) == ["precious", "done"]

    played(main)


@pytest.mark.parametrize("order", ["9" * 30, str(2**64), "-" + "9" * 30])
@pytest.mark.parametrize("resting", [False, True])
def test_a_message_that_cannot_be_recorded_is_parked_and_harms_nobody(order: str, resting: bool) -> None:
    async def main(place: Place) -> None:
        async with place.worker("a"):
            handle = await place.client.start(hears.options(id="x"), 1)
            await asyncio.sleep(40 if resting else 1)
            headers = {CHANNEL: "words", SENDER: "s", ORDER: order}
            world = place.server.world("outsider")
            await world.queues.send(Message(InstanceKey(hears.name, "x"), "message", b'"x"', "odd", headers))
            await place.until(lambda: len(place.server.dead_stream.messages) == 1)
            await handle.send("words", "after")
            assert await handle.result(300) == ["after", "done"]

    played(main)


def test_an_instance_goes_on_that_was_claimed_for_a_message_that_breaks_our_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main(place: Place) -> None:
        async with place.worker("a") as engine:
            handle = await place.client.start(hears.options(id="x"), 1)
            await place.until(lambda: place.record(InstanceKey(hears.name, "x")).owner == "", 100)
            engine.host.asleep.clear()
            real, broken = engine._messages._take, 1

            def take(*args: Any, **kwargs: Any) -> None:
                nonlocal broken
                if broken:
                    broken -= 1
                    raise ZeroDivisionError("a defect of our own")
                real(*args, **kwargs)

            monkeypatch.setattr(engine._messages, "_take", take)
            await handle.send("words", "hello")
            await asyncio.sleep(2)
            key = InstanceKey(hears.name, "x")
            assert key not in engine.host.instances, "it neither goes on nor rests"
            assert await handle.result(300) == ["hello", "done"]

    played(main)


# --- instances


def test_an_instance_is_taken_up_again_whose_memory_was_dropped_without_a_message() -> None:
    """In a later generation all messages are acked: nothing that it held comes again, and its owner lives."""

    async def main(place: Place) -> None:
        refusals = 1

        def refuses(key: InstanceKey, generation: int, data: bytes) -> Refused | None:
            nonlocal refusals
            if generation == 1 and b"done" in data and refusals:
                refusals -= 1
                return Refused(Refusal.OTHER, "the disk is full")
            return None

        async with place.worker("a", refuses):
            handle = await place.client.start(counts.options(id="x"), 2)
            assert await handle.result(120) == "counted"
            assert not refusals

    played(main)


def test_a_generation_that_cannot_begin_stalls_its_instance_and_can_be_healed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main(place: Place) -> None:
        tries = 0

        def broken(engine: Any, instance: Instance, ending: Any) -> None:
            nonlocal tries
            tries += 1
            raise ZeroDivisionError("a defect of our own")

        monkeypatch.setattr(host_module, "next_generation", broken)
        async with place.worker("a"):
            handle = await place.client.start(counts.options(id="x"), 1)
            with pytest.raises(WorkflowStalledError, match="ZeroDivisionError"):
                await handle.result(100)
            await asyncio.sleep(60)
            assert tries < 5, "it is tried again and again"
            monkeypatch.setattr(host_module, "next_generation", next_generation)
            assert await handle.retry()
            assert await handle.result(100) == "counted"

    played(main)


class OddError(BaseException):
    """Not even an Exception."""


def test_one_that_breaks_before_its_first_commit_is_not_tried_in_a_hot_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main(place: Place) -> None:
        tries, real = 0, Instance._step

        def broken(self: Instance, *args: Any) -> bool:
            nonlocal tries
            tries += 1
            raise OddError

        monkeypatch.setattr(Instance, "_step", broken)
        async with place.worker("a"):
            handle = await place.client.start(counts.options(id="x"), 1)
            await asyncio.sleep(100)
            assert 1 < tries < 10
            monkeypatch.setattr(Instance, "_step", real)
            async with asyncio.timeout(100):
                while await handle.status() is not InstanceStatus.COMPLETED:
                    await asyncio.sleep(1)

    played(main)


def test_one_that_cannot_be_let_go_keeps_no_other_and_no_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(place: Place) -> None:
        real = rest_module.resting_record

        def broken(instance: Instance, *, let_go: bool = False) -> InstanceRecord:
            if instance.key.id == "bad" and let_go:
                raise OddError
            return real(instance, let_go=let_go)

        monkeypatch.setattr(rest_module, "resting_record", broken)
        async with place.worker("a"):
            for id in ("a", "bad", "c"):
                await place.client.start(hears.options(id=id), 1)
            await asyncio.sleep(1)
        assert not place.server.leases.keys, "the lease was not given back"
        for id in ("a", "c"):
            assert place.record(InstanceKey(hears.name, id)).owner == ""

    played(main)


# --- loops


def test_a_loop_that_returns_is_over(caplog: pytest.LogCaptureFixture) -> None:
    """A worker that may not look for starts of unknown workflows says so once, not every few seconds."""

    class Orphans:
        async def unclaimed(self) -> Any:
            raise PermissionDeniedError("not allowed")

    async def main(place: Place) -> None:
        def change(world: MemoryWorld) -> MemoryWorld:
            return replace(world, orphans=Orphans())  # type: ignore[arg-type]

        with caplog.at_level(logging.WARNING, "romancy.worker"):
            async with place.worker("a", change=change):
                await asyncio.sleep(300)

    played(main)
    assert len([r for r in caplog.records if "unknown workflows" in r.message]) == 1


def test_a_loop_that_breaks_over_its_cancellation_ends() -> None:
    async def main(place: Place) -> None:
        async with place.worker("a") as engine:
            begun = 0

            async def breaks() -> None:
                nonlocal begun
                begun += 1
                try:
                    await asyncio.sleep(1000)
                finally:
                    if begun == 1:
                        raise ZeroDivisionError("a defect of our own")

            assert engine.host._group is not None
            loop = engine.host._group.create_task(engine._again_and_again(breaks))
            engine._pulls.append(loop)
            await asyncio.sleep(1)
            draining = asyncio.create_task(engine.drain())
            await asyncio.sleep(100)
            loop.cancel()
            await draining
            assert begun == 1, "the drain waited for a loop that went on"

    played(main)


def test_what_is_cancelled_before_it_begins_warns_of_nothing() -> None:
    async def main(place: Place) -> None:
        async with place.worker("a") as engine:

            async def nothing() -> None: ...

            engine.host.spawn(nothing()).cancel()
            delivery = OwnWake(InstanceKey(hears.name, "x"), 0.0)
            engine.host.handle_soon(nothing(), delivery)
            for task in engine.host.handling:
                task.cancel()
            await asyncio.sleep(1)

    played(main)
    gc.collect()


# --- what is stalled


def test_the_pause_of_many_does_not_outlive_them() -> None:
    class Clock:
        at = 0.0

        def now(self) -> float:
            return self.at

        monotonic = now

    clock = Clock()
    stalls = Stalls(clock)
    for _ in range(100_000):
        assert 0.5 <= stalls.pause() <= 30.0
    clock.at += 31.0
    assert stalls.pause() == pytest.approx(0.5)
