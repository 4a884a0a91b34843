"""Updates: the request to an instance, and the notice with the answer."""

from __future__ import annotations

import msgpack

from romancy_nats.core.events import UpdateAnswered
from romancy_nats.core.failure import Failure
from romancy_nats.core.headers import CONTENT_TYPE, REPLY_TO, UPDATE
from romancy_nats.core.ids import InstanceKey, check_message_id, check_text, encode_token
from romancy_nats.core.limits import fitting
from romancy_nats.core.messages.envelope import Message
from romancy_nats.core.messages.outcome import LARGEST_IN_NOTICE
from romancy_nats.core.plain import VALUE
from romancy_nats.errors import RomancyError


def update_message(
    key: InstanceKey, name: str, body: bytes, message_id: str, inbox: str, max_value: int
) -> Message:
    """The request to carry out an update, answered at the inbox. `max_value` is in bytes.

    Raises InvalidNameError, and PayloadTooLargeError for a larger body.
    """
    headers = {
        UPDATE: encode_token(check_text(name, "the name of an update")),
        REPLY_TO: inbox,
        CONTENT_TYPE: VALUE,
    }
    body = fitting(body, f"the arguments of update {name!r}", max_value)
    return Message(key, "update", body, check_message_id(message_id), headers)


def update_notice(answered: UpdateAnswered) -> bytes:
    """The notice for the caller; empty when the answer is large: the history has it."""
    if len(answered.result) + len(answered.failure) > LARGEST_IN_NOTICE:
        return b""
    return msgpack.packb((answered.result, answered.failure, answered.rejected))


def rejection(text: str) -> bytes:
    """The notice for the caller of an update that will not be carried out."""
    return update_notice(UpdateAnswered("", failure=Failure.of(RomancyError(text)).encode(), rejected=True))


def read_update_notice(notice: bytes) -> UpdateAnswered | None:
    """The answer in a notice, None when the history has to be read for it."""
    if not notice:
        return None
    try:
        result, failure, rejected = msgpack.unpackb(notice)
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    return UpdateAnswered("", result, failure, rejected)
