"""The application: its workflows and resources, and the blocks that run them."""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import cache
from typing import Any, Literal, Never, TypeVar, cast

from romancy_nats.client.client import Client
from romancy_nats.composition import connect_world, server_url, surrounding, tuning
from romancy_nats.core.activity import Activity
from romancy_nats.core.decorating import check_options
from romancy_nats.core.definition import Workflow
from romancy_nats.core.error_text import class_name
from romancy_nats.core.ids import check_name
from romancy_nats.core.logs import labelled
from romancy_nats.core.reachable import misfit_definitions
from romancy_nats.core.retry import RetryPolicy
from romancy_nats.errors import ConfigurationError
from romancy_nats.runtime.collector import rare_collections
from romancy_nats.settings import Settings
from romancy_nats.worker import Lifespan, Worker, running_worker

Overrides = Mapping[Activity[..., Any], Callable[..., object]]
Replacements = Mapping[str, Callable[..., object]]


T = TypeVar("T")
_log = logging.getLogger("romancy.worker")


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
        inputs: Literal["stall", "warn"] = "stall",
        **unknown: Never,
    ) -> None:
        """`inputs` is what happens when replayed code gives a recorded call another input than was recorded.

        "stall" stops the instance until fitting code appears; "warn" logs it once per instance and goes on with what
        was recorded.
        """
        check_options("App", unknown, ("workflows", "lifespan", "default_retry", "settings", "inputs"))
        self.name = check_name(name, "the name of an app")
        if inputs not in ("stall", "warn"):
            raise ConfigurationError(f'App(inputs=…) is "stall" or "warn", not {inputs!r}')
        self.inputs = inputs
        self.workflows = _checked_workflows(workflows)
        self.default_retry = _checked(default_retry, RetryPolicy, "default_retry")
        self._lifespan = _checked_lifespan(lifespan)
        self._settings = _checked(settings, Settings, "settings")
        names = [workflow.name for workflow in self.workflows]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ConfigurationError(
                f"two workflows of one app have the same name: {', '.join(sorted(twice))}"
            )
        if wrong := misfit_definitions(self.workflows):
            raise ConfigurationError("\n".join(wrong))

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
        return lambda: _resources(made(self) if _takes_app(made) else made())

    @asynccontextmanager
    async def run(
        self, url: str | None = None, *, overrides: Overrides | None = None
    ) -> AsyncGenerator[Client]:
        """A server (embedded, unless a URL is known), a worker and a client, for as long as the block."""
        settings, replacements = self.settings, _named(overrides)
        if settings.watch_workflow_code is None:
            # With a server of its own, or with activities replaced, this is development or a test.
            tried = overrides is not None or (url or settings.nats_url) is None
            settings = settings.model_copy(update={"watch_workflow_code": tried})
        async with (
            server_url(url, settings) as known,
            self._worker(known, settings, replacements, signals=False),
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
        """A worker until the block ends. Without any URL it has an embedded server of its own, as `run` has.

        `signals=True`: SIGTERM and SIGINT drain the worker and end the block, a second one ends the process at once.
        `False`: they are left alone. By default each is taken that has no handler of the program's own, if the block
        runs in the program's main task: the lifespan of a web application leaves both to the web server, which ends
        the block and with it the worker. Raises ServerError.
        """
        chosen, replacements = settings or self.settings, _named(overrides)
        with labelled(chosen.worker_id):
            _warn_of_random_hashes()
        async with (
            server_url(url, chosen) as known,
            self._worker(known, chosen, replacements, signals=signals) as worker,
        ):
            with rare_collections():
                yield worker

    @asynccontextmanager
    async def _worker(
        self, url: str | None, settings: Settings, overrides: Replacements, *, signals: bool | None
    ) -> AsyncGenerator[Worker]:
        with labelled(settings.worker_id):
            async with self._labelled_worker(url, settings, overrides, signals=signals) as worker:
                yield worker

    @asynccontextmanager
    async def _labelled_worker(
        self, url: str | None, settings: Settings, overrides: Replacements, *, signals: bool | None
    ) -> AsyncGenerator[Worker]:
        async with connect_world(settings, url=url, name=f"romancy-worker-{self.name}") as world:
            known = settings if url is None else settings.model_copy(update={"nats_url": url})
            await world.ensure_consumers({w.name: w.max_concurrency for w in self.workflows})
            with surrounding(known):
                async with running_worker(
                    world,
                    self.workflows,
                    replace(tuning(settings, self.default_retry), inputs_stall=self.inputs == "stall"),
                    lifespan=self.lifespan,
                    overrides=overrides,
                    signals=signals,
                ) as worker:
                    yield worker


@cache
def _warn_of_random_hashes() -> None:
    """Say once that sets of text have another order in each process; `romancy worker` fixes it."""
    if sys.flags.ignore_environment or os.environ.get("PYTHONHASHSEED", "random") == "random":
        _log.warning(
            "hashes are random: workflow code that walks through a set of text does so in another order in another "
            "process, and its instances stall there; start all workers with the same PYTHONHASHSEED (as `romancy "
            "worker` does), or sort such sets"
        )


def _named(overrides: Any) -> dict[str, Callable[..., object]]:
    """The replacements by the name of their activity; raises ConfigurationError for what cannot replace one."""
    if not isinstance(overrides or {}, Mapping):
        raise ConfigurationError(f"overrides is a mapping from activities to functions, not {overrides!r}")
    named: dict[str, Callable[..., object]] = {}
    for activity, fn in cast("Mapping[object, object]", overrides or {}).items():
        if not isinstance(activity, Activity):
            raise ConfigurationError(
                f"overrides={{activity: function}} takes activities as keys, not {activity!r}"
            )
        if not callable(fn):
            raise ConfigurationError(
                f"overrides: {fn!r} cannot be called in place of activity {activity.name!r}; "
                "give a function, plain or async"
            )
        named[activity.name] = cast("Activity[..., Any]", fn).fn if isinstance(fn, Activity) else fn
    return named


def _resources(made: Any) -> AbstractAsyncContextManager[object]:
    cls = cast("type[object]", type(made))
    if hasattr(cls, "__aenter__") and hasattr(cls, "__aexit__"):
        return cast("AbstractAsyncContextManager[object]", made)
    raise ConfigurationError(
        f"App(lifespan=…) takes a function that returns an async context manager, not {class_name(cls)}; "
        "decorate an async generator function with @contextlib.asynccontextmanager"
    )


def _checked_workflows(given: object) -> tuple[Workflow[..., Any], ...]:
    if isinstance(given, Workflow) or not isinstance(given, Iterable):
        raise ConfigurationError(f"App(workflows=[…]) takes a list of workflows, not {given!r}")
    workflows: tuple[Any, ...] = tuple(cast("Any", given))
    for one in workflows:
        if isinstance(one, Activity):
            raise ConfigurationError(
                f"App(workflows=…) takes workflows, not {one!r}: it is known by the workflow that calls it"
            )
        if not isinstance(one, Workflow):
            raise ConfigurationError(f"App(workflows=…) takes workflows; decorate {one!r} with @workflow")
    return workflows


def _checked(given: T, wanted: type, name: str) -> T:
    if given is not None and not isinstance(given, wanted):
        raise ConfigurationError(f"App({name}=…) takes a {wanted.__name__}, not {given!r}")
    return given


def _checked_lifespan(given: Any) -> Callable[..., AbstractAsyncContextManager[object]] | None:
    if inspect.isasyncgenfunction(given):
        raise ConfigurationError(
            "App(lifespan=…) takes a function that returns an async context manager: decorate "
            f"{given.__name__!r}, an async generator function, with @contextlib.asynccontextmanager"
        )
    if given is not None and not callable(given):
        raise ConfigurationError(
            f"App(lifespan=…) takes a function that returns an async context manager, not {given!r}"
        )
    return cast("Callable[..., AbstractAsyncContextManager[object]] | None", given)


def _takes_app(lifespan: Callable[..., object]) -> bool:
    from inspect import signature

    try:
        return len(signature(lifespan).parameters) == 1
    except (TypeError, ValueError):
        # Written in C, say.
        return False
