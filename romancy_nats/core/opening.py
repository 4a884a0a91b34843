"""From a recorded delivery to what workflow code gets: data fitted to the model that it asked for."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Generic, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from romancy_nats.core.blame import misfit
from romancy_nats.core.conversions import Conversions
from romancy_nats.core.error_text import is_one_of, shown
from romancy_nats.core.events import EventReceived, MessageReceived
from romancy_nats.core.limits import shortened
from romancy_nats.core.plain import decode_plain
from romancy_nats.core.received import ReceivedEvent, ReceivedMessage
from romancy_nats.core.record import LONGEST_ERROR
from romancy_nats.core.times import utc
from romancy_nats.core.waits import Invalid, Wait, Waits

M = TypeVar("M")


class Opening(Generic[M]):
    """How one wait opens what it hears. What does not fit its model is skipped or raises, as it was asked for."""

    def __init__(
        self, waits: Waits, conversions: Conversions, model: type[M] | None, invalid: Invalid
    ) -> None:
        """Raises ValueError for any other `invalid`, and what pydantic raises for a `model` that is none."""
        if invalid not in ("skip", "raise"):
            raise ValueError(f'invalid is "skip" or "raise", not {invalid!r}')
        self._waits = waits
        self._conversions = conversions
        self._model = model
        self._invalid = invalid
        if model is not None:
            _adapter(model)

    async def event(self, wait: Wait) -> ReceivedEvent[M]:
        """The next event that fits."""
        while True:
            event = cast("EventReceived", await self._waits.answer(wait))
            try:
                return opened_event(event, self._fitted(event))
            except BaseException as error:  # noqa: BLE001 - validators of a user's model may raise anything
                self._skip(wait, event, error, f"the data of event {event.event_type!r}")

    async def message(self, wait: Wait) -> ReceivedMessage[M]:
        """The next message that fits."""
        while True:
            message = cast("MessageReceived", await self._waits.answer(wait))
            opened = self._opened(wait, message)
            if opened is not None:
                return opened

    def unread(self, channel: str) -> ReceivedMessage[M] | None:
        """The oldest unread message of a channel that fits."""
        while (message := self._waits.take(channel)) is not None:
            opened = self._opened(None, message)
            if opened is not None:
                return opened
        return None

    def _opened(self, wait: Wait | None, message: MessageReceived) -> ReceivedMessage[M] | None:
        try:
            return opened_message(message, self._fitted(message))
        except BaseException as error:  # noqa: BLE001 - validators of a user's model may raise anything
            self._skip(wait, message, error, f"the message on {message.channel!r}")
            return None

    def _fitted(self, read: EventReceived | MessageReceived) -> M:
        """Raises pydantic's ValidationError when the data does not fit the model."""
        plain = decode_plain(read.data)
        model = self._model
        if model is None:
            return cast("M", plain)
        fitted = self._conversions.by_model(read, model, lambda: _adapter(model).validate_python(plain))
        return cast("M", fitted)

    def _skip(
        self, wait: Wait | None, answer: EventReceived | MessageReceived, error: BaseException, what: str
    ) -> None:
        """Called in an `except`: raises the error again where that was asked for."""
        if self._invalid == "raise":
            raise error
        # `isinstance` would ask the error itself, which may raise.
        problem = (
            str(misfit(cast("ValidationError", error), "data"))
            if is_one_of(error, (ValidationError,))
            else shown(error, LONGEST_ERROR)
        )
        text = f"{what} does not fit {getattr(self._model, '__name__', 'its model')}: {problem}"
        self._waits.skip(wait, answer, shortened(text, LONGEST_ERROR))


def opened_event(event: EventReceived, data: M) -> ReceivedEvent[M]:
    """An event with the data that its model made of it."""
    return ReceivedEvent(
        data=data,
        type=event.event_type,
        source=event.source,
        id=event.event_id,
        time=_moment(event.time),
        subject=event.subject or None,
        extensions=_mapping(event.extensions),
    )


def opened_message(message: MessageReceived, data: M) -> ReceivedMessage[M]:
    """A message with the data that its model made of it."""
    return ReceivedMessage(
        id=message.id,
        channel=message.channel,
        data=data,
        metadata=_mapping(message.metadata),
        sender=message.sender,
        time=utc(message.time),
    )


def _adapter(model: type[M]) -> TypeAdapter[M]:
    try:
        return cast("TypeAdapter[M]", _known_adapter(cast("Any", model)))
    except TypeError:  # an annotation that cannot be hashed
        return TypeAdapter(model)


@lru_cache(maxsize=256)
def _known_adapter(model: Any) -> TypeAdapter[Any]:
    return TypeAdapter(model)


def _mapping(data: bytes) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", decode_plain(data)) if data else {}


def _moment(text: str) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
