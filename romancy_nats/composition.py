"""From settings to a connected world, with the embedded server where no URL is given. Wiring only."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar

from romancy_nats.core.ids import check_namespace
from romancy_nats.errors import ConfigurationError
from romancy_nats.jetstream.server import EmbeddedServer
from romancy_nats.jetstream.world import JetStreamWorld, open_client_world, open_world
from romancy_nats.settings import Settings

_surrounding: ContextVar[Settings | None] = ContextVar("romancy settings of the worker around", default=None)


@contextmanager
def surrounding(settings: Settings) -> Generator[None]:
    """While inside, whoever connects without saying where connects with these settings: lifespans and activities."""
    before = _surrounding.get()
    _surrounding.set(settings)
    try:
        yield
    finally:
        # Not by its token: a block may end in another context than it began in.
        _surrounding.set(before)


def surrounding_settings() -> Settings:
    """The settings of the worker around this code, else those of the environment."""
    return _surrounding.get() or Settings()


@asynccontextmanager
async def server_url(url: str | None, settings: Settings) -> AsyncGenerator[str]:
    """The URL given, the one in the settings, or that of an embedded server that lives as long as this block."""
    known = url or settings.nats_url
    if known is not None:
        yield known
        return
    async with EmbeddedServer(store=settings.store, sync_always=settings.sync_always) as server:
        yield server.url


@asynccontextmanager
async def connect_world(
    settings: Settings, *, url: str | None = None, namespace: str | None = None, name: str = "romancy"
) -> AsyncGenerator[JetStreamWorld]:
    """Connect as a worker: streams that are missing are made. Raises ConfigurationError when no URL is known."""
    async with open_world(
        _known(url, settings),
        namespace=check_namespace(namespace or settings.namespace),
        shards=settings.shards,
        replicas=settings.replicas,
        lease_ttl=settings.lease_ttl,
        provision=settings.provision,
        name=f"{name}-{settings.worker_id or os.getpid()}",
        credentials=settings.credentials(),
        inbox_prefix=settings.inbox_prefix,
    ) as world:
        yield world


@asynccontextmanager
async def connect_client_world(
    settings: Settings, *, url: str | None = None, namespace: str | None = None, name: str = "romancy-client"
) -> AsyncGenerator[JetStreamWorld]:
    """Connect as a client: its first write makes missing streams. Raises ConfigurationError when no URL is known."""
    async with open_client_world(
        _known(url, settings),
        namespace=check_namespace(namespace or settings.namespace),
        shards=settings.shards,
        replicas=settings.replicas,
        lease_ttl=settings.lease_ttl,
        provision=settings.provision,
        name=f"{name}-{settings.worker_id or os.getpid()}",
        credentials=settings.credentials(),
        inbox_prefix=settings.inbox_prefix,
        patience=settings.client_timeout,
    ) as world:
        yield world


def _known(url: str | None, settings: Settings) -> str:
    known = url or settings.nats_url
    if known is None:
        raise ConfigurationError(
            "no server: give a URL, or set ROMANCY_NATS_URL; `romancy dev` and `app.run()` start one of their own"
        )
    if not known.isprintable():
        raise ConfigurationError(f"{known!a} is no URL of a server: it is one line of printable text")
    return known
