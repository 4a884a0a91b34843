"""A client starts workflows, speaks with their instances and waits for them. Does not know how a worker runs them."""

from __future__ import annotations

from romancy_nats.client.client import Client

__all__ = ["Client"]
