"""Reading a history as it grows: what is not there yet is looked for less and less often. No server."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from typing import Any

from romancy_nats.client.tail import Tail
from romancy_nats.core.commit import Commit
from romancy_nats.core.events import WorkflowCompleted
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.record import InstanceRecord
from romancy_nats.testing.memory import MemoryServer
from romancy_nats.testing.virtual_time import run

KEY = InstanceKey("order", "1")
HOUR = 3600.0


def test_an_owner_that_died_between_the_end_and_its_record_is_not_read_after_in_milliseconds() -> None:
    async def main() -> tuple[int, int]:
        world = MemoryServer(seed=1).world("reader")
        revision = await world.ledger.write(KEY, InstanceRecord(owner="died", commits=1), 0)
        assert isinstance(revision, int)
        ended = Commit("c", "died", revision, 1, (WorkflowCompleted(b"\xc0"),))
        answered = asyncio.Event()
        world.ledger.append(KEY, 0, 1, ended.encode(), revision, lambda _: answered.set())
        await answered.wait()
        reads, tail = 0, Tail(world, KEY)
        read: Any = world.ledger.read

        def counted(key: InstanceKey) -> Any:
            nonlocal reads
            reads += 1
            return read(key)

        world.ledger.read = counted  # type: ignore[method-assign]
        async with aclosing(tail.items()) as items:
            with suppress(TimeoutError):
                async with asyncio.timeout(HOUR):
                    async for _ in items:
                        pass
        return tail.seen, reads

    seen, reads = run(main, seed=1)
    assert seen == 1
    assert reads < HOUR / 10
