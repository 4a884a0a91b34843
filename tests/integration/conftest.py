"""Fixtures of the acceptance tests: a namespace of its own for each test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from romancy_nats.jetstream.connection import Connection
from romancy_nats.jetstream.server import LocalServer
from romancy_nats.jetstream.topology import Topology
from tests.integration.place import SHARDS, Place


@pytest.fixture
async def place(nats_server: LocalServer) -> AsyncGenerator[Place]:
    """A namespace that no other test knows; its streams go with it, because a server of thousands is slow."""
    place = Place(nats_server.url)
    yield place
    async with Connection.open(nats_server.url) as connection:
        names = [spec.name for spec in Topology(place.namespace, SHARDS).streams()]
        await asyncio.gather(*(connection.call(f"$JS.API.STREAM.DELETE.{name}") for name in names))
