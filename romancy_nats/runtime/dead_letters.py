"""Dead letters: written until the server answers; a refusal is an answer, and is never tried again in a loop."""

from __future__ import annotations

import logging

from romancy_nats.core.cloudevents import Event, write_event
from romancy_nats.core.events import EventReceived, MessageReceived
from romancy_nats.core.headers import CHANNEL, CONTENT_TYPE, GENERATION, KIND, METADATA, ORDER, SENDER, WAIT
from romancy_nats.core.ids import InstanceKey, encode_token
from romancy_nats.core.plain import VALUE
from romancy_nats.core.shown import shown_value
from romancy_nats.core.waits import EVENT, MESSAGE
from romancy_nats.errors import RomancyError
from romancy_nats.ports import DeadLetter, Refused, Source, World
from romancy_nats.runtime.dispatcher import encode_event
from romancy_nats.storage.backoff import Backoff

_log = logging.getLogger("romancy.worker")
_PAUSE = 0.1
_LONGEST_PAUSE = 5.0


async def write_letter(world: World, letter: DeadLetter) -> bool:
    """Write a dead letter; False when the server refuses it, which is logged."""
    backoff = Backoff(_PAUSE, _LONGEST_PAUSE)
    while (reply := await world.queues.park(letter)) is None:
        await backoff.pause()
    if isinstance(reply, Refused):
        _log.error(
            "message %s of %r cannot be parked (%s); it was to be, because: %s",
            letter.source,
            letter.workflow,
            reply,
            letter.reason,
        )
        return False
    return True


def copy_of(
    key: InstanceKey, generation: int, answer: EventReceived | MessageReceived, reason: str
) -> DeadLetter:
    """The letter for an event, or a message, that its instance skipped: as it was sent, with the reason.

    `source` is the message that brought it to the instance, so that a second copy is the same letter. Sent back, it
    answers the same wait, if that is still open.
    """
    source = Source(answer.stream, answer.sequence)
    if isinstance(answer, MessageReceived):
        headers = {
            KIND: MESSAGE,
            CHANNEL: encode_token(answer.channel),
            SENDER: encode_token(answer.sender),
            ORDER: str(answer.order),
            CONTENT_TYPE: VALUE,
        }
        if answer.metadata:
            headers[METADATA] = str(shown_value(answer.metadata))
        return DeadLetter(key.workflow, reason, answer.data, headers, source, key.id)
    event = Event(
        answer.event_id,
        answer.event_type,
        answer.source,
        answer.data,
        answer.subject or None,
        answer.time,
        answer.extensions,
    )
    try:
        headers, data = write_event(event)
    except RomancyError:
        # Bytes, say, which have no form in JSON.
        headers, data = {}, encode_event(event)
    headers |= {KIND: EVENT, WAIT: answer.wait, GENERATION: str(generation)}
    return DeadLetter(key.workflow, reason, data, headers, source, key.id)
