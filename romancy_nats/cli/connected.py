"""A command's hold on the server: a client for as long as its block, and results read without their classes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio

from romancy_nats.cli.exits import NotThereError
from romancy_nats.cli.options import settings
from romancy_nats.cli.output import note
from romancy_nats.client.client import Client, session_of
from romancy_nats.client.handle import WorkflowHandle
from romancy_nats.client.session import Target
from romancy_nats.composition import connect_options
from romancy_nats.core.payload import ValueCodec
from romancy_nats.core.shown import shown_value
from romancy_nats.errors import ConfigurationError, InstanceNotFoundError, StreamMissingError
from romancy_nats.jetstream import provision
from romancy_nats.jetstream.connection import Connection
from romancy_nats.jetstream.topology import Topology
from romancy_nats.jetstream.world import open_connection
from romancy_nats.settings import Settings

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
    """A client of the namespace that the options name. What is not found in an empty namespace says so."""
    chosen = settings(url, namespace)
    async with Client.connect(settings=chosen) as client:
        try:
            yield client
        except InstanceNotFoundError as error:
            async with opened(chosen) as connection:
                known = await is_there(connection, chosen)
            if known:
                raise
            raise NotThereError(f"no instance {error.instance_id!r}: {nowhere(chosen)}") from error


async def is_there(connection: Connection, chosen: Settings) -> bool:
    """Whether the namespace has streams."""
    try:
        await provision.read_topology(connection, Topology(chosen.namespace))
    except StreamMissingError:
        return False
    return True


def nowhere(chosen: Settings) -> str:
    """That the namespace has no streams, and what that may mean."""
    return (
        f"namespace {chosen.namespace!r} has no streams at {chosen.nats_url}; are --namespace and --url right? "
        "A worker makes them when it starts, so does `romancy streams apply`"
    )


@asynccontextmanager
async def opened(chosen: Settings) -> AsyncGenerator[Connection]:
    """A connection that creates nothing."""
    if chosen.nats_url is None:
        raise ConfigurationError("no server: say --url, or set ROMANCY_NATS_URL")
    async with open_connection(connect_options(chosen.nats_url, chosen, "romancy-cli")) as connection:
        yield connection


def handle_of(client: Client, id: str, workflow: str | None) -> WorkflowHandle[Any]:
    """A handle of an instance, whose result is shown rather than rebuilt."""
    return WorkflowHandle(target_of(client, id, workflow), ShownCodec())


def target_of(client: Client, id: str, workflow: str | None) -> Target:
    """An instance to which a command speaks in payloads."""
    return Target(session_of(client), id, workflow)


async def note_unserved(client: Client, workflow: str) -> None:
    """Say that no worker serves a workflow just now, before anybody waits for one."""
    if text := await session_of(client).unserved(workflow):
        note(text)


def run_async(command: Callable[[], Awaitable[T]]) -> T:
    """Run an async command to its end."""
    return anyio.run(command)
