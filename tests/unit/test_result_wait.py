"""How a client waits for a result: a hint may come before the record that it announces. No server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from romancy_nats.client.client import Client
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.record import InstanceRecord, InstanceStatus
from romancy_nats.errors import ConfigurationError, WorkflowCancelledError
from romancy_nats.jetstream.world import SystemChance
from romancy_nats.ports import Held

pytestmark = pytest.mark.anyio


class SlowDisk:
    """The hint of the last commit comes at once, the resting record `slow` seconds later, and no other hint."""

    def __init__(self, slow: float) -> None:
        self._slow = slow
        self._record = InstanceRecord()

    async def read(self, key: InstanceKey) -> Held:
        return Held(self._record, 1)

    async def follow(
        self, key: InstanceKey, heard: Callable[[int, int], None]
    ) -> Callable[[], Awaitable[None]]:
        loop = asyncio.get_running_loop()
        loop.call_soon(heard, 0, 1)
        loop.call_later(self._slow, self._rest)

        async def unfollow() -> None: ...

        return unfollow

    def _rest(self) -> None:
        self._record = InstanceRecord(status=InstanceStatus.CANCELLED, error="why")


async def test_a_record_slower_than_its_hint_is_not_waited_for_in_seconds() -> None:
    disk = SlowDisk(0.05)
    world = SimpleNamespace(ledger=disk, wire=disk, chance=SystemChance(), patience=None)
    handle = Client(cast("Any", world)).get("an id", "order")
    with pytest.raises(WorkflowCancelledError):
        await handle.result(timeout=1.0)


@pytest.mark.parametrize(
    "timeout", [10**400, 1e308, timedelta.max, timedelta(seconds=5), float("inf")], ids=repr
)
async def test_a_timeout_is_any_duration(timeout: Any) -> None:
    disk = SlowDisk(0.01)
    world = SimpleNamespace(ledger=disk, wire=disk, chance=SystemChance(), patience=None)
    handle = Client(cast("Any", world)).get("an id", "order")
    with pytest.raises(WorkflowCancelledError):
        await handle.result(timeout=timeout)


@pytest.mark.parametrize("timeout", [float("nan"), "5", object(), []], ids=["nan", "text", "object", "list"])
async def test_what_is_no_duration_is_refused(timeout: Any) -> None:
    disk = SlowDisk(0.01)
    world = SimpleNamespace(ledger=disk, wire=disk, chance=SystemChance(), patience=None)
    handle = Client(cast("Any", world)).get("an id", "order")
    with pytest.raises(ConfigurationError, match=r"the timeout of result\(\)"):
        await handle.result(timeout=timeout)
