"""Starts on subjects that no consumer takes: found, read and removed. Decides nothing about them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import cast

from romancy_nats.errors import ServerError, ServerUnavailableError
from romancy_nats.jetstream import stored
from romancy_nats.jetstream.api import STREAM_MISSING, Answer, as_object, ask
from romancy_nats.jetstream.connection import Connection
from romancy_nats.jetstream.queues import Handed
from romancy_nats.jetstream.stored import Stored
from romancy_nats.jetstream.subjects import Subjects
from romancy_nats.ports import Delivery, Source, Unclaimed

_PAGE = 200
_TIMEOUT = 15.0


class JetStreamOrphans:
    """Implements `ports.Orphans`."""

    def __init__(self, connection: Connection, subjects: Subjects) -> None:
        self._connection = connection
        self._subjects = subjects
        self._stream = subjects.start_stream

    # --- finding

    async def unclaimed(self) -> Sequence[Unclaimed]:
        """The starts of each workflow that no queue takes."""
        counts = await self._counts()
        if not counts:
            return []
        filters = await self._filters()
        return [
            Unclaimed(subject.split(".", 2)[2], self._subjects.read_workflow(subject), count)
            for subject, count in sorted(counts.items())
            if not any(_takes(one, subject) for one in filters)
        ]

    async def workflows(self) -> Collection[str]:
        """The workflows that have a queue: a worker with each was there once."""
        return {name for name in map(self._subjects.read_workflow, await self._filters()) if name}

    async def _counts(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        while True:
            request = {"subjects_filter": self._subjects.starts, "offset": len(counts)}
            answer = await ask(self._connection, f"STREAM.INFO.{self._stream}", request, _TIMEOUT)
            self._raise_refused(answer)
            found = as_object(answer.part("state").get("subjects"))
            counts |= {subject: count for subject, count in found.items() if isinstance(count, int)}
            if not found or len(counts) >= _number(answer.body, "total"):
                return counts

    async def _filters(self) -> set[str]:
        filters: set[str] = set()
        seen = 0
        while True:
            answer = await ask(self._connection, f"CONSUMER.LIST.{self._stream}", {"offset": seen}, _TIMEOUT)
            self._raise_refused(answer)
            if answer.body.get("missing"):
                # A consumer whose replica does not answer takes its starts all the same.
                raise ServerUnavailableError(
                    f"not all consumers of {self._stream} answer; is the cluster whole?"
                )
            consumers = cast("list[object]", answer.body.get("consumers") or [])
            for consumer in consumers:
                filters |= _filters_of(as_object(as_object(consumer).get("config")))
            seen += len(consumers)
            if not consumers or seen >= _number(answer.body, "total"):
                return filters

    def _raise_refused(self, answer: Answer) -> None:
        if answer.code == STREAM_MISSING:
            raise ServerError(
                f"stream {self._stream} does not exist, or was deleted; apply the streams again"
            )
        if answer.code:
            raise ServerError(f"cannot look at stream {self._stream}: {answer.text} ({answer.code})")

    # --- reading and removing

    async def oldest(self, token: str, before: int) -> Delivery | None:
        """The oldest start on that subject, if it was stored before that time."""
        subject = f"{self._subjects.starts[:-1]}{token}"
        first = await (self._first(subject) if _exact(token) else self._first_by_scan(subject))
        if first is None or first.time >= before:
            return None
        source = Source(self._stream, first.sequence)
        return Handed(first, source, self._subjects.read_workflow(subject), "", 1, first.time)

    async def _first(self, subject: str) -> Stored | None:
        return await stored.next_on(self._connection, self._stream, subject)

    async def _first_by_scan(self, subject: str) -> Stored | None:
        # The server stores what was sent to a literal `*` and what is no UTF-8, but cannot be asked for it.
        sequence = 1
        while True:
            request = {
                "batch": _PAGE,
                "seq": sequence,
                "next_by_subj": self._subjects.starts,
                "max_bytes": self._connection.max_payload * 8,
            }
            page = await stored.several(self._connection, self._stream, request)
            for found in page:
                if found.subject == subject:
                    return found
            if not page:
                return None
            sequence = page[-1].sequence + 1

    async def remove(self, source: Source) -> None:
        """Take it out of the stream; that it is gone already is as good. Raises PermissionDeniedError."""
        request = {"seq": source.sequence}
        answer = await ask(self._connection, f"STREAM.MSG.DELETE.{self._stream}", request)
        if answer.code and await stored.at(self._connection, self._stream, source.sequence) is not None:
            raise ServerError(
                f"cannot remove message {source.sequence} of stream {self._stream}: {answer.text} ({answer.code})"
            )


def _exact(token: str) -> bool:
    return "\ufffd" not in token and token not in {"*", ">"}


def _filters_of(config: Mapping[str, object]) -> set[str]:
    several = cast("list[str]", config.get("filter_subjects") or [])
    return set(several) or {str(config.get("filter_subject") or ">")}


def _takes(pattern: str, subject: str) -> bool:
    wanted, tokens = pattern.split("."), subject.split(".")
    if wanted[-1] == ">" and len(tokens) >= len(wanted):
        wanted, tokens = wanted[:-1], tokens[: len(wanted) - 1]
    return len(wanted) == len(tokens) and all(
        one in ("*", token) for one, token in zip(wanted, tokens, strict=True)
    )


def _number(body: Mapping[str, object], name: str) -> int:
    found = body.get(name)
    return found if isinstance(found, int) else 0
