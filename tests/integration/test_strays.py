"""Registrations that a late write left behind go with the first event that they hear."""

from __future__ import annotations

import asyncio

import pytest

from romancy_nats import WorkflowContext, workflow
from romancy_nats.client.client import session_of
from romancy_nats.core.ids import InstanceKey
from romancy_nats.jetstream.api import ask
from tests.integration.place import Place

pytestmark = pytest.mark.anyio


@workflow
async def short(ctx: WorkflowContext) -> int:
    return 1


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_stray_registration_goes(place: Place, key: str | None) -> None:
    async with place.run(short) as client:
        await client.execute(short.options(id="ended"))
        world = session_of(client).world
        for id in ("ended", "never there"):
            await world.events.register(InstanceKey("short", id), 0, "event:1", "news", key)
        await client.send_event("news", 1, key="k")
        name = f"STREAM.INFO.{place.namespace.upper()}_EVENTS"
        async with asyncio.timeout(10):
            while True:
                answer = await ask(world.connection, name)  # type: ignore[attr-defined]
                if answer.part("state")["messages"] == 1:  # the event itself
                    return
                await asyncio.sleep(0.05)
