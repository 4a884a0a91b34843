"""A `nats-server` of our own, for development and tests. Never used in production; speaks no NATS."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from romancy_nats.errors import ServerStartError
from romancy_nats.jetstream.driving import uninterrupted
from romancy_nats.jetstream.server_process import ServerProcess

START_TIMEOUT = 10.0
STOP_TIMEOUT = 5.0
_POLL = 0.005


class LocalServer:
    """The blocking form: a process that may be killed and started again on the same port and store."""

    def __init__(
        self,
        store: Path | None = None,
        *,
        sync_always: bool = True,
        port: int | None = None,
        extra_config: str = "",
    ) -> None:
        self._process = ServerProcess(store, sync_always=sync_always, port=port, extra_config=extra_config)

    @property
    def url(self) -> str:
        return self._process.url

    @property
    def port(self) -> int:
        return self._process.port

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def store(self) -> Path:
        return self._process.store

    def start(self) -> None:
        """Returns when it answers. Raises ServerStartError, ServerBinaryMissingError."""
        self._process.spawn()
        try:
            _await_blocking(self._process.ready, START_TIMEOUT)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ask it to end, kill it when it does not, and remove what is ours."""
        self._process.terminate()
        try:
            _await_blocking(self._process.gone, STOP_TIMEOUT)
        except ServerStartError:
            self._process.kill()
        self._process.clean_up()

    def kill(self) -> None:
        """kill -9, and wait until it is gone. Store and port stay reserved for `restart`."""
        self._process.kill()

    def restart(self) -> None:
        """Start again after `kill`."""
        self.kill()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class EmbeddedServer:
    """`async with EmbeddedServer() as server: server.url`. Safe by default: fsync before every acknowledgement.

    A temporary store is removed at the end, a given one is kept.
    """

    def __init__(self, store: Path | None = None, sync_always: bool = True, port: int | None = None) -> None:
        self._process = ServerProcess(store, sync_always=sync_always, port=port)

    @property
    def url(self) -> str:
        return self._process.url

    @property
    def port(self) -> int:
        return self._process.port

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def store(self) -> Path:
        return self._process.store

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await uninterrupted(self._stop())

    def kill(self) -> None:
        """kill -9. Store and port stay reserved for `restart`."""
        self._process.kill()

    async def restart(self) -> None:
        """Kill it if it runs, and start it again on the same port and store."""
        self._process.kill()
        await self._start()

    async def _start(self) -> None:
        self._process.spawn()
        try:
            await _await(self._process.ready, START_TIMEOUT)
        except BaseException:
            await uninterrupted(self._stop())
            raise

    async def _stop(self) -> None:
        self._process.terminate()
        try:
            await _await(self._process.gone, STOP_TIMEOUT)
        except ServerStartError:
            self._process.kill()
        self._process.clean_up()


async def _await(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        _give_up_after(end, seconds)
        await asyncio.sleep(_POLL)


def _await_blocking(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        _give_up_after(end, seconds)
        time.sleep(_POLL)


def _give_up_after(end: float, seconds: float) -> None:
    if time.monotonic() > end:
        raise ServerStartError(f"nats-server took longer than {seconds:g} s to start or stop")
