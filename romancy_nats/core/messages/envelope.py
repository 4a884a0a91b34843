"""What every message to an instance has, whatever its kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from romancy_nats.core.ids import InstanceKey


@dataclass(slots=True, frozen=True)
class Message:
    """A message to an instance; `kind` is `cancel`, `terminate`, `retry`, `resume`, `event`, `message` or `update`."""

    key: InstanceKey
    kind: str
    data: bytes = b""
    message_id: str = ""
    headers: Mapping[str, str] | None = None
