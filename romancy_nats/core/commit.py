"""A commit: the events of one turn in one message. Its form on the wire, nothing about when it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgpack

from romancy_nats.core.events import CLASSES, EVENTS, Event, recorded_fields
from romancy_nats.errors import PayloadError

VERSION = 1
_pack = msgpack.Packer().pack
_ENVELOPE_FIELDS = 7
_TAGS = {event: spec.tag for event, spec in EVENTS.items()}


@dataclass(slots=True, frozen=True)
class Commit:
    """`id` is fresh for each content (L3). `fence` is the revision it was written under; `time` µs since the epoch.

    `open`: the commands of its last event go on in the next commit, or were not asked for yet (the instance stalled).
    """

    id: str
    incarnation: str
    fence: int
    time: int
    events: tuple[Event, ...]
    open: bool = False

    def encode(self) -> bytes:
        """The bytes of the commit."""
        return encode_commit(self.id, self.incarnation, self.fence, self.time, self.events, self.open)

    @staticmethod
    def decode(data: bytes) -> Commit:
        """Read a commit; raises PayloadError when the bytes are not one, or of a later version."""
        try:
            raw = cast("list[Any]", msgpack.unpackb(data, use_list=True))
            version, id, incarnation, fence, time, open, events = raw[:_ENVELOPE_FIELDS]
            if version != VERSION:
                raise PayloadError(
                    f"a commit of format {version}; this release reads {VERSION}: upgrade the worker"
                )
            return Commit(id, incarnation, fence, time, tuple(map(_event, events)), open)
        except PayloadError:
            raise
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise PayloadError(f"not a commit of a history: {error}") from error


def encode_commit(
    id: str, incarnation: str, fence: int, time: int, events: Sequence[Event], open: bool = False
) -> bytes:
    """The bytes of a commit, without building it first: every step of every workflow passes here."""
    packed = [(_TAGS[type(event)], *recorded_fields(event)) for event in events]
    return _pack((VERSION, id, incarnation, fence, time, open, packed))


def size_of(event: Event) -> int:
    """The bytes that an event takes in a commit."""
    return len(_pack((_TAGS[type(event)], *recorded_fields(event))))


def split(events: Sequence[Event], most: int) -> list[list[Event]] | None:
    """The events in portions of at most so many bytes, in order; None when one of them alone is larger."""
    portions: list[list[Event]] = [[]]
    size = 0
    for event in events:
        weight = size_of(event)
        if weight > most:
            return None
        if size + weight > most:
            portions.append([])
            size = 0
        portions[-1].append(event)
        size += weight
    return portions


def _event(fields: list[Any]) -> Event:
    cls = CLASSES[fields[0]]
    known = len(cls._fields) + 1
    return cls(*fields[1:known])
