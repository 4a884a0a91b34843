"""Moves ended instances out of the ledger, off the hot path and idempotently. Live ones are never touched."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice

from romancy_nats.core.ids import InstanceKey
from romancy_nats.errors import RomancyError, ServerUnavailableError
from romancy_nats.ports import Held, World
from romancy_nats.runtime.tuning import Tuning
from romancy_nats.storage.histories import read_commits
from romancy_nats.storage.records import read_record, write_record

_log = logging.getLogger("romancy.worker")
_MOST_REMEMBERED = 50_000
_AT_ONCE = 8
_MOST_AT_ONCE = 256
_LONG = 16
"""Commits from which on a history is long: those are held in memory a few at a time, however late it is."""
_PAUSE = 1.0
_TRIES = 8


class Janitor:
    """Archives what ended on this worker after a while; the sweep finds what a dead worker left behind."""

    def __init__(self, world: World, tuning: Tuning) -> None:
        self._world = world
        self._tuning = tuning
        self._ended: OrderedDict[InstanceKey, float] = OrderedDict()
        self._news = asyncio.Event()
        self._room_for_long = asyncio.Semaphore(_AT_ONCE)

    def ended(self, key: InstanceKey) -> None:
        """An instance has ended: its turn comes after `archive_after` seconds."""
        if len(self._ended) < _MOST_REMEMBERED and key not in self._ended:
            self._ended[key] = self._world.clock.monotonic() + self._tuning.archive_after
            self._news.set()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            if not self._ended:
                self._news.clear()
                await self._news.wait()
            now = self._world.clock.monotonic()
            batch = self._due(now)
            if not batch:
                await asyncio.sleep(_PAUSE)
                continue
            async with asyncio.TaskGroup() as group:
                for key in batch:
                    del self._ended[key]
                    group.create_task(self._tidy_guarded(key))

    def _due(self, now: float) -> list[InstanceKey]:
        # The later it is, the more at once: else, beside a busy worker, what has ended would pile up in the ledger.
        late = now - next(iter(self._ended.values()))
        most = min(_MOST_AT_ONCE, _AT_ONCE * (1 + max(0, int(late))))
        return [key for key, due in islice(self._ended.items(), most) if due <= now]

    async def _tidy_guarded(self, key: InstanceKey) -> None:
        try:
            await self.tidy(key)
        except ServerUnavailableError:
            self.ended(key)
        except RomancyError as error:
            _log.warning("%r could not be archived (%s); the sweep tries again", key, error)
        except Exception:  # noqa: BLE001 - a loop boundary: one instance is not the worker's affair
            _log.exception("%r could not be archived; the sweep tries again", key)

    async def clear(self, key: InstanceKey, generation: int) -> None:
        """Remove the commits of a generation that was followed by another; who loads or archives it does it again."""
        reason: object = "the server refused"
        for tries in range(_TRIES):
            try:
                if await self._world.archive.clear(key, generation):
                    return
            except RomancyError as error:
                reason = error
            await asyncio.sleep(_PAUSE * 2**tries)
        _log.warning("%r: the history of generation %d stays for now: %s", key, generation, reason)

    async def tidy(self, key: InstanceKey) -> None:
        """Archive, point to the archive, clear the ledger, seal the record: each step may be done again."""
        held = await read_record(self._world, key)
        if held is None or not held.record.status.ended or held.record.owner or held.record.sealed:
            return
        if held.record.commits and not held.record.archived:
            async with self._room_for_long if held.record.commits > _LONG else nullcontext():
                pointed = await self._copy(key, held)
            if pointed is None:
                return
            held = pointed
        # Those of earlier generations, too: whoever was to clear one may have died over it.
        if held.record.commits and not await self._world.archive.clear_before(key, held.revision):
            return
        sealed = replace(held.record, sealed=True)
        ttl = sealed.retention or self._tuning.retention
        await self._world.archive.seal(key, sealed, held.revision, ttl)

    async def _copy(self, key: InstanceKey, held: Held) -> Held | None:
        world, record = self._world, held.record
        # One more than there are: a history that the record does not know of is not to be cleared away.
        commits = await world.ledger.read_history(key, record.generation, 1, record.commits + 1)
        if len(commits) < record.commits:  # a replica that lags
            commits = await read_commits(world, key, record.generation)
        if len(commits) != record.commits:
            _log.error("%r: %d commits, the record says %d; left alone", key, len(commits), record.commits)
            return None
        places = await world.archive.store(key, record.generation, commits)
        if places is None:
            return None
        pointed = replace(record, archived=list(places))
        reply = await write_record(world, key, pointed, held.revision)
        return Held(pointed, reply) if isinstance(reply, int) else None
