"""From settings to a connected world, with the embedded server where no URL is given. Wiring only."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import replace

from romancy_nats.core.ids import check_namespace
from romancy_nats.core.retry import DEFAULT_RETRY, RetryPolicy
from romancy_nats.errors import ConfigurationError
from romancy_nats.jetstream.connect_options import ConnectOptions
from romancy_nats.jetstream.credentials import Credentials
from romancy_nats.jetstream.server import EmbeddedServer
from romancy_nats.jetstream.world import ACK_WAIT_MARGIN, JetStreamWorld, open_client_world, open_world
from romancy_nats.runtime.tuning import Tuning
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


def connect_world(
    settings: Settings, *, url: str | None = None, name: str = "romancy"
) -> AbstractAsyncContextManager[JetStreamWorld]:
    """Connect as a worker: streams that are missing are made. Raises ConfigurationError when no URL is known."""
    return open_world(connect_options(_known(url, settings), settings, name))


def connect_client_world(
    settings: Settings, *, url: str | None = None, namespace: str | None = None
) -> AbstractAsyncContextManager[JetStreamWorld]:
    """Connect as a client: its first write makes missing streams. Raises ConfigurationError when no URL is known."""
    options = connect_options(_known(url, settings), settings, "romancy-client")
    if namespace:
        options = replace(options, namespace=check_namespace(namespace))
    return open_client_world(options, patience=settings.client_timeout)


def connect_options(url: str, settings: Settings, name: str) -> ConnectOptions:
    """Where and how to connect, by the settings; the server lists the connection as `name` and the worker's id."""
    return ConnectOptions(
        url,
        namespace=check_namespace(settings.namespace),
        shards=settings.shards,
        replicas=settings.replicas,
        lease_ttl=settings.lease_ttl,
        provision=settings.provision,
        name=f"{name}-{settings.worker_id or os.getpid()}",
        credentials=_credentials(settings),
        inbox_prefix=settings.inbox_prefix,
    )


def _credentials(settings: Settings) -> Credentials:
    return Credentials(
        user_credentials=str(settings.user_credentials) if settings.user_credentials else None,
        nkeys_seed=settings.nkeys_seed,
        token=settings.token,
        user=settings.user,
        password=settings.password,
        tls=_tls(settings),
    )


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_ca is None and settings.tls_cert is None:
        return None
    context = ssl.create_default_context(cafile=str(settings.tls_ca) if settings.tls_ca else None)
    if settings.tls_cert is not None:
        context.load_cert_chain(str(settings.tls_cert), str(settings.tls_key) if settings.tls_key else None)
    return context


def tuning(settings: Settings, retry: RetryPolicy | None = None) -> Tuning:
    """The numbers that a worker runs by."""
    return Tuning(
        lease_ttl=settings.lease_ttl,
        ack_wait=settings.lease_ttl + ACK_WAIT_MARGIN,
        concurrency=settings.concurrency,
        threads=settings.threads,
        grace=settings.grace,
        max_takeovers=settings.max_takeovers,
        sweep_every=settings.sweep_every,
        block_warning=settings.block_warning,
        watches_workflow_code=bool(settings.watch_workflow_code),
        unknown_workflow_after=settings.unknown_workflow_after,
        archive_after=settings.archive_after,
        retention=settings.retention,
        retry=retry or DEFAULT_RETRY,
        label=settings.worker_id,
    )


def _known(url: str | None, settings: Settings) -> str:
    known = url or settings.nats_url
    if known is None:
        raise ConfigurationError(
            "no server: give a URL, or set ROMANCY_NATS_URL; `romancy dev` and `app.run()` start one of their own"
        )
    if not known.isprintable():
        raise ConfigurationError(f"{known!a} is no URL of a server: it is one line of printable text")
    return known
