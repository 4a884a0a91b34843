"""The dead letters of a namespace, for people who operate it: listed, read, sent back to their origin, deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from romancy_nats.core.headers import (
    CONFLICT,
    DROPPED_HEADERS,
    MESSAGE_ID,
    ORIGIN_ID,
    ORIGIN_MESSAGE_ID,
    ORIGIN_SEQUENCE,
    ORIGIN_STREAM,
    REASON,
    TOKEN,
    TRUNCATED,
    derived_id,
    named_id,
)
from romancy_nats.core.ids import InstanceKey, decode_token, encode_token
from romancy_nats.core.start_options import RESTART_REJECTED
from romancy_nats.errors import InvalidNameError, ServerError, StorageError
from romancy_nats.jetstream import stored
from romancy_nats.jetstream.api import MESSAGE_MISSING, ask
from romancy_nats.jetstream.connection import Connection
from romancy_nats.jetstream.stored import Stored
from romancy_nats.jetstream.subjects import Subjects
from romancy_nats.jetstream.writes import ack_prefix, write
from romancy_nats.ports import Refused

_PAGE = 100
_NONE = frozenset({"_", "_events"})
"""What stands in the subject of a letter for no workflow."""
_TRIES = 5
_OURS = frozenset(
    {REASON, ORIGIN_STREAM, ORIGIN_SEQUENCE, ORIGIN_MESSAGE_ID, ORIGIN_ID, TRUNCATED, DROPPED_HEADERS}
)
_LEAVES_A_RECORD = ("StartRejectedError:", "no worker came")
"""How the reasons of starts begin that left a record as `rejected`: only a new generation can run them."""


@dataclass(slots=True, frozen=True)
class Letter:
    """One dead letter. `number` is its place in the stream of dead letters; `parked_at` is µs since the epoch."""

    number: int
    workflow: str
    parked_at: int
    data: bytes
    headers: Mapping[str, str]

    @property
    def reason(self) -> str:
        """Why nobody could use it."""
        return self.headers.get(REASON, "")

    @property
    def origin(self) -> str:
        """The stream it came from; "" when that is not recorded."""
        return self.headers.get(ORIGIN_STREAM, "")

    @property
    def id(self) -> str:
        """The instance that it was for; "" when it names none."""
        with suppress(InvalidNameError):
            if (key := _instance(self)) is not None:
                return key.id
            return named_id(self.headers) or ""
        return ""

    @property
    def own_headers(self) -> dict[str, str]:
        """The headers of the message itself."""
        return {name: value for name, value in self.headers.items() if not _added(name)}


def _added(name: str) -> bool:
    return name in _OURS or name.lower().startswith("nats-")


class DeadLetters:
    """The dead letters of one namespace."""

    def __init__(self, connection: Connection, subjects: Subjects) -> None:
        self._connection = connection
        self._subjects = subjects
        self._stream = subjects.dead_stream

    async def letters(self, workflow: str | None = None) -> AsyncIterator[Letter]:
        """All of them, of one workflow if named, oldest first. Raises ServerUnavailableError."""
        sequence = 1
        wanted = f"{self._subjects.namespace}.dead.*" if workflow is None else self._subjects.dead(workflow)
        while True:
            request = {
                "batch": _PAGE,
                "seq": sequence,
                "next_by_subj": wanted,
                "max_bytes": self._connection.max_payload * 8,
            }
            page = await stored.several(self._connection, self._stream, request)
            for found in page:
                yield self._letter(found)
            if not page:
                return
            sequence = page[-1].sequence + 1

    async def read(self, number: int) -> Letter | None:
        """The letter of that number, if it is there."""
        found = await stored.at(self._connection, self._stream, number) if number > 0 else None
        return None if found is None else self._letter(found)

    def _letter(self, found: Stored) -> Letter:
        workflow = self._subjects.read_workflow(found.subject)
        return Letter(
            found.sequence, "" if workflow in _NONE else workflow, found.time, found.data, found.headers
        )

    async def redrive(self, letter: Letter) -> str:
        """Send it back to where it came from, then delete the letter; "" when done, else why it cannot be sent.

        Doing it twice is harmless, at any time later: the message id is that of the letter, and a start has the id that
        it had at first. (One that asks for `restart_ended` itself does restart after two minutes.) Raises
        StorageError, ServerUnavailableError; the letter is still there then.
        """
        if cut := letter.headers.get(TRUNCATED):
            return f"it was cut when it was parked: it had {int(cut):,} bytes, {len(letter.data):,} are left"
        target = self._target(letter)
        if target is None:
            return f"what came from {letter.origin or 'an unknown place'} cannot be sent back: {self._why_not(letter)}"
        subject, message_id = target
        headers = letter.own_headers | {MESSAGE_ID: message_id}
        if letter.origin == self._subjects.start_stream:
            headers |= _start_headers(letter)
        await self._send(subject, letter, headers)
        await self.delete(letter.number)
        return ""

    async def _send(self, subject: str, letter: Letter, headers: dict[str, str]) -> None:
        for _ in range(_TRIES):
            # The same message until the server answers; "stored before" is as good as stored (L3).
            reply = await write(self._connection, subject, letter.data, headers, ack_prefix(letter.origin))
            if isinstance(reply, Refused):
                raise StorageError(f"the server refused dead letter {letter.number}: {reply}")
            if reply is not None:
                return
        raise StorageError(
            f"dead letter {letter.number} was sent, and not answered; it is kept, redrive it again"
        )

    def _target(self, letter: Letter) -> tuple[str, str] | None:
        subjects = self._subjects
        if letter.origin == subjects.start_stream and letter.workflow:
            return subjects.start(letter.workflow), f"redrive:{letter.number}"
        if letter.origin == subjects.messages_stream and (key := _instance(letter)) is not None:
            return subjects.message(key), f"{key.token}:redrive:{letter.number}"
        return None

    def _why_not(self, letter: Letter) -> str:
        subjects = self._subjects
        if letter.origin == subjects.events_stream:
            return "an event is heard by whoever waited when it came; publish it again with `romancy event`"
        if letter.origin == subjects.timers_stream:
            return "the wake-up of a timer comes again by itself"
        return "the letter does not name its workflow and instance"

    async def delete(self, number: int) -> bool:
        """Remove the letter; False when it was gone. Raises ServerError, PermissionDeniedError."""
        answer = await ask(self._connection, f"STREAM.MSG.DELETE.{self._stream}", {"seq": number})
        if not answer.code:
            return True
        if answer.code == MESSAGE_MISSING or await stored.at(self._connection, self._stream, number) is None:
            return False
        raise ServerError(f"cannot delete dead letter {number}: {answer.text} ({answer.code})")


def _start_headers(letter: Letter) -> dict[str, str]:
    """What makes a start count once, however often and however late it is sent back."""
    found: dict[str, str] = {}
    with suppress(InvalidNameError):
        if named_id(letter.headers) is None and (sequence := letter.headers.get(ORIGIN_SEQUENCE)):
            found[TOKEN] = encode_token(derived_id(letter.origin, int(sequence)))
    if letter.reason.startswith(_LEAVES_A_RECORD) and letter.headers.get(CONFLICT) != "restart_ended":
        found[CONFLICT] = RESTART_REJECTED
    return found


def _instance(letter: Letter) -> InstanceKey | None:
    """The instance that a message was for: as recorded, or by its message id, which begins with the instance."""
    try:
        if token := letter.headers.get(ORIGIN_ID):
            return InstanceKey(letter.workflow, decode_token(token))
        workflow, _, rest = letter.headers.get(ORIGIN_MESSAGE_ID, "").partition(".")
        id, separator, _ = rest.partition(":")
        return InstanceKey.from_tokens(workflow, id) if separator else None
    except InvalidNameError:
        return None
