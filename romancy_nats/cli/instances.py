"""Commands on one instance: start, result, status, cancel, terminate, retry; and the list of all."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from romancy_nats.cli.connected import (
    ShownCodec,
    connected,
    handle_of,
    is_there,
    note_unserved,
    nowhere,
    opened,
    run_async,
)
from romancy_nats.cli.exits import Exit
from romancy_nats.cli.inputs import read_input
from romancy_nats.cli.options import AsJson, Id, Input, Namespace, Timeout, Url, WorkflowName, settings
from romancy_nats.cli.output import (
    note,
    print_json,
    print_pairs,
    print_rows,
    print_value,
    printable,
    shown_time,
)
from romancy_nats.client.client import Client, session_of, start_plain
from romancy_nats.client.handle import WorkflowHandle
from romancy_nats.client.info import InstanceInfo
from romancy_nats.core.described import PendingActivityInfo
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.record import InstanceStatus
from romancy_nats.core.start_options import StartOptions
from romancy_nats.errors import (
    ConfigurationError,
    StartRejectedError,
    WorkflowCancelledError,
    WorkflowError,
    WorkflowFailedError,
    WorkflowStalledError,
    WorkflowTerminatedError,
)
from romancy_nats.jetstream import provision

Reason = Annotated[str, typer.Option("--reason", help="Why; it is recorded.", metavar="TEXT")]

_ENDED_AS: dict[type[WorkflowError], InstanceStatus] = {
    WorkflowFailedError: InstanceStatus.FAILED,
    WorkflowCancelledError: InstanceStatus.CANCELLED,
    WorkflowTerminatedError: InstanceStatus.TERMINATED,
    WorkflowStalledError: InstanceStatus.STALLED,
    StartRejectedError: InstanceStatus.REJECTED,
}
_MOMENTS = ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def start(
    workflow: Annotated[str, typer.Argument(metavar="WORKFLOW", help="The name of the workflow.")],
    input: Input = None,
    id: Annotated[str | None, typer.Option("--id", help="The id of the instance, else made up.")] = None,
    after: Annotated[
        float | None, typer.Option("--after", help="Begin so much later.", metavar="SECONDS")
    ] = None,
    at: Annotated[
        datetime | None,
        typer.Option(
            "--at",
            help="Begin then, in local time unless it says otherwise.",
            formats=_MOMENTS,
            metavar="TIME",
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end and print the result.")] = False,
    timeout: Timeout = None,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Start an instance of a workflow; prints its id once the start is durable.

    The worker checks the arguments: with --wait a rejected start is told here, else see `status` and the dead letters.
    """
    body = read_input(input)
    # Without an offset it is the time of whoever types it.
    begin = at if at is None or at.tzinfo is not None else at.astimezone()
    options = StartOptions.checked(start_delay=after, start_at=begin)

    async def main() -> None:
        async with connected(url, namespace) as client:
            session = session_of(client)
            key = InstanceKey(workflow, id if id is not None else session.world.chance.id())
            if id is not None and (held := await session.record_if_allowed(key)) is not None:
                note(
                    f"{key!r} exists already ({held.record.status}); another input for it would be a conflict"
                )
            handle = await start_plain(session, key, body, ShownCodec(), options, named=id is not None)
            if not wait or timeout is None:  # else the time-out says it
                await note_unserved(client, workflow)
            if wait:
                await conclude(handle, timeout, as_json=as_json)
            elif as_json:
                print_json({"workflow": key.workflow, "id": key.id})
            else:
                print(key.id)

    run_async(main)


