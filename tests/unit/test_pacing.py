"""A worker with more starts than it can write for: it begins some, goes on with those, and takes the rest in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from romancy_nats import Client, WorkflowContext, activity, workflow
from romancy_nats.ports import WriteReply
from romancy_nats.runtime.engine import Engine
from romancy_nats.runtime.pace import MOST_UNANSWERED
from romancy_nats.runtime.tuning import Tuning
from romancy_nats.testing.memory import MemoryServer
from romancy_nats.testing.virtual_time import run

COUNT = 3 * MOST_UNANSWERED


@activity
async def long() -> None:
    await asyncio.sleep(600)


@workflow
async def waits(ctx: WorkflowContext) -> None:
    await ctx.run(long)


class SlowLedger:
    """Every commit is answered a second later."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.unanswered = 0
        self.most = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def append(self, *args: Any) -> None:
        *content, done = args
        self.unanswered += 1
        self.most = max(self.most, self.unanswered)
        self._inner.append(*content, lambda reply: _later(self._answer, done, reply))

    def _answer(self, done: Callable[[WriteReply], None], reply: WriteReply) -> None:
        self.unanswered -= 1
        done(reply)


def _later(call: Callable[..., None], *args: Any) -> None:
    asyncio.get_running_loop().call_later(1.0, call, *args)


def test_commits_under_way_are_bounded_and_long_activities_are_not() -> None:
    async def main() -> None:
        server = MemoryServer(seed=1)
        inner, plain = server.world("worker"), server.world("client")
        await inner.ensure_consumers({waits.name: None})
        ledger = SlowLedger(inner.ledger)
        engine = Engine(replace(inner, ledger=ledger), [waits], Tuning())
        async with asyncio.TaskGroup() as group:
            group.create_task(engine.run())
            await engine.ready.wait()
            client = Client(plain)
            handles = [await client.start(waits) for _ in range(COUNT)]
            async with asyncio.timeout(300):
                while len(engine.host.instances) < COUNT:
                    await asyncio.sleep(1)
            assert ledger.most <= MOST_UNANSWERED
            for handle in handles:
                await handle.result(1200)
            await engine.drain()

    run(main)
