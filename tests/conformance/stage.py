"""What a conformance scenario plays on: two processes of one namespace, and time. Nothing of memory or JetStream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.record import InstanceRecord, InstanceStatus
from romancy_nats.ports import Delivery, QueueKind, Refusal, Refused, World, WriteReply

ACK_WAIT = 2.0


class QueueMaker(Protocol):
    async def __call__(self, max_concurrency: int | None) -> None: ...


@dataclass
class Stage:
    """`name` is unique: workflow names and ids are made of it, so scenarios can share a namespace."""

    first: World
    second: World
    name: str
    replicas: int
    max_payload: int
    make_queues: QueueMaker
    tasks: list[asyncio.Task[Any]] = field(default_factory=list[asyncio.Task[Any]])

    @property
    def workflow(self) -> str:
        return self.name

    def key(self, id: str = "a") -> InstanceKey:
        return InstanceKey(self.name, id)

    async def append(
        self, world: World, key: InstanceKey, n: int, data: bytes, fence: int, generation: int = 0
    ) -> WriteReply:
        return await self.append_now(world, key, n, data, fence, generation)

    def append_now(
        self, world: World, key: InstanceKey, n: int, data: bytes, fence: int, generation: int = 0
    ) -> asyncio.Future[WriteReply]:
        """Begun before it is awaited."""
        answered: asyncio.Future[WriteReply] = asyncio.get_running_loop().create_future()
        world.ledger.append(key, generation, n, data, fence, answered.set_result)
        return answered

    async def pull(
        self, world: World, kind: QueueKind, most: int = 10, within: float = 1.0
    ) -> Sequence[Delivery]:
        """What comes within that time; a pull that is given up loses nothing."""
        try:
            async with asyncio.timeout(within):
                return await world.queues.pull(kind, self.workflow, most)
        except TimeoutError:
            return []

    async def pull_one(self, world: World, kind: QueueKind, within: float = 5.0) -> Delivery:
        found = await self.pull(world, kind, 1, within)
        assert len(found) == 1, "expected a message"
        return found[0]

    async def until(self, condition: Callable[[], Awaitable[bool]], within: float = 10.0) -> float:
        """How long it took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not await condition():
            assert loop.time() - began < within, "it never came true"
            await asyncio.sleep(0.02)
        return loop.time() - began

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))

    async def clear(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def record(owner: str = "w1", commits: int = 0) -> InstanceRecord:
    return InstanceRecord(status=InstanceStatus.RUNNING, owner=owner, commits=commits)


def stored(reply: WriteReply) -> int:
    """The sequence of a write that must have been stored."""
    assert isinstance(reply, int), reply
    return reply


def why(reply: WriteReply) -> Refusal:
    """Why a write was refused, which it must have been."""
    assert isinstance(reply, Refused), reply
    return reply.why


Scenario = Callable[[Stage], Coroutine[Any, Any, None]]
Play = Callable[[Scenario], None]
