"""What a watcher of an instance sees: its history as it grows, what it emits, attempts as they begin and fail."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from romancy_nats.client.tail import Tail
from romancy_nats.core.commit import Commit
from romancy_nats.core.events import Emitted, Event
from romancy_nats.core.history import shown_field
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.messages.announcement import Progress
from romancy_nats.core.plain import decode_plain
from romancy_nats.core.shown import shown_value
from romancy_nats.core.times import utc
from romancy_nats.errors import PayloadError
from romancy_nats.ports import World


@dataclass(frozen=True, slots=True)
class WatchItem:
    """Something that happened.

    `type` is the name of an event of the history (`data`: its fields), `Emitted` (`data`: the value), or
    `AttemptStarted`, `AttemptFailed`, `Heartbeat` (`data`: which activity and attempt).
    """

    type: str
    data: Any
    time: datetime


async def watch(world: World, key: InstanceKey) -> AsyncGenerator[WatchItem]:
    """The history from its first event on, then all that happens, until the instance has ended."""
    tail = Tail(world, key)
    async with aclosing(tail.items(progress=True)) as items:
        async for item in items:
            if isinstance(item, Commit):
                for event in item.events:
                    yield WatchItem(type(event).__name__, event_data(event), _moment(item.time))
            elif isinstance(item, Progress):
                yield WatchItem(item.type, _value(item.data), _moment(item.time))
            elif tail.over:
                return


def event_data(event: Event) -> Any:
    """The value of a durable emit; of any other event its fields, as they can be shown."""
    if isinstance(event, Emitted):
        return _value(event.value)
    fields: Mapping[str, object] = dict(zip(event._fields, event, strict=True))
    return {
        name: shown_field(name, value) if isinstance(value, bytes) else value
        for name, value in fields.items()
    }


def _value(data: bytes) -> Any:
    try:
        return decode_plain(data)
    except PayloadError:
        return shown_value(data)


def _moment(micros: int) -> datetime:
    return utc(micros)
