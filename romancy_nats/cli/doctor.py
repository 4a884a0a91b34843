"""`romancy doctor`: what a worker needs from its server, looked at one by one. Changes nothing."""

from __future__ import annotations

from typing import NamedTuple

import typer

from romancy_nats.cli.connected import opened, run_async
from romancy_nats.cli.exits import Exit
from romancy_nats.cli.options import AsJson, Namespace, Url, settings
from romancy_nats.cli.output import print_json, print_rows
from romancy_nats.cli.streams import topology_of
from romancy_nats.jetstream import provision
from romancy_nats.jetstream.api import as_object, ask
from romancy_nats.jetstream.connection import Connection
from romancy_nats.jetstream.leases import JetStreamLeases
from romancy_nats.jetstream.overview import Standing, dead_letters, standings
from romancy_nats.jetstream.topology import Topology


class Finding(NamedTuple):
    """One thing looked at. `values` are the figures in it, by name."""

    what: str
    told: str
    ok: bool = True
    values: dict[str, object] = {}  # noqa: RUF012 - nobody changes it


def doctor(url: Url = None, namespace: Namespace = None, as_json: AsJson = False) -> None:
    """Look at the server, the streams of the namespace, its workers and workflows. Changes nothing.

    Exit code 1 where somebody has to act: streams that are missing or differ, instances that are stalled, dead letters,
    starts or instances of a workflow that no worker serves.
    """
    chosen = settings(url, namespace)

    async def main() -> list[Finding]:
        async with opened(chosen) as connection:
            topology = await topology_of(connection, chosen)
            findings = [
                Finding("server", f"{connection.server_version} at {connection.url}"),
                Finding("JetStream", "enabled"),
                Finding("largest message", f"{connection.max_payload:,} bytes"),
                await _streams(connection, topology),
            ]
            if findings[-1].ok:
                # What is not there holds nothing.
                alive = await _alive(connection, topology)
                told = f"{len(alive)} alive" + (f": {', '.join(alive)}" if alive else "")
                findings.append(Finding("workers", told, values={"workers": alive}))
                for one in await standings(connection, topology):
                    # A pull of a worker that was killed is counted until it expires.
                    one.workers = min(one.workers, len(alive))
                    findings.append(_workflow(one))
                findings.append(_letters(await dead_letters(connection, topology)))
            return findings

    findings = run_async(main)
    if as_json:
        print_json([one._asdict() for one in findings])
    else:
        rows = [("ok" if one.ok else "WRONG", one.what, one.told) for one in findings]
        print_rows(("", "what", "found"), rows, empty="")
    if not all(one.ok for one in findings):
        raise typer.Exit(Exit.FAILED)


def _workflow(one: Standing) -> Finding:
    told = [f"{one.workers} worker{'' if one.workers == 1 else 's'}", f"{one.queued} queued"]
    told += [f"{number} {status}" for status, number in sorted(one.statuses.items())]
    trouble: list[str] = []
    if not one.workers and (one.queued or one.live):
        trouble.append("no worker serves it: start one with `romancy worker`")
    if one.stalled:
        trouble.append(f"see `romancy list --workflow {one.workflow} --status stalled`, then `romancy retry`")
    values: dict[str, object] = {
        "workflow": one.workflow,
        "workers": one.workers,
        "queued": one.queued,
        "stalled": one.stalled,
        "live": one.live,
        "statuses": {str(status): number for status, number in sorted(one.statuses.items())},
    }
    return Finding(f"workflow {one.workflow}", "; ".join([", ".join(told), *trouble]), not trouble, values)


def _letters(number: int) -> Finding:
    trouble = "; see `romancy dead list`, then redrive or delete them" if number else ""
    return Finding("dead letters", f"{number}{trouble}", not number, {"dead_letters": number})


async def _streams(connection: Connection, topology: Topology) -> Finding:
    differences = [one for one in await provision.diff(connection, topology) if not one.tunable]
    if not differences:
        return Finding("streams", f"{len(topology.streams())} as they should be, {topology.shards} shards")
    told = "; ".join(map(str, differences[:3])) + ("; …" if len(differences) > 3 else "")
    return Finding("streams", f"{told}: see `romancy streams diff` and `romancy streams apply`", ok=False)


async def _alive(connection: Connection, topology: Topology) -> list[str]:
    subjects = topology.subjects
    request: dict[str, object] = {"subjects_filter": ">"}
    answer = await ask(connection, f"STREAM.INFO.{subjects.workers_stream}", request)
    held = as_object(answer.part("state").get("subjects"))
    leases = JetStreamLeases(connection, subjects)
    # A key that expired leaves a marker behind for a while; only the lease itself tells.
    return sorted([name for name in map(subjects.read_lease, held) if await leases.alive(name)])