def result(
    id: Id,
    workflow: WorkflowName = None,
    timeout: Timeout = None,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Wait for the end of an instance and print its result as JSON. Exit code 1 when it has none."""

    async def main() -> None:
        async with connected(url, namespace) as client:
            handle = handle_of(client, id, workflow)
            if timeout is None and not (await handle.status()).ended and handle.workflow is not None:
                await note_unserved(client, handle.workflow)
            await conclude(handle, timeout, as_json=as_json)

    run_async(main)


async def conclude(handle: WorkflowHandle[Any], timeout: float | None, *, as_json: bool) -> None:
    """Print the result of an instance; with `as_json` a failure is printed, too, before it is raised."""
    try:
        value = await handle.result(timeout)
    except WorkflowError as error:
        if as_json:
            print_json(_failure(handle, error))
        raise
    if as_json:
        told = {"workflow": handle.workflow, "id": handle.id, "status": InstanceStatus.COMPLETED}
        print_json({**told, "result": value})
    else:
        print_value(value)


def _failure(handle: WorkflowHandle[Any], error: WorkflowError) -> dict[str, object]:
    kind = error.error_type if isinstance(error, WorkflowFailedError) else type(error).__name__
    status = _ENDED_AS.get(type(error), InstanceStatus.FAILED)
    told = {"workflow": handle.workflow, "id": handle.id, "status": status}
    return {**told, "error_type": kind, "error": error.message}


def status(
    id: Id,
    workflow: WorkflowName = None,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Show where an instance stands, its compensations included."""

    async def main() -> None:
        async with connected(url, namespace) as client:
            info = await handle_of(client, id, workflow).describe()
            if not info.status.ended:
                await note_unserved(client, info.workflow)
        if as_json:
            print_json(plain_info(info))
        else:
            _show(info)

    run_async(main)


def _show(info: InstanceInfo) -> None:
    text, *below = (info.error or "").splitlines() or [""]
    known = asdict(info) | {"error": text}
    for name in ("compensations", "pending_activities"):
        del known[name]
    print_pairs((name.replace("_", " "), value) for name, value in known.items() if value != 0)
    for activity in info.pending_activities:
        print_pairs([(f"pending {activity.id}", _pending(activity))])
    print_pairs(
        (f"compensation of {one.activity_id}", " ".join(filter(None, (one.name, one.status, one.error))))
        for one in info.compensations
    )
    for line in below:
        print(printable(line))


def _pending(activity: PendingActivityInfo) -> str:
    told = [f"{activity.name}, attempt {activity.attempt}"]
    local = sys.stdout.isatty()
    if activity.since is not None:
        told.append(f"since {shown_time(activity.since, local=local)}")
    if activity.next_attempt is not None:
        told.append(f"next attempt {shown_time(activity.next_attempt, local=local)}")
    if activity.last_error:
        told.append(f"last error {activity.last_error}")
    if activity.heartbeat is not None:
        told.append(f"heartbeat {json.dumps(activity.heartbeat, ensure_ascii=False, default=str)}")
    if activity.compensates:
        told.append(f"compensates {activity.compensates}")
    return ", ".join(told)


def plain_info(info: InstanceInfo) -> dict[str, object]:
    """What is known of an instance, as `--json` prints it."""
    return asdict(info)


def list_instances(
    workflow: WorkflowName = None,
    status: Annotated[
        list[InstanceStatus] | None, typer.Option("--status", help="Only those with this status; repeatable.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", help="Created then or later: a time, or how long ago (30m, 2h, 3d).", metavar="TIME"
        ),
    ] = None,
    until: Annotated[str | None, typer.Option("--until", help="Created before that.", metavar="TIME")] = None,
    attribute: Annotated[
        list[str] | None,
        typer.Option("--attribute", help="Only those with this attribute; repeatable.", metavar="NAME=VALUE"),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="The newest so many.", min=1)] = None,
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", help="Of every namespace on the server.")
    ] = False,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """List instances, oldest first."""
    attributes = dict(map(_attribute, attribute or []))
    if all_namespaces and namespace is not None:
        raise ConfigurationError("say --namespace or --all-namespaces, not both")

    async def of(chosen: str | None) -> list[InstanceInfo]:
        async with connected(url, chosen) as client:
            found = client.list(workflow=workflow, status=status, since=since, until=until)
            return [info async for info in found if _has(info, attributes)]

    async def main() -> list[tuple[str, InstanceInfo]]:
        names = await namespaces(url) if all_namespaces else [settings(url, namespace).namespace]
        return [(name, info) for name in names for info in await of(name)]

    found = run_async(main)
    found.sort(key=lambda one: (one[1].created_at or _EPOCH, one[0], one[1].workflow, one[1].id))
    found = found[-(limit or 0) :]
    if as_json:
        print_json(
            [({"namespace": name} if all_namespaces else {}) | plain_info(info) for name, info in found]
        )
        return
    if not found and not all_namespaces and not run_async(lambda: _exists(url, namespace)):
        note(nowhere(settings(url, namespace)))
    columns: tuple[str, ...] = ("workflow", "id", "status", "created", "ended", "error")
    rows: list[tuple[object, ...]] = [
        (one.workflow, one.id, one.status, one.created_at, one.ended_at, _error(one)) for _, one in found
    ]
    if all_namespaces:
        columns = ("namespace", *columns)
        rows = [(name, *row) for (name, _), row in zip(found, rows, strict=True)]
    print_rows(columns, rows, empty="no instances")


