"""One request to the JetStream API and its answer as JSON. Knows no stream of ours; data goes through `writes`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import NamedTuple, cast

from romancy_nats.errors import ServerUnavailableError
from romancy_nats.jetstream.connection import Connection

STREAM_MISSING = 10059
STREAM_EXISTS = 10058
CONSUMER_MISSING = 10014
MESSAGE_MISSING = 10037

TEMPORARY = frozenset({10004, 10008, 10009, 10118})
"""No leader just now, or the stream is offline: nothing was done, ask again."""

_AGAIN_AFTER = 0.1


class Answer(NamedTuple):
    """An API answer; `code` is the server's `err_code`, 0 when it did what was asked."""

    body: Mapping[str, object]
    code: int
    text: str

    def part(self, name: str) -> Mapping[str, object]:
        """An object inside the body; empty when there is none."""
        return as_object(self.body.get(name))


async def ask(
    connection: Connection, what: str, request: Mapping[str, object] | None = None, timeout: float = 5.0
) -> Answer:
    """Ask `$JS.API.<what>`. Raises ServerUnavailableError, PermissionDeniedError."""
    subject = f"$JS.API.{what}"
    payload = b"" if request is None else json.dumps(request).encode()
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    while (left := end - loop.time()) > 0:
        answer = read(json.loads((await connection.call(subject, payload, timeout=left)).data))
        if answer.code not in TEMPORARY:
            return answer
        await asyncio.sleep(_AGAIN_AFTER)
    raise ServerUnavailableError(f"{subject} at {connection.url} has no leader; is the cluster whole?")


def read(body: object) -> Answer:
    """The answer in a decoded body."""
    found = as_object(body)
    error = as_object(found.get("error"))
    code = error.get("err_code") or error.get("code") or 0
    return Answer(found, code if isinstance(code, int) else 0, str(error.get("description", "")))


def as_object(value: object) -> Mapping[str, object]:
    """A JSON object, or an empty one."""
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}
