"""What waiting workflow code gets: an event, or a message. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class ReceivedEvent(Generic[M]):
    """An event as CloudEvents 1.0 describes it; `subject` is the key."""

    data: M
    type: str
    source: str
    id: str
    time: datetime | None
    subject: str | None
    extensions: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ReceivedMessage(Generic[M]):
    """A message on a channel. `sender` is the instance id or the client that sent it."""

    id: str
    channel: str
    data: M
    metadata: Mapping[str, Any]
    sender: str
    time: datetime
