"""Where and how to connect to a namespace. Plain data; opens nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from romancy_nats.jetstream.credentials import Credentials
from romancy_nats.jetstream.topology import DEFAULT_SHARDS


@dataclass(frozen=True, slots=True)
class ConnectOptions:
    """`shards` and `replicas` count only when the namespace is created."""

    url: str
    """One server, or several separated by commas."""
    namespace: str = "romancy"
    shards: int = DEFAULT_SHARDS
    replicas: int = 1
    lease_ttl: float = 15.0
    """Seconds. A message that a worker does not acknowledge is delivered again a second after its lease has expired."""
    provision: bool = True
    """Whether streams that are missing may be made."""
    name: str = "romancy"
    """How the server lists the connection."""
    credentials: Credentials = field(default_factory=Credentials)
    inbox_prefix: str = "_INBOX"
