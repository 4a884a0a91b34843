"""Commands that speak with instances: send a message, publish an event, ask a query, call an update."""

from __future__ import annotations

import asyncio
from typing import Annotated, cast

import typer

from romancy_nats.cli.connected import connected, handle_of, run_async, target_of
from romancy_nats.cli.inputs import read_input, read_value
from romancy_nats.cli.options import AsJson, Id, Input, Namespace, Timeout, Url, WorkflowName
from romancy_nats.cli.output import print_json, print_value
from romancy_nats.client.session import Target
from romancy_nats.core.plain import encode_plain
from romancy_nats.core.shown import shown_value
from romancy_nats.errors import ConfigurationError

Data = Annotated[
    str | None,
    typer.Option("--data", help="JSON, else null; @FILE reads a file, - stdin.", metavar="JSON"),
]
MessageId = Annotated[
    str | None,
    typer.Option("--message-id", help="The same id twice counts once.", metavar="TEXT"),
]


def send(
    id: Id,
    channel: Annotated[str, typer.Argument(metavar="CHANNEL", help="What the workflow receives on.")],
    data: Data = None,
    metadata: Annotated[
        str | None, typer.Option("--metadata", help="A JSON object beside the data.", metavar="JSON")
    ] = None,
    message_id: MessageId = None,
    workflow: WorkflowName = None,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Send a message to an instance. Returns once it is durable; it is kept until the workflow receives it."""
    value, more = read_value(data, "--data"), read_value(metadata, "--metadata")
    if more is not None and not isinstance(more, dict):
        raise ConfigurationError("--metadata is a JSON object")
    fields = cast("dict[str, object] | None", more)

    async def main() -> None:
        async with connected(url, namespace) as client:
            handle = handle_of(client, id, workflow)
            await handle.send(channel, value, fields, message_id)
        if as_json:
            print_json({"workflow": handle.workflow, "id": handle.id, "channel": channel})
        else:
            print(f"sent to {handle.workflow}/{handle.id}")

    run_async(main)


def event(
    type: Annotated[str, typer.Argument(metavar="TYPE", help="For example payment.completed.")],
    data: Data = None,
    key: Annotated[str | None, typer.Option("--key", help="The CloudEvents subject.", metavar="TEXT")] = None,
    source: Annotated[
        str, typer.Option("--source", help="The CloudEvents source.", metavar="TEXT")
    ] = "romancy",
    message_id: MessageId = None,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Publish an event to every instance that waits for it now. Returns once it is durable."""
    value = read_value(data, "--data")

    async def main() -> None:
        async with connected(url, namespace) as client:
            await client.send_event(type, value, source=source, key=key, message_id=message_id)
        if as_json:
            print_json({"type": type, "source": source, "key": key})
        else:
            print(f"event {type} is published")

    run_async(main)


def query(
    id: Id,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The query, as the workflow calls it.")],
    input: Input = None,
    workflow: WorkflowName = None,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Ask an instance something, running or ended, and print the answer as JSON. It changes nothing."""
    body = _body(input)

    async def main() -> None:
        async with connected(url, namespace) as client:
            answer = await target_of(client, id, workflow).query(name, body)
        _print(answer, as_json=as_json)

    run_async(main)


def update(
    id: Id,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The update, as the workflow calls it.")],
    input: Input = None,
    message_id: MessageId = None,
    timeout: Timeout = None,
    workflow: WorkflowName = None,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Call an update of a running instance, wait for it and print what it returns as JSON."""
    body = _body(input)

    async def main() -> None:
        async with connected(url, namespace) as client:
            result = await _in_time(target_of(client, id, workflow), name, body, message_id, timeout)
        _print(result, as_json=as_json)

    run_async(main)


async def _in_time(
    target: Target, name: str, body: bytes, message_id: str | None, timeout: float | None
) -> bytes:
    """The result of an update. Raises TimeoutError after `timeout` seconds, with what the instance does instead."""
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            return await target.update(name, body, message_id)
    except TimeoutError as error:
        if not limit.expired():
            raise
        status = (await target.look()).record.status
        text = f"update {name!r} of {target!r} is not answered within {timeout:g} s: the instance is {status}"
        raise TimeoutError(f"{text}; the update stays with it") from error


def _body(input: str | None) -> bytes:
    given = read_input(input)
    return encode_plain(given, "--input") if given else b""


def _print(payload: bytes, *, as_json: bool) -> None:
    value = shown_value(payload, longest=None)
    if as_json:
        print_json(value)
    else:
        print_value(value)
