"""Messages on a channel of an instance, for `ctx.receive`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from romancy_nats.core.headers import CHANNEL, CONTENT_TYPE, METADATA, ORDER, SENDER
from romancy_nats.core.ids import InstanceKey, check_message_id, check_text, encode_token
from romancy_nats.core.messages.envelope import Message
from romancy_nats.core.plain import VALUE
from romancy_nats.errors import PayloadError


def channel_message(
    key: InstanceKey,
    channel: str,
    body: bytes,
    sender: str,
    order: int,
    message_id: str,
    metadata: Mapping[str, Any] | None = None,
) -> Message:
    """A message with a payload as its body; `order` counts, from 1, what this sender sends to this instance.

    Raises InvalidNameError, and PayloadError when the metadata are no JSON object.
    """
    headers = {
        CHANNEL: encode_token(check_text(channel, "the name of a channel")),
        SENDER: encode_token(sender),
        ORDER: str(order),
        CONTENT_TYPE: VALUE,
    }
    if metadata:
        headers[METADATA] = _json(metadata)
    return Message(key, "message", body, check_message_id(message_id), headers)


def _json(metadata: Mapping[str, Any]) -> str:
    try:
        # What UTF-8 cannot spell, nobody else could read.
        json.dumps(dict(metadata), ensure_ascii=False).encode()
        return json.dumps(dict(metadata), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise PayloadError(f"the metadata of a message is a JSON object: {error}") from error
