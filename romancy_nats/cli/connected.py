"""A command's hold on the server: a client for as long as its block, and results read without their classes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio

from romancy_nats.cli.options import settings
from romancy_nats.client import Client
from romancy_nats.core.payload import ValueCodec
from romancy_nats.core.shown import shown_value
from romancy_nats.handle import WorkflowHandle

T = TypeVar("T")


class ShownCodec(ValueCodec[Any]):
    """Decodes any result to JSON-like data: this process knows none of the classes in it."""

    def __init__(self) -> None:
        super().__init__(Any)

    def decode(self, data: bytes) -> object:
        """The value as it can be shown."""
        return shown_value(data, longest=None)


@asynccontextmanager
async def connected(url: str | None, namespace: str | None) -> AsyncGenerator[Client]:
    """A client of the namespace that the options name."""
    async with Client.connect(settings=settings(url, namespace)) as client:
        yield client


def handle_of(client: Client, id: str, workflow: str | None) -> WorkflowHandle[Any]:
    """A handle of an instance, whose result is shown rather than rebuilt."""
    return WorkflowHandle(client, client.get(id, workflow).id, workflow, ShownCodec())


def run_async(command: Callable[[], Awaitable[T]]) -> T:
    """Run an async command to its end."""
    return anyio.run(command)
