"""The application: its workflows and resources, and the blocks that run them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from romancy_nats.client import Client
from romancy_nats.composition import connect_world, server_url, surrounding
from romancy_nats.core.definition import Activity, Workflow
from romancy_nats.core.ids import check_name
from romancy_nats.core.logs import labelled
from romancy_nats.core.retry import RetryPolicy
from romancy_nats.errors import ConfigurationError
from romancy_nats.runtime.collector import rare_collections
from romancy_nats.settings import Settings
from romancy_nats.worker import Lifespan, Worker, running_worker

Overrides = Mapping[Activity[..., Any], Callable[..., object]]


class App:
    """Workflows that belong together, the resources their activities need, and how activities are retried.

    `lifespan` is a function without parameters (or with one, the app) that returns an async context manager; what it
    yields is `activity_context().state(Type)` on every worker.
    """

    def __init__(
        self,
        name: str = "app",
        *,
        workflows: Sequence[Workflow[..., Any]],
        lifespan: Callable[..., AbstractAsyncContextManager[object]] | None = None,
        default_retry: RetryPolicy | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.name = check_name(name)
        self.workflows = tuple(workflows)
        self.default_retry = default_retry
        self._lifespan = lifespan
        self._settings = settings
        for workflow in self.workflows:
            if not isinstance(workflow, Workflow):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigurationError(
                    f"App(workflows=…) takes workflows; decorate {workflow!r} with @workflow"
                )
        names = [workflow.name for workflow in self.workflows]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ConfigurationError(
                f"two workflows of one app have the same name: {', '.join(sorted(twice))}"
            )

    @property
    def settings(self) -> Settings:
        """The settings given, or those of the environment now."""
        return self._settings or Settings()

    @property
    def lifespan(self) -> Lifespan | None:
        """The resources of a worker."""
        made = self._lifespan
        if made is None:
            return None
        return lambda: made(self) if _takes_app(made) else made()

    @asynccontextmanager
    async def run(
        self, url: str | None = None, *, overrides: Overrides | None = None
    ) -> AsyncGenerator[Client]:
        """A server (embedded, unless a URL is known), a worker and a client, for as long as the block."""
        settings = self.settings
        async with (
            server_url(url, settings) as known,
            self._worker(known, settings, overrides, signals=False),
            Client.connect(known, settings=settings) as client,
        ):
            yield client

    @asynccontextmanager
    async def worker(
        self,
        url: str | None = None,
        *,
        overrides: Overrides | None = None,
        settings: Settings | None = None,
        signals: bool | None = None,
    ) -> AsyncGenerator[Worker]:
        """A worker until the block ends, on the server of the URL or of the settings: it never starts one.

        `signals=True`: SIGTERM and SIGINT drain the worker and end the block, a second one ends the process at once.
        `False`: they are left alone. By default each is taken that has no handler of the program's own, if the block
        runs in the program's main task: the lifespan of a web application leaves both to the web server, which ends
        the block and with it the worker. Raises ConfigurationError without any URL, ServerError.
        """
        chosen = settings or self.settings
        async with self._worker(url, chosen, overrides, signals=signals) as worker:
            with rare_collections():
                yield worker

    @asynccontextmanager
    async def _worker(
        self, url: str | None, settings: Settings, overrides: Overrides | None, *, signals: bool | None
    ) -> AsyncGenerator[Worker]:
        with labelled(settings.worker_id):
            async with self._labelled_worker(url, settings, overrides, signals=signals) as worker:
                yield worker

    @asynccontextmanager
    async def _labelled_worker(
        self, url: str | None, settings: Settings, overrides: Overrides | None, *, signals: bool | None
    ) -> AsyncGenerator[Worker]:
        async with connect_world(settings, url=url, name=f"romancy-worker-{self.name}") as world:
            known = settings if url is None else settings.model_copy(update={"nats_url": url})
            await world.ensure_consumers({w.name: w.max_concurrency for w in self.workflows})
            named = {activity.name: fn for activity, fn in (overrides or {}).items()}
            with surrounding(known):
                async with running_worker(
                    world,
                    self.workflows,
                    settings.tuning(self.default_retry),
                    lifespan=self.lifespan,
                    overrides=named,
                    signals=signals,
                ) as worker:
                    yield worker


def _takes_app(lifespan: Callable[..., object]) -> bool:
    from inspect import signature

    return len(signature(lifespan).parameters) == 1
