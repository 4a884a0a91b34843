"""Data from outside that a model of the workflow code read: converted once, recorded, and never converted again.

A model may ask a clock or make up an id (`default_factory=uuid4`): asked again in replay, it would say something else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from romancy_nats.core.commit import Commit
from romancy_nats.core.events import (
    Command,
    Converted,
    EventReceived,
    MessageReceived,
    UpdateRequested,
)
from romancy_nats.core.eviction import refuse_call
from romancy_nats.core.payload import ValueCodec
from romancy_nats.errors import PayloadError

Read = EventReceived | MessageReceived | UpdateRequested
"""What workflow code reads with a model, or with the parameters of a handler."""


class Conversions:
    """What the models of one generation made of what they read."""

    def __init__(self, emit: Callable[[Command], None], most: Callable[[], int]) -> None:
        """`most` tells how many bytes one value may have."""
        self._emit = emit
        self._most = most
        self._recorded: dict[str, deque[bytes]] = {}
        self._foreseen: set[str] = set()

    def close(self) -> None:
        """The code is evicted: nothing is to refer to whom it belonged."""
        self._emit = self._most = refuse_call
        self._recorded.clear()

    def learn(self, commit: Commit, following: Iterable[Commit]) -> None:
        """What a commit that is about to be replayed says, and those after it that hold the rest of its last step."""
        if commit.id in self._foreseen:
            self._foreseen.discard(commit.id)
        else:
            self._take(commit)
        if not commit.open:
            return
        for more in following:
            if more.id not in self._foreseen:
                self._foreseen.add(more.id)
                self._take(more)
            if not more.open:
                return

    def _take(self, commit: Commit) -> None:
        for event in commit.events:
            if isinstance(event, Converted):
                self._recorded.setdefault(event.id, deque()).append(event.made)

    def recorded(self, read: Read) -> bytes | None:
        """What was made of it when it was read first, as far as that is known; each record counts once."""
        found = self._recorded.get(_id(read))
        if not found:
            return None
        value = found.popleft()
        if not found:
            del self._recorded[_id(read)]
        return value

    def made(self, read: Read, value: bytes) -> None:
        """This is what a model made of it. What is larger than a value may be is not recorded, but made again."""
        if len(value) <= self._most():
            self._emit(Converted(_id(read), value))

    def by_model(self, read: Read, model: Any, convert: Callable[[], Any]) -> Any:
        """What `convert` gives, or gave when it was asked first; raises what it raises.

        What the model makes may be something that cannot be stored: that is made anew in each replay.
        """
        codec = _codec(model)
        recorded = self.recorded(read)
        if recorded is not None and codec is not None:
            try:
                value = codec.decode(recorded)
            except PayloadError:
                """The model is another one by now: it converts the data itself."""
            else:
                self.made(read, recorded)
                return value
        value = convert()
        if codec is None:
            return value
        try:
            data = codec.pack(value)
            value = codec.decode(data)
        except PayloadError:
            return value
        self.made(read, data)
        return value


def _id(read: Read) -> str:
    if isinstance(read, UpdateRequested):
        return read.id
    return f"{read.wait if isinstance(read, EventReceived) else ''}:{read.stream}:{read.sequence}"


def _codec(model: Any) -> ValueCodec[Any] | None:
    try:
        return _known_codec(model)
    except TypeError:  # an annotation that cannot be hashed
        return _made(model)


@lru_cache(maxsize=256)
def _known_codec(model: Any) -> ValueCodec[Any] | None:
    return _made(model)


def _made(model: Any) -> ValueCodec[Any] | None:
    try:
        codec = ValueCodec[Any](model, name="the data")
        codec.check()
    except PayloadError:
        return None
    return codec
