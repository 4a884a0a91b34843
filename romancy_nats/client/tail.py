"""Follows the history of an instance as it grows, from its first commit on. Reads only."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

from romancy_nats.core.commit import Commit
from romancy_nats.core.events import Ending
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.messages.announcement import Progress, read_progress
from romancy_nats.core.record import InstanceRecord
from romancy_nats.ports import World
from romancy_nats.storage.backoff import until_answered
from romancy_nats.storage.histories import read_commits, recorded
from romancy_nats.storage.records import read_record

_FIRST_LOOK = 1.0
_LONGEST_PAUSE = 15.0
_AT_ITS_END = 0.005
_MOST_PROGRESS = 10_000


class Tail:
    """The commits of an instance, and announcements between them; `record` is the last one read."""

    def __init__(self, world: World, key: InstanceKey) -> None:
        self._world = world
        self._key = key
        self._changed = asyncio.Event()
        self._progress: deque[Progress] = deque(maxlen=_MOST_PROGRESS)
        self._generation: int = 0
        self._look = True
        self.seen = 0
        self.record: InstanceRecord | None = None

    @property
    def over(self) -> bool:
        """Whether the instance had ended when its record was read last."""
        return self.record is not None and self.record.status.ended

    async def items(self, *, progress: bool = False) -> AsyncGenerator[Commit | Progress | None]:
        """Each commit from the first on, without end, and with `progress` each announcement.

        None says that there is nothing new just now: `record` is up to date.
        """
        world, announced = self._world, self._announced if progress else None
        unfollow = await until_answered(
            world, lambda: world.wire.follow(self._key, self._committed, announced)
        )
        pause = _FIRST_LOOK
        try:
            while True:
                self._changed.clear()
                if self._look:
                    self._look = False
                    async for commit in self._new_commits():
                        # The record follows the last commit by one write; by a takeover, when the owner died between.
                        pause = _AT_ITS_END if isinstance(commit.events[-1], Ending) else _FIRST_LOOK
                        yield commit
                while self._progress:
                    yield self._progress.popleft()
                yield None
                await self._pause(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
        finally:
            await unfollow()

    async def _new_commits(self) -> AsyncGenerator[Commit]:
        held = await read_record(self._world, self._key)
        if held is None:
            return
        record = self.record = held.record
        if record.generation != self._generation:
            left = await read_commits(self._world, self._key, self._generation, self.seen + 1)
            for commit in map(Commit.decode, left if self.seen else ()):
                yield commit
            self._generation, self.seen = record.generation, 0
        for commit in await recorded(self._world, self._key, record, self.seen + 1):
            self.seen += 1
            yield commit

    def _committed(self, _generation: int, _n: int) -> None:
        self._look = True
        self._changed.set()

    def _announced(self, data: bytes) -> None:
        found = read_progress(data)
        if found is not None:
            self._progress.append(found)
            self._changed.set()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            self._look = True
