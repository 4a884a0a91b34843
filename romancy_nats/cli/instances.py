"""Commands on one instance: start, result, status, cancel, terminate, retry; and the list of all."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from romancy_nats.cli.connected import ShownCodec, connected, handle_of, run_async
from romancy_nats.cli.exits import Exit
from romancy_nats.cli.inputs import read_input
from romancy_nats.cli.options import AsJson, Id, Input, Namespace, Timeout, Url, WorkflowName
from romancy_nats.cli.output import note, print_json, print_pairs, print_rows, print_value
from romancy_nats.client import Client
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.record import InstanceStatus
from romancy_nats.core.start_options import StartOptions
from romancy_nats.errors import (
    RomancyError,
    StartRejectedError,
    WorkflowCancelledError,
    WorkflowError,
    WorkflowFailedError,
    WorkflowStalledError,
    WorkflowTerminatedError,
)
from romancy_nats.handle import InstanceInfo, WorkflowHandle
from romancy_nats.runtime.writing import read_record

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
            key = InstanceKey(workflow, id if id is not None else client.world.chance.id())
            if id is not None and (held := await read_record(client.world, key)) is not None:
                note(
                    f"{key!r} exists already ({held.record.status}); another input for it would be a conflict"
                )
            handle = await client.start_plain(key, body, ShownCodec(), options)
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
            await conclude(handle_of(client, id, workflow), timeout, as_json=as_json)

    run_async(main)


async def conclude(handle: WorkflowHandle[Any], timeout: float | None, *, as_json: bool) -> None:
    """Print the result of an instance; with `as_json` a failure is printed, too, before it is raised."""
    try:
        value = await handle.result(timeout)
    except WorkflowError as error:
        if as_json:
            print_json(_failure(handle, error))
        raise
    except TimeoutError as error:
        if isinstance(error, RomancyError):
            raise
        raise TimeoutError(f"{handle.id!r} has not ended within {timeout:g} s; it goes on") from error
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
        if as_json:
            print_json(plain_info(info))
        else:
            print_pairs(
                (name.replace("_", " "), value)
                for name, value in asdict(info).items()
                if name != "compensations" and not (name == "generation" and value == 0) and value != 0
            )
            print_pairs(
                (
                    f"compensation of {one.activity_id}",
                    " ".join(filter(None, (one.name, one.status, one.error))),
                )
                for one in info.compensations
            )

    run_async(main)


def plain_info(info: InstanceInfo) -> dict[str, object]:
    """What is known of an instance, as `--json` prints it."""
    return asdict(info)


def list_instances(
    workflow: WorkflowName = None,
    status: Annotated[
        InstanceStatus | None, typer.Option("--status", help="Only those with this status.")
    ] = None,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """List instances that were claimed by a worker once, oldest first."""

    async def main() -> None:
        async with connected(url, namespace) as client:
            found = [info async for info in client.list(workflow=workflow, status=status)]
        found.sort(key=lambda info: (info.created_at or _EPOCH, info.workflow, info.id))
        if as_json:
            print_json([plain_info(info) for info in found])
            return
        print_rows(
            ("workflow", "id", "status", "created", "ended", "error"),
            ((one.workflow, one.id, one.status, one.created_at, one.ended_at, _error(one)) for one in found),
            empty="no instances",
        )

    run_async(main)


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
