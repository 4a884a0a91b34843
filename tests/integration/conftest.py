"""Fixtures of the acceptance tests: a namespace of its own for each test."""

from __future__ import annotations

import pytest

from romancy_nats.jetstream.server import LocalServer
from tests.integration.place import Place


@pytest.fixture
def place(nats_server: LocalServer) -> Place:
    """A namespace that no other test knows."""
    return Place(nats_server.url)
