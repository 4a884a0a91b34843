"""The names of our message headers, and what is read from headers alone. Nothing about bodies."""

from __future__ import annotations

from collections.abc import Mapping

from romancy_nats.core.ids import InstanceKey, check_id, decode_token, encode_token
from romancy_nats.core.limits import shortened
from romancy_nats.errors import InvalidNameError

ID = "Romancy-Instance-Id"
TOKEN = "Romancy-Instance-Token"
"""The encoded id: what typed clients send, because a header value cannot carry every text."""
KIND = "Romancy-Kind"
REPLY_TO = "Romancy-Reply-To"
NOTIFY = "Romancy-Notify"
TIMEOUT = "Romancy-Timeout"
CONFLICT = "Romancy-On-Conflict"
START_DELAY = "Romancy-Start-Delay"
"""Seconds from when the server stored the start."""
START_AT = "Romancy-Start-At"
"""ISO 8601 with a time zone, or µs since the epoch."""
ATTRIBUTES = "Romancy-Attributes"
"""A JSON object, as ASCII; so is the memo."""
MEMO = "Romancy-Memo"
RETENTION = "Romancy-Retention"
WAIT = "Romancy-Wait"
GENERATION = "Romancy-Generation"
SENDER = "Romancy-Sender"
ORDER = "Romancy-Order"
CHANNEL = "Romancy-Channel"
METADATA = "Romancy-Metadata"
"""A JSON object, as ASCII."""
UPDATE = "Romancy-Update"
REASON = "Romancy-Reason"
ORIGIN_STREAM = "Romancy-Origin-Stream"
ORIGIN_SEQUENCE = "Romancy-Origin-Sequence"
ORIGIN_ID = "Romancy-Origin-Id"
"""The encoded id of the instance that a parked message was for."""
ORIGIN_MESSAGE_ID = "Romancy-Origin-Msg-Id"
TRUNCATED = "Romancy-Truncated"
DROPPED_HEADERS = "Romancy-Dropped-Headers"
"""Names of headers that were too large for the dead letter."""
CONTENT_TYPE = "Content-Type"
TRACE = "traceparent"
MESSAGE_ID = "Nats-Msg-Id"
"""Deduplicated per stream, not per subject: ids are prefixed with the instance."""

LONGEST_REASON = 2000
"""Bytes."""
LARGEST_KEPT = 36_000
"""Bytes of the headers of a message that its dead letter keeps: it has to fit into a message itself."""


def named_id(headers: Mapping[str, str]) -> str | None:
    """The id that a start message names, None when it names none. Raises InvalidNameError."""
    if token := headers.get(TOKEN):
        return check_id(decode_token(token))
    if (plain := headers.get(ID)) is not None:
        return check_id(plain)
    return None


def starts(headers: Mapping[str, str], stream: str, sequence: int, key: InstanceKey) -> bool:
    """Whether a start message of that workflow, stored at that place, starts this instance."""
    try:
        return (named_id(headers) or derived_id(stream, sequence)) == key.id
    except InvalidNameError:
        return False


def derived_id(stream: str, sequence: int) -> str:
    """The id of an instance whose start names none: the same for every delivery of that message."""
    return f"{stream}-{sequence}"


def message_headers(
    key: InstanceKey, kind: str, message_id: str, others: Mapping[str, str] | None
) -> dict[str, str]:
    """The headers of a message to an instance."""
    headers = {**(others or {}), KIND: kind}
    if message_id:
        headers[MESSAGE_ID] = f"{key.token}:{message_id}"
    return headers


def own_message_id(key: InstanceKey, headers: Mapping[str, str]) -> str:
    """The message id as its sender gave it; "" when it gave none."""
    return headers.get(MESSAGE_ID, "").removeprefix(f"{key.token}:")


def kept(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of a parked message, without those that the server would act upon."""
    plain = {name: value for name, value in headers.items() if not name.lower().startswith("nats-")}
    if MESSAGE_ID in headers:
        plain[ORIGIN_MESSAGE_ID] = headers[MESSAGE_ID]
    room = LARGEST_KEPT
    found: dict[str, str] = {}
    dropped: list[str] = []
    for name, value in plain.items():
        spelled = value.encode("utf-8", "backslashreplace").decode()
        room -= len(name) + len(spelled.encode())
        if room < 0 or not (name.isascii() and name.isprintable()):
            dropped.append(name)
        else:
            found[name] = spelled
    if dropped:
        found[DROPPED_HEADERS] = one_line(", ".join(dropped), LONGEST_REASON)
    return found


def dead_letter_headers(
    headers: Mapping[str, str], reason: str, stream: str, sequence: int, id: str = ""
) -> dict[str, str]:
    """The headers of a dead letter; parking the same message twice is one letter. `id` is that of the instance."""
    known = {
        MESSAGE_ID: f"{stream}:{sequence}",
        REASON: one_line(reason, LONGEST_REASON),
        ORIGIN_STREAM: stream,
        ORIGIN_SEQUENCE: str(sequence),
    }
    if id:
        known[ORIGIN_ID] = encode_token(id)
    return kept(headers) | known


def one_line(text: str, most: int = LONGEST_REASON) -> str:
    """Text that a header value can carry, in at most `most` bytes: no line ends, no control characters."""
    printable = "".join(char if char.isprintable() else " " for char in shortened(text, most))
    return shortened(" ".join(printable.split()), most)
