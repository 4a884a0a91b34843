"""Emptying one subject of a stream, as often as one likes. Knows no meaning of what was on it."""

from __future__ import annotations

from romancy_nats.errors import PermissionDeniedError, ServerUnavailableError
from romancy_nats.jetstream.api import ask
from romancy_nats.jetstream.connection import Connection
from romancy_nats.ports import Refusal, Refused, WriteReply


async def purge(connection: Connection, stream: str, subject: str) -> WriteReply:
    """Remove what is on a subject; done (1) also when nothing was there."""
    try:
        answer = await ask(connection, f"STREAM.PURGE.{stream}", {"filter": subject})
    except ServerUnavailableError:
        return None
    except PermissionDeniedError as error:
        return Refused(Refusal.DENIED, str(error))
    return Refused(Refusal.OTHER, f"{answer.text} ({answer.code})") if answer.code else 1
