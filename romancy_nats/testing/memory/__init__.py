"""The world in memory: every port, answering like the real server, with seeded faults. Names only."""

from __future__ import annotations

from romancy_nats.testing.memory.faults import Faults
from romancy_nats.testing.memory.store import MemoryServer
from romancy_nats.testing.memory.world import MemoryWorld

__all__ = ["Faults", "MemoryServer", "MemoryWorld"]
