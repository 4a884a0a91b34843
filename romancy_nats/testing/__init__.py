"""Tests without a server: the world in memory, virtual time, seeded faults, replay of histories. Names only."""

from __future__ import annotations

from romancy_nats.testing.replay import Replayed, replay

__all__ = ["Replayed", "replay"]
