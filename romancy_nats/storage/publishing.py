"""Messages, events and starts: published until the server stored or refused them (L3)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from romancy_nats.errors import PayloadError, PermissionDeniedError, StorageError
from romancy_nats.ports import Refusal, Refused, World, WriteReply
from romancy_nats.storage.backoff import UNANSWERED, Backoff, answered_in_time


async def publish(
    world: World, write: Callable[[], Awaitable[WriteReply]], what: str, remedy: str = "send it again"
) -> int:
    """Send again, unchanged, until the server answers (L3); the message id makes that harmless.

    Returns the sequence, a `Duplicate` where the message was there before the first try. `remedy` tells a client that
    gives up how to send it again without a second effect. Raises PayloadError, PermissionDeniedError, StorageError;
    ServerUnavailableError after `World.patience`.
    """
    async with answered_in_time(world, f"{what} may or may not have been stored; {remedy}"):
        return await until_stored(write, what)


async def until_stored(write: Callable[[], Awaitable[WriteReply]], what: str) -> int:
    """The loop of `publish`, without its end."""
    backoff, unanswered = Backoff(), False
    while True:
        try:
            reply = await write()
        except UNANSWERED:
            reply = None
        if isinstance(reply, int):
            # What is there already after a lost answer is our own: it counts as sent, with its number in the order.
            return int(reply) if unanswered else reply
        if isinstance(reply, Refused):
            if reply.why is Refusal.TOO_LARGE:
                raise PayloadError(f"{what} is larger than the server takes ({reply.text})")
            if reply.why is Refusal.DENIED:
                raise PermissionDeniedError(f"{what} is refused: {reply.text}")
            raise StorageError(f"the server refused {what}: {reply}")
        unanswered = True
        await backoff.pause()
