"""How much a janitor does at once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from romancy_nats.core.ids import InstanceKey
from romancy_nats.ports import World
from romancy_nats.runtime import janitor as janitor_module
from romancy_nats.runtime.janitor import Janitor
from romancy_nats.runtime.tuning import Tuning

pytestmark = pytest.mark.anyio

AFTER = 30.0


class _Busy(Janitor):
    """Never done with an instance before it is told."""

    def __init__(self) -> None:
        self.now = 0.0
        clock = SimpleNamespace(monotonic=lambda: self.now)
        super().__init__(cast("World", SimpleNamespace(clock=clock)), Tuning(archive_after=AFTER))
        self.at_once = 0
        self.done = asyncio.Event()

    async def tidy(self, key: InstanceKey) -> None:
        self.at_once += 1
        await self.done.wait()


@pytest.mark.parametrize(
    ("late", "at_once"),
    [
        (-1.0, 0),
        (0.0, janitor_module._AT_ONCE),
        (2.0, 3 * janitor_module._AT_ONCE),
        (1e6, janitor_module._MOST_AT_ONCE),
    ],
)
async def test_the_later_it_is_the_more_it_does_at_once(late: float, at_once: int) -> None:
    busy = _Busy()
    for n in range(1000):
        busy.ended(InstanceKey("w", f"i-{n}"))
    busy.now = AFTER + late
    running = asyncio.ensure_future(busy.run())
    for _ in range(5):
        await asyncio.sleep(0)
    assert busy.at_once == at_once
    running.cancel()
    await asyncio.wait([running])