async def _exists(url: str | None, namespace: str | None) -> bool:
    chosen = settings(url, namespace)
    async with opened(chosen) as connection:
        return await is_there(connection, chosen)


async def namespaces(url: str | None) -> list[str]:
    """The names of all namespaces on the server."""
    async with opened(settings(url, None)) as connection:
        return await provision.namespaces(connection)


def _attribute(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise ConfigurationError(f"--attribute {text}: say NAME=VALUE, for example --attribute customer=ada")
    return name, value


def _has(info: InstanceInfo, attributes: dict[str, str]) -> bool:
    """A value on the command line is that text, or the number, truth value or null that it spells in JSON."""
    known = info.attributes or {}
    return all(
        name in known and (known[name] == text or json.dumps(known[name], ensure_ascii=False) == text)
        for name, text in attributes.items()
    )


def _error(info: InstanceInfo) -> str:
    return ": ".join(filter(None, (info.error_type, info.error)))


def cancel(
    id: Id,
    reason: Reason = "",
    workflow: WorkflowName = None,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Cancel an instance: it compensates in reverse order and ends. Returns once the cancel is durable."""
    _say("cancel", id, reason, workflow, url, namespace, as_json=as_json)


def terminate(
    id: Id,
    reason: Reason = "",
    workflow: WorkflowName = None,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """End an instance at once, without compensation."""
    _say("terminate", id, reason, workflow, url, namespace, as_json=as_json)


def retry(
    id: Id,
    workflow: WorkflowName = None,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Try a stalled instance again."""
    _say("retry", id, "", workflow, url, namespace, as_json=as_json)


def _say(
    verb: str,
    id: str,
    reason: str,
    workflow: str | None,
    url: str | None,
    namespace: str | None,
    *,
    as_json: bool,
) -> None:
    async def main() -> bool:
        async with connected(url, namespace) as client:
            return await _deliver(client, verb, id, reason, workflow, as_json=as_json)

    if not run_async(main):
        raise typer.Exit(Exit.FAILED)


async def _deliver(
    client: Client, verb: str, id: str, reason: str, workflow: str | None, *, as_json: bool
) -> bool:
    handle = handle_of(client, id, workflow)
    took = await {
        "cancel": lambda: handle.cancel(reason),
        "terminate": lambda: handle.terminate(reason),
        "retry": handle.retry,
    }[verb]()
    if as_json:
        print_json({"workflow": handle.workflow, "id": handle.id, "command": verb, "accepted": took})
    if not took:
        state = await handle.status()
        why = "it is not stalled" if verb == "retry" else "it has ended already"
        note(f"{verb} of {handle.workflow}/{handle.id} had no effect: {why} ({state})")
    elif not as_json:
        print(f"{verb} of {handle.workflow}/{handle.id} is on its way")
    return took
