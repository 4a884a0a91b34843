"""`romancy doctor`: what a worker needs from its server, looked at one by one. Changes nothing."""

from __future__ import annotations

from typing import NamedTuple

import typer

from romancy_nats.cli.connected import run_async
from romancy_nats.cli.exits import Exit
from romancy_nats.cli.options import AsJson, Namespace, Url, settings
from romancy_nats.cli.output import print_json, print_rows
from romancy_nats.cli.streams import opened, topology_of
from romancy_nats.jetstream import provision
from romancy_nats.jetstream.api import as_object, ask
from romancy_nats.jetstream.connection import Connection
from romancy_nats.jetstream.leases import JetStreamLeases
from romancy_nats.jetstream.topology import Topology


class Finding(NamedTuple):
    """One thing looked at."""

    what: str
    told: str
    ok: bool = True


def doctor(url: Url = None, namespace: Namespace = None, as_json: AsJson = False) -> None:
    """Look at the server, the streams of the namespace and its workers. Exit code 1 when something is wrong."""
    chosen = settings(url, namespace)

    async def main() -> list[Finding]:
        async with opened(chosen) as connection:
            topology = await topology_of(connection, chosen)
            return [
                Finding("server", f"{connection.server_version} at {connection.url}"),
                Finding("JetStream", "enabled"),
                Finding("largest message", f"{connection.max_payload:,} bytes"),
                await _streams(connection, topology),
                await _workers(connection, topology),
            ]

    findings = run_async(main)
    if as_json:
        print_json([one._asdict() for one in findings])
    else:
        rows = [("ok" if one.ok else "WRONG", one.what, one.told) for one in findings]
        print_rows(("", "what", "found"), rows, empty="")
    if not all(one.ok for one in findings):
        raise typer.Exit(Exit.FAILED)


async def _streams(connection: Connection, topology: Topology) -> Finding:
    differences = [one for one in await provision.diff(connection, topology) if not one.tunable]
    if not differences:
        return Finding("streams", f"{len(topology.streams())} as they should be, {topology.shards} shards")
    told = "; ".join(map(str, differences[:3])) + ("; …" if len(differences) > 3 else "")
    return Finding("streams", f"{told}: see `romancy streams diff` and `romancy streams apply`", ok=False)


async def _workers(connection: Connection, topology: Topology) -> Finding:
    subjects = topology.subjects
    request: dict[str, object] = {"subjects_filter": ">"}
    answer = await ask(connection, f"STREAM.INFO.{subjects.workers_stream}", request)
    held = as_object(answer.part("state").get("subjects"))
    leases = JetStreamLeases(connection, subjects)
    # A key that expired leaves a marker behind for a while; only the lease itself tells.
    alive = [name for name in map(subjects.read_lease, held) if await leases.alive(name)]
    return Finding("workers", f"{len(alive)} alive" + (f": {', '.join(sorted(alive))}" if alive else ""))
