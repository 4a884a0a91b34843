"""Commands on the streams of a namespace: `streams apply`, `diff`, `export`. What they should be is elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, cast

import typer

from romancy_nats.cli.connected import opened, run_async
from romancy_nats.cli.exits import Exit
from romancy_nats.cli.options import AsJson, Namespace, Url, settings
from romancy_nats.cli.output import print_json, print_rows
from romancy_nats.cli.target import load_app
from romancy_nats.errors import ConfigurationError, StreamMissingError
from romancy_nats.jetstream import provision
from romancy_nats.jetstream.connection import Connection
from romancy_nats.jetstream.provision import Difference
from romancy_nats.jetstream.topology import Topology, export
from romancy_nats.jetstream.world import ACK_WAIT_MARGIN
from romancy_nats.settings import Settings

group = typer.Typer(
    name="streams",
    help="The streams, buckets and consumers of a namespace.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
AppOption = Annotated[
    str | None,
    typer.Option("--app", help="Also the consumers of this app's workflows.", metavar="MODULE:app"),
]
Workflows = Annotated[
    list[str] | None, typer.Option("--workflow", help="Also the consumers of this workflow; repeatable.")
]


@group.command()
def apply(
    app: AppOption = None,
    workflow: Workflows = None,
    tunable: Annotated[
        bool, typer.Option("--tunable", help="Change also what an operator may choose (replicas, ages, …).")
    ] = False,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Create what is missing and update what differs. Deletes nothing."""
    chosen, served = settings(url, namespace), _served(app, workflow)

    async def main() -> list[Difference]:
        async with opened(chosen) as connection:
            topology = await topology_of(connection, chosen)
            changes = await provision.apply(connection, topology, tunable=tunable)
            ack_wait = chosen.lease_ttl + ACK_WAIT_MARGIN
            await provision.ensure_consumers(connection, topology, served, ack_wait)
            return changes

    _show(run_async(main), as_json=as_json, empty="nothing to change")


@group.command()
def diff(url: Url = None, namespace: Namespace = None, as_json: AsJson = False) -> None:
    """Show where the server differs from what it should be. Exit code 1 when it does in what must be right."""
    chosen = settings(url, namespace)

    async def main() -> list[Difference]:
        async with opened(chosen) as connection:
            return await provision.diff(connection, await topology_of(connection, chosen))

    differences = run_async(main)
    _show(differences, as_json=as_json, empty="no difference")
    if any(not one.tunable for one in differences):
        raise typer.Exit(Exit.FAILED)


@group.command(name="export")
def export_files(
    directory: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIR]", help="Where to write one file each; else all in one JSON object to stdout."
        ),
    ] = None,
    app: AppOption = None,
    workflow: Workflows = None,
    namespace: Namespace = None,
) -> None:
    """Write the configurations as `nats stream add --config` and `nats consumer add --config` take them."""
    chosen = settings(None, namespace)
    files = export(_wanted(chosen), tuple(_served(app, workflow)))
    if directory is None:
        print_json({name: json.loads(text) for name, text in files.items()})
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"cannot write to {directory}: {error.strerror}") from error
    print(f"{len(files)} files in {directory}")


async def topology_of(connection: Connection, chosen: Settings) -> Topology:
    """The namespace with the number of shards it was created with, or as it would be created."""
    wanted = _wanted(chosen)
    try:
        return await provision.read_topology(connection, wanted)
    except StreamMissingError:
        return wanted


def _wanted(chosen: Settings) -> Topology:
    return Topology(chosen.namespace, chosen.shards, chosen.replicas)


def _served(app: str | None, workflows: list[str] | None) -> dict[str, int | None]:
    served: dict[str, int | None] = dict.fromkeys(workflows or [])
    if app is not None:
        served |= {one.name: one.max_concurrency for one in load_app(app).workflows}
    return served


def _show(differences: list[Difference], *, as_json: bool, empty: str) -> None:
    if as_json:
        print_json([{**one._asdict(), "tunable": one.tunable} for one in differences])
        return
    rows = (
        (one.stream, one.setting or "(missing)", *((one.wanted, one.found) if one.setting else ("", "")))
        for one in differences
    )
    print_rows(
        ("stream", "setting", "wanted", "found"), cast("list[tuple[object, ...]]", list(rows)), empty=empty
    )
