"""Requests made again with growing pauses until the server answers (L3), or until the patience of a client ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio

from romancy_nats.errors import ConnectionLostError, ServerUnavailableError
from romancy_nats.ports import World

T = TypeVar("T")
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0
UNANSWERED = (ServerUnavailableError, ConnectionLostError)
"""The errors of a request that may be made again."""
NOTHING_CHANGED = "nothing was changed; ask again"
"""What a client is told of a read without an answer."""


class Backoff:
    """The pauses between the tries of one request (s): each is twice as long as the one before, up to `longest`."""

    def __init__(self, first: float = _FIRST_PAUSE, longest: float = _LONGEST_PAUSE) -> None:
        self._next = first
        self._longest = longest

    async def pause(self) -> None:
        """Sleep until the next try is due."""
        await anyio.sleep(self._next)
        self._next = min(self._next * 2, self._longest)


@asynccontextmanager
async def answered_in_time(world: World, unknown: str) -> AsyncGenerator[asyncio.Timeout]:
    """A block that waits for the server: raises ServerUnavailableError, with `unknown`, after `World.patience`."""
    limit = asyncio.timeout(world.patience)
    try:
        async with limit:
            yield limit
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise ServerUnavailableError(
            f"the server did not answer within {world.patience:g} s (ROMANCY_CLIENT_TIMEOUT): {unknown}"
        ) from error


async def until_answered(world: World, ask: Callable[[], Awaitable[T]], unknown: str = NOTHING_CHANGED) -> T:
    """Make a request until it is answered; it changes nothing, or may be made twice.

    Raises ServerUnavailableError, with `unknown`, after `World.patience`.
    """
    backoff = Backoff()
    async with answered_in_time(world, unknown):
        while True:
            try:
                return await ask()
            except UNANSWERED:
                await backoff.pause()
