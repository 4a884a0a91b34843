"""Fixtures for every test: the asyncio backend, and one real server per session. No domain objects."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from romancy_nats.jetstream.server import LocalServer

# How long an example takes depends on what else the machine does.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def nats_server() -> Iterator[LocalServer]:
    """R1, a store of its own, a free port, default sync. Shared: use names of your own, never kill it."""
    with LocalServer(sync_always=False) as server:
        yield server
