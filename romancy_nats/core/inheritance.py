"""What a generation inherits from the one before: unread messages, updates that wait, and how far every conversation
has come."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import msgpack

from romancy_nats.core.events import MessageReceived, UpdateAnswered, UpdateRequested
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.state import WorkflowState

_MOST_SEEN = 1000
"""Messages of each stream that are known again. One that is older was acknowledged: a redelivery comes before what is
new, so that none of these thousand would have been delivered before it."""


def inheritance(state: WorkflowState, updates: Sequence[UpdateRequested] = ()) -> bytes:
    """What this generation leaves behind, for the start of the next generation: `updates` are those that wait."""
    waiting = state.waiting
    seen = {
        stream: [sequence for _, sequence in places][-_MOST_SEEN:]
        for stream, places in groupby(sorted(state.seen), key=itemgetter(0))
    }
    return msgpack.packb(
        {
            "unread": [tuple(message) for unread in waiting.unread.values() for message in unread],
            "orders": waiting.orders,
            "sent": [(key.workflow, key.id, count) for key, count in state.sent.items()],
            "seen": seen,
            "seen_ids": list(state.seen_ids)[-_MOST_SEEN:],
            "answered": [tuple(answered) for answered in state.handlers.answered],
            "updates": [tuple(request) for request in updates],
        },
        unicode_errors="surrogatepass",
    )


def inherited_answer(carried: bytes, id: str) -> UpdateAnswered | None:
    """The answer to an update of an earlier generation."""
    found = (UpdateAnswered(*fields) for fields in _unpack(carried)["answered"]) if carried else ()
    return next((answered for answered in found if answered.id == id), None)


def inherited_message(carried: bytes, stream: str, sequence: int, message_id: str) -> bool:
    """Whether an earlier generation had this message."""
    if not carried:
        return False
    left = _unpack(carried)
    return sequence in left["seen"].get(stream, ()) or (bool(message_id) and message_id in left["seen_ids"])


def _unpack(carried: bytes) -> dict[str, Any]:
    return msgpack.unpackb(carried, unicode_errors="surrogatepass")  # type: ignore[no-any-return]


def inherit(state: WorkflowState, carried: bytes) -> None:
    """Give it to a generation that begins."""
    left = _unpack(carried)
    for fields in left["unread"]:
        message = MessageReceived(*fields)
        state.waiting.unread.setdefault(message.channel, deque()).append(message)
    state.waiting.orders.update(left["orders"])
    state.sent.update({InstanceKey(workflow, id): count for workflow, id, count in left["sent"]})
    state.seen.update(
        (stream, sequence) for stream, sequences in left["seen"].items() for sequence in sequences
    )
    state.seen_ids.update(dict.fromkeys(left["seen_ids"]))
    for fields in left["answered"]:
        state.handlers.answered.add(UpdateAnswered(*fields))
    for fields in left.get("updates", ()):  # not in what an earlier release carried over
        state.handlers.update(UpdateRequested(*fields))
