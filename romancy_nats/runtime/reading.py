"""From a message on the wire to the delivery that a history records. Reads only; raises for what is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from romancy_nats.core.cloudevents import EVENT_TYPE, read_event, unescaped
from romancy_nats.core.events import (
    CancelRequested,
    EventReceived,
    MessageEvent,
    MessageReceived,
    RetryRequested,
    TerminateRequested,
    UpdateRequested,
)
from romancy_nats.core.headers import (
    CHANNEL,
    GENERATION,
    MESSAGE_ID,
    METADATA,
    ORDER,
    REPLY_TO,
    SENDER,
    UPDATE,
    WAIT,
    own_message_id,
)
from romancy_nats.core.ids import InstanceKey, check_text, decode_token
from romancy_nats.core.limits import parse_body, shortened
from romancy_nats.core.plain import encode_plain, read_plain
from romancy_nats.core.record import LONGEST_ERROR, InstanceRecord
from romancy_nats.errors import PayloadError, RomancyError
from romancy_nats.ports import Delivery
from romancy_nats.runtime.dispatcher import decode_event

UNREADABLE = (RomancyError, ValueError, TypeError, KeyError, OverflowError, RecursionError)


def read_message(kind: str, delivery: Delivery) -> MessageEvent:
    """The event for a message of a known kind; one that cannot be read raises what `UNREADABLE` names."""
    stream, sequence = delivery.source
    message_id = delivery.headers.get(MESSAGE_ID, "")
    match kind:
        case "cancel":
            return CancelRequested(text_of(delivery), stream, sequence, message_id)
        case "terminate":
            return TerminateRequested(text_of(delivery), stream, sequence, message_id)
        case "event":
            return _event(delivery, message_id)
        case "message":
            return _message(delivery, message_id)
        case "update":
            return _update(delivery, message_id)
        case _:
            return RetryRequested(stream, sequence, message_id)


def is_of_another_generation(record: InstanceRecord, delivery: Delivery) -> bool:
    """Whether an event answers a wait of a generation that is over."""
    return delivery.headers.get(GENERATION, "") != str(record.generation)


def text_of(delivery: Delivery) -> str:
    """The reason that a cancel or a terminate carries."""
    return shortened(delivery.data.decode(errors="replace"), LONGEST_ERROR)


def _event(delivery: Delivery, message_id: str) -> EventReceived:
    headers = delivery.headers
    # Sent back from the dead letters it has its form as an event.
    copied = headers.get(EVENT_TYPE)
    event = (
        read_event(unescaped(copied), headers, delivery.data, message_id)
        if copied
        else decode_event(delivery.data)
    )
    return EventReceived(
        wait=delivery.headers[WAIT],
        event_type=event.type,
        event_id=event.id,
        data=event.data,
        source=event.source,
        time=event.time,
        subject=event.key or "",
        extensions=event.extensions,
        stream=delivery.source.stream,
        sequence=delivery.source.sequence,
        message_id=message_id,
    )


def _message(delivery: Delivery, message_id: str) -> MessageReceived:
    headers, source = delivery.headers, delivery.source
    own_id = own_message_id(InstanceKey(delivery.workflow, delivery.id), headers)
    return MessageReceived(
        channel=_named(headers, CHANNEL),
        data=read_plain(headers, delivery.data),
        metadata=_metadata(headers.get(METADATA, "")),
        id=own_id or f"{source.stream}:{source.sequence}",
        sender=decode_token(headers[SENDER]) if headers.get(SENDER) else "",
        order=int(headers.get(ORDER, "0")),
        time=delivery.time,
        stream=source.stream,
        sequence=source.sequence,
        message_id=message_id,
    )


def _metadata(text: str) -> bytes:
    if not text:
        return b""
    found = parse_body(text.encode(), "application/json")
    if not isinstance(found, dict):
        raise PayloadError(f"header {METADATA} is a JSON object")
    return encode_plain(cast("dict[str, object]", found))


def _update(delivery: Delivery, message_id: str) -> UpdateRequested:
    headers, source = delivery.headers, delivery.source
    own_id = own_message_id(InstanceKey(delivery.workflow, delivery.id), headers)
    return UpdateRequested(
        id=own_id or f"{source.stream}:{source.sequence}",
        name=_named(headers, UPDATE),
        input=read_plain(headers, delivery.data),
        reply_to=headers.get(REPLY_TO, ""),
        stream=source.stream,
        sequence=source.sequence,
        message_id=message_id,
    )


def _named(headers: Mapping[str, str], name: str) -> str:
    if not headers.get(name):
        raise PayloadError(f"header {name} is missing")
    return check_text(decode_token(headers[name]), f"header {name}")
