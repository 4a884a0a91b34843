"""Commands that run a worker: `worker` for production, `dev` with a server of its own. No engine in here."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import anyio
import typer

from romancy_nats.app import App
from romancy_nats.cli.connected import ShownCodec
from romancy_nats.cli.exits import exit_code
from romancy_nats.cli.inputs import read_input
from romancy_nats.cli.instances import conclude
from romancy_nats.cli.logs import Format, Level, LogLevel, set_up
from romancy_nats.cli.loops import new_loop
from romancy_nats.cli.options import AsJson, Input, Namespace, Target, Url, settings
from romancy_nats.cli.output import note
from romancy_nats.cli.process import Ending
from romancy_nats.cli.target import load_app, workflow_of
from romancy_nats.client.client import Client, session_of, start_plain
from romancy_nats.composition import server_url
from romancy_nats.core.definition import Workflow
from romancy_nats.core.ids import InstanceKey
from romancy_nats.errors import ConfigurationError
from romancy_nats.settings import Settings
from romancy_nats.worker import Worker

T = TypeVar("T")
STORE = Path(".romancy")
_HASH_SEED = "PYTHONHASHSEED"
_log = logging.getLogger("romancy.cli")


def worker(
    target: Target,
    url: Url = None,
    namespace: Namespace = None,
    log_level: Level = LogLevel.INFO,
    log_format: Format = None,
) -> None:
    """Run a worker until SIGTERM, which drains it: running turns finish, other workers take over the rest at once."""
    fix_hashes()
    ending = Ending()
    app = load_app(target)
    chosen = settings(url, namespace, lambda: app.settings)
    set_up(log_level, log_format, chosen.worker_id)
    if chosen.nats_url is None:
        raise ConfigurationError(
            "no server: say --url or set ROMANCY_NATS_URL, for example nats://localhost:4222; "
            "`romancy dev` runs a worker with a server of its own, for development"
        )

    async def main() -> None:
        async with working(app, chosen, ending) as (_, running):
            await ending.until_asked(running.wait())

    run_to_the_end(main, ending)


def dev(
    target: Target,
    run: Annotated[
        str | None,
        typer.Option("--run", help="Start this workflow, print its result and end.", metavar="WORKFLOW"),
    ] = None,
    input: Input = None,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
    log_level: Level = LogLevel.INFO,
    log_format: Format = None,
) -> None:
    """Run a worker with an embedded server, whose data stays in .romancy/, unless a URL is known.

    The lifespan and child processes find the server: ROMANCY_NATS_URL and ROMANCY_NAMESPACE are set for them.
    """
    fix_hashes()
    ending = Ending()
    app = load_app(target)
    chosen = settings(url, namespace, lambda: app.settings)
    set_up(log_level, log_format, chosen.worker_id)
    if chosen.watch_workflow_code is None:
        chosen = chosen.model_copy(update={"watch_workflow_code": True})
    if chosen.nats_url is None and chosen.store is None:
        chosen = chosen.model_copy(update={"store": _own_store()})
    workflow = None if run is None else workflow_of(app, run)
    body = read_input(input)

    async def main() -> None:
        async with working(app, chosen, ending) as (known, running):
            if workflow is None:
                # The one line on stdout, for people and scripts alike.
                print(f"export ROMANCY_NATS_URL={known}", flush=True)
                note(f"workflows: {', '.join(one.name for one in app.workflows)}; Ctrl-C ends it")
                await ending.until_asked(running.wait())
            else:
                await ending.until_asked(_run_once(known, chosen, workflow, body, as_json=as_json))

    run_to_the_end(main, ending)


async def _run_once(
    url: str, chosen: Settings, workflow: Workflow[..., object], body: object, *, as_json: bool
) -> None:
    async with Client.connect(url, settings=chosen) as client:
        session = session_of(client)
        key = InstanceKey(workflow.name, session.world.chance.id())
        handle = await start_plain(session, key, body, ShownCodec(), named=False)
        await conclude(handle, None, as_json=as_json)


def _own_store() -> Path:
    STORE.mkdir(exist_ok=True)
    ignored = STORE / ".gitignore"
    if not ignored.exists():
        ignored.write_text("*\n", encoding="utf-8")
    return STORE


@asynccontextmanager
async def working(app: App, chosen: Settings, ending: Ending) -> AsyncGenerator[tuple[str, Worker]]:
    """A worker of the app, and the URL of the server it works on; `ending` hears how far its end has come."""
    ending.grace = chosen.grace
    async with server_url(None, chosen) as known:
        with _environment(ROMANCY_NATS_URL=known, ROMANCY_NAMESPACE=chosen.namespace):
            async with app.worker(known, settings=chosen, signals=False) as running:
                names = ", ".join(workflow.name for workflow in app.workflows)
                _log.info(
                    "worker %s serves %s of %s at %s", running.incarnation, names, chosen.namespace, known
                )
                try:
                    yield known, running
                except Exception as error:
                    ending.code = error.exit_code if isinstance(error, typer.Exit) else exit_code(error)
                    raise
                finally:
                    with anyio.CancelScope(shield=True):
                        await running.drain()
                        _log.info("drained")
                        ending.drained()
                        await running.wait()
                        ending.closing()


@contextmanager
def _environment(**variables: str) -> Generator[None]:
    """Environment variables for as long as the block, for the lifespan, activities and child processes."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# --- the process


def fix_hashes() -> None:
    """Start this program again with a fixed PYTHONHASHSEED, so that sets of strings have one order everywhere (L7)."""
    if os.environ.get(_HASH_SEED, "random") == "random":
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, _HASH_SEED: "0"})


def run_to_the_end(command: Callable[[], Awaitable[T]], ending: Ending) -> T | None:
    """Run an async command, on uvloop where that is installed; None if a signal ended it."""
    result = anyio.run(ending.run, command, backend_options={"loop_factory": new_loop})
    ending.leave_if_asked()
    return result
