"""Where acceptance tests run: a namespace of one test on the real server, its workers and clients. No workflows."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from romancy_nats import App, Client, Settings, Worker, Workflow, WorkflowHandle

PATIENCE = 10.0
SHARDS = 2


class Place:
    """One namespace. Two workers here are two engines with a connection each."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.namespace = f"t{secrets.token_hex(5)}"

    def settings(self, **options: Any) -> Settings:
        """Quick: two shards, a short grace, so that a test does not wait for what it left behind."""
        return Settings(
            **{"namespace": self.namespace, "shards": SHARDS, "grace": 0.1, "lease_ttl": 5.0, **options}
        )

    def app(self, *workflows: Workflow[..., Any], settings: Settings | None = None, **options: Any) -> App:
        return App("test", workflows=workflows, settings=settings or self.settings(), **options)

    def run(self, *workflows: Workflow[..., Any], **options: Any) -> AbstractAsyncContextManager[Client]:
        """A worker with these workflows, and a client."""
        return self.app(*workflows, **options).run(self.url)

    def worker(self, *workflows: Workflow[..., Any], **options: Any) -> AbstractAsyncContextManager[Worker]:
        """One more worker."""
        return self.app(*workflows, **options).worker(self.url)

    def client(self) -> AbstractAsyncContextManager[Client]:
        """A client without a worker."""
        return Client.connect(self.url, settings=self.settings())

    @asynccontextmanager
    async def handed_over(
        self,
        *workflows: Workflow[..., Any],
        ready: Callable[[], bool],
        start: Callable[[Client], Awaitable[Any]],
    ) -> AsyncGenerator[tuple[Client, Any]]:
        """`start` something on one worker, drain it once `ready`, and go on with another: everything is replayed."""
        async with self.client() as client:
            async with self.worker(*workflows):
                started = await start(client)
                await until(ready)
            async with self.worker(*workflows):
                yield client, started


async def until(condition: Callable[[], bool], within: float = PATIENCE) -> float:
    """Wait until it is true; how long that took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within, "it never came true"
        await asyncio.sleep(0.005)
    return time.monotonic() - began


async def until_status(handle: WorkflowHandle[Any], *wanted: str, within: float = PATIENCE) -> float:
    """Wait until the instance has one of these statuses; how long that took."""
    began = time.monotonic()
    while (status := await handle.status()) not in wanted:
        assert time.monotonic() - began < within, f"it stayed {status}"
        await asyncio.sleep(0.01)
    return time.monotonic() - began
