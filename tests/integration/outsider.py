"""A program that knows nothing of this package: plain nats-py, as any language would do it. No assertions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import nats
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from tests.integration.place import Place


class Outsider:
    """Publishes starts and reads dead letters."""

    def __init__(self, connection: Nats, place: Place) -> None:
        self.connection = connection
        self._place = place
        self._streams = connection.jetstream()

    async def start(self, workflow: str, body: bytes | object = b"", **headers: str) -> int:
        """Publish `<namespace>.start.<workflow>`; a body that is not bytes is sent as JSON. Returns its sequence.

        Header names are given with underscores.
        """
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        subject = f"{self._place.namespace}.start.{workflow}"
        return (await self._streams.publish(subject, data, headers=named or None)).seq

    async def ask(self, workflow: str, body: bytes | object = b"", **headers: str) -> dict[str, Any]:
        """Start with `Romancy-Reply-To` and give back the answer."""
        inbox = self.connection.new_inbox()
        answers = await self.connection.subscribe(inbox, max_msgs=1)
        await self.start(workflow, body, Romancy_Reply_To=inbox, **headers)
        answer = await answers.next_msg(timeout=10)
        found: dict[str, Any] = json.loads(answer.data)
        return found

    async def dead_letters(self, workflow: str, count: int = 1) -> list[Msg]:
        """As many dead letters of a workflow, once they are there."""
        subject = f"{self._place.namespace}.dead.{workflow}"
        stream = f"{self._place.namespace.upper()}_DEAD"
        letters = await self._streams.subscribe(subject, stream=stream, ordered_consumer=True)
        try:
            return [await letters.next_msg(timeout=10) for _ in range(count)]
        finally:
            await letters.unsubscribe()

    async def dead_count(self) -> int:
        """How many dead letters there are."""
        return (await self._streams.stream_info(f"{self._place.namespace.upper()}_DEAD")).state.messages

    async def drained(self, seconds: float = 10.0) -> bool:
        """Whether the start queue becomes empty: an ack is on its way when the client hears of the end."""
        for _ in range(int(seconds * 20)):
            if await self.waiting_count() == 0:
                return True
            await asyncio.sleep(0.05)
        return False

    async def waiting_count(self) -> int:
        """How many starts nobody has answered."""
        return (await self._streams.stream_info(f"{self._place.namespace.upper()}_START")).state.messages


@asynccontextmanager
async def outsider(place: Place) -> AsyncGenerator[Outsider]:
    """Connected for as long as the block."""
    connection = await nats.connect(place.url)
    try:
        yield Outsider(connection, place)
    finally:
        await connection.close()
