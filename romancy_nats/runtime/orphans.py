"""Starts for workflows that no worker has: reported, kept, and after a long while parked. Runs beside the sweeper."""

from __future__ import annotations

import asyncio
import difflib
import logging
from collections.abc import Collection, Sequence

from romancy_nats.core.headers import derived_id, named_id
from romancy_nats.core.ids import MAX_NAME_CHARACTERS, InstanceKey
from romancy_nats.core.times import span
from romancy_nats.errors import InvalidNameError, PermissionDeniedError, RomancyError, StorageError
from romancy_nats.ports import DeadLetter, Delivery, Refused, Unclaimed, World
from romancy_nats.runtime.tuning import Tuning
from romancy_nats.storage.records import microseconds
from romancy_nats.storage.unclaimed import record_rejection

_log = logging.getLogger("romancy.worker")
_MOST_REPORTED = 20


class Orphans:
    """Every worker may run it: a letter is written once per start, and removing a start twice is harmless."""

    def __init__(self, world: World, tuning: Tuning, workflows: Collection[str]) -> None:
        """`workflows` are the names that this worker has."""
        self._world = world
        self._tuning = tuning
        self._workflows = workflows
        self._told: dict[str, int] = {}
        self._may_remove = True

    async def run(self) -> None:
        """Look now and then, until cancelled; spread out, so that workers do not look in step."""
        every = self._tuning.sweep_every
        while True:
            try:
                await self._look()
            except PermissionDeniedError as error:
                _log.warning("starts of unknown workflows are not watched by this worker: %s", error)
                return
            except RomancyError as error:
                _log.warning("a look for starts of unknown workflows was cut short (%s)", error)
            await asyncio.sleep(every * (0.5 + self._world.chance.number()))

    async def _look(self) -> None:
        found = await self._world.orphans.unclaimed()
        self._report(found)
        for unclaimed in found:
            await self._park_old(unclaimed)

    # --- reporting

    def _report(self, found: Sequence[Unclaimed]) -> None:
        news = [one for one in found if self._told.get(one.token) != one.starts]
        self._told = {one.token: one.starts for one in found}
        for one in news[:_MOST_REPORTED]:
            starts = "1 start waits" if one.starts == 1 else f"{one.starts} starts wait"
            _log.warning("%s for %s; %s", starts, self._reason(one), self._remedy())
        if len(news) > _MOST_REPORTED:
            _log.warning("starts wait for %d more workflows that no worker has", len(news) - _MOST_REPORTED)

    def _reason(self, one: Unclaimed) -> str:
        if not one.workflow:
            return f"{_short(one.token)!r}, which is no workflow name as it is spelled in a subject"
        near = difflib.get_close_matches(one.workflow[:MAX_NAME_CHARACTERS], self._workflows, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return f"workflow {_short(one.workflow)!r}, which no worker has{hint}"

    def _remedy(self) -> str:
        after = span(self._tuning.unknown_workflow_after)
        return f"start a worker with it, or send them to the right name; {after} after their arrival they are parked"

    # --- parking

    async def _park_old(self, one: Unclaimed) -> None:
        before = microseconds(self._world) - int(self._tuning.unknown_workflow_after * 1_000_000)
        while self._may_remove:
            delivery = await self._world.orphans.oldest(one.token, before)
            if delivery is None:
                return
            try:
                await self._park(one, delivery)
            except PermissionDeniedError as error:
                self._may_remove = False
                _log.warning(
                    "this worker cannot remove the starts that it parks, so it parks none: %s", error
                )

    async def _park(self, one: Unclaimed, delivery: Delivery) -> None:
        after = span(self._tuning.unknown_workflow_after)
        reason = f"no worker came for it within {after}: {self._reason(one)}"
        world, source = self._world, delivery.source
        workflow = _short(one.workflow or one.token)
        # In this order a crash in between repeats what is harmless to repeat, and loses nothing (L9).
        key = _key(one.workflow, delivery)
        id = "" if key is None else key.id
        letter = DeadLetter(workflow, reason, delivery.data, delivery.headers, source, id)
        if key is not None:
            await record_rejection(world, key, reason, delivery.time)
        reply = await world.queues.park(letter)
        if isinstance(reply, Refused):
            # The next look comes later; the same again would be refused again.
            raise StorageError(f"start {source.sequence} of {source.stream} cannot be parked: {reply.text}")
        if isinstance(reply, int):
            await world.orphans.remove(source)
            _log.warning("start %d of %s is parked: %s", source.sequence, source.stream, reason)
        else:
            await asyncio.sleep(1.0)


def _short(name: str) -> str:
    return name[:MAX_NAME_CHARACTERS]


def _key(workflow: str, delivery: Delivery) -> InstanceKey | None:
    try:
        id = named_id(delivery.headers) or derived_id(*delivery.source)
        return InstanceKey(workflow, id)
    except InvalidNameError:
        return None
