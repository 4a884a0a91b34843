"""From a message on the wire to the delivery that a history records. Reads only; raises for what is none."""

from __future__ import annotations

from romancy_nats.core.events import (
    CancelRequested,
    EventReceived,
    MessageEvent,
    MessageReceived,
    RetryRequested,
    TerminateRequested,
    UpdateRequested,
)
from romancy_nats.core.headers import CHANNEL, GENERATION, MESSAGE_ID, ORDER, REPLY_TO, SENDER, UPDATE, WAIT
from romancy_nats.core.ids import decode_token, encode_token
from romancy_nats.core.record import InstanceRecord
from romancy_nats.ports import Delivery
from romancy_nats.runtime.dispatcher import decode_event

_LONGEST_REASON = 4000


def read_message(kind: str, delivery: Delivery) -> MessageEvent:
    """The event for a message of a known kind; raises ValueError, TypeError or KeyError for one that cannot be read."""
    stream, sequence = delivery.source
    message_id = delivery.headers.get(MESSAGE_ID, "")
    match kind:
        case "cancel":
            return CancelRequested(_text(delivery), stream, sequence, message_id)
        case "terminate":
            return TerminateRequested(_text(delivery), stream, sequence, message_id)
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


def header_text(text: str) -> str:
    """Any text, spelled so that a header value can carry it."""
    return encode_token(text)


def _text(delivery: Delivery) -> str:
    return delivery.data.decode(errors="replace")[:_LONGEST_REASON]


def _event(delivery: Delivery, message_id: str) -> EventReceived:
    event = decode_event(delivery.data)
    return EventReceived(
        wait=delivery.headers[WAIT],
        type=event.type,
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
    headers = delivery.headers
    return MessageReceived(
        channel=decode_token(headers[CHANNEL]),
        data=delivery.data,
        id=message_id or f"{delivery.source.stream}:{delivery.source.sequence}",
        sender=decode_token(headers[SENDER]) if headers.get(SENDER) else "",
        order=int(headers.get(ORDER, "0")),
        time=delivery.time,
        stream=delivery.source.stream,
        sequence=delivery.source.sequence,
        message_id=message_id,
    )


def _update(delivery: Delivery, message_id: str) -> UpdateRequested:
    headers = delivery.headers
    return UpdateRequested(
        id=message_id or f"{delivery.source.stream}:{delivery.source.sequence}",
        name=decode_token(headers[UPDATE]),
        input=delivery.data,
        reply_to=headers.get(REPLY_TO, ""),
        stream=delivery.source.stream,
        sequence=delivery.source.sequence,
        message_id=message_id,
    )
