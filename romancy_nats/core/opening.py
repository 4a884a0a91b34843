"""From a recorded delivery to what workflow code gets: data fitted to the model that it asked for."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter

from romancy_nats.core.events import EventReceived, MessageReceived
from romancy_nats.core.plain import decode_plain
from romancy_nats.core.received import ReceivedEvent, ReceivedMessage
from romancy_nats.core.times import utc

M = TypeVar("M")


def opened_event(event: EventReceived, model: type[M] | None) -> ReceivedEvent[M]:
    """Raises pydantic's ValidationError when the data does not fit the model."""
    return ReceivedEvent(
        data=_fitted(event.data, model),
        type=event.event_type,
        source=event.source,
        id=event.event_id,
        time=_moment(event.time),
        subject=event.subject or None,
        extensions=_mapping(event.extensions),
    )


def opened_message(message: MessageReceived, model: type[M] | None) -> ReceivedMessage[M]:
    """Raises pydantic's ValidationError when the data does not fit the model."""
    return ReceivedMessage(
        id=message.id,
        channel=message.channel,
        data=_fitted(message.data, model),
        metadata=_mapping(message.metadata),
        sender=message.sender,
        time=utc(message.time),
    )


def _fitted(data: bytes, model: type[M] | None) -> M:
    plain = decode_plain(data)
    return cast("M", plain) if model is None else TypeAdapter(model).validate_python(plain)


def _mapping(data: bytes) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", decode_plain(data)) if data else {}


def _moment(text: str) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
