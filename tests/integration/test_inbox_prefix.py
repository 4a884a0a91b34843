"""A custom inbox prefix: whatever is answered at an inbox is answered under it, too."""

from __future__ import annotations

import asyncio
import secrets

import pytest
from pydantic import ValidationError

from romancy_nats import App, Client, Settings, WorkflowContext, workflow
from romancy_nats.core.ids import InstanceKey
from romancy_nats.jetstream.connect_options import ConnectOptions
from romancy_nats.jetstream.server import LocalServer
from romancy_nats.jetstream.world import open_world
from tests.integration.place import SHARDS, Place, until

SOON = 10.0
"""Seconds within which an answer at an inbox comes; without one the client looks again later, or gives up."""


@workflow
async def counter(ctx: WorkflowContext) -> int:
    total = 0

    def add(n: int) -> int:
        nonlocal total
        total += n
        return total

    ctx.on_query("total", lambda: total)
    ctx.on_update("add", add)
    await ctx.receive("stop")
    return total


@workflow
async def at_once(ctx: WorkflowContext) -> str:
    await ctx.sleep(0.3)
    return ctx.instance_id


PREFIXES = ["ACME", "_INBOX.acme", "_INBOX_acme", "a.b.c-d"]


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_queries_updates_and_notices_are_answered(place: Place, prefix: str) -> None:
    app = App(
        "test", workflows=[counter, at_once], settings=place.settings(nats_url=place.url, inbox_prefix=prefix)
    )
    async with app.run() as client:
        handle = await client.start(counter)
        assert await asyncio.wait_for(handle.query("total"), SOON) == 0
        assert await asyncio.wait_for(handle.update("add", 3), SOON) == 3
        # Its own start tells a client by notice; it looks for itself after ten seconds.
        async with asyncio.timeout(SOON):
            await client.execute(at_once)


@pytest.mark.parametrize("prefix", ["ACME", "_INBOX.acme"])
async def test_a_client_with_the_usual_inboxes_is_answered(place: Place, prefix: str) -> None:
    async with (
        place.worker(counter, settings=place.settings(inbox_prefix=prefix)),
        Client.connect(place.url, settings=place.settings()) as client,
    ):
        handle = await client.start(counter)
        assert await asyncio.wait_for(handle.query("total"), SOON) == 0


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_each_kind_of_answer_reaches_its_inbox(nats_server: LocalServer, prefix: str) -> None:
    """Forwards ask an incarnation, queries a workflow; updates and results come as notices; each with announcements."""
    namespace = f"t{secrets.token_hex(5)}"
    options = {"namespace": namespace, "shards": SHARDS, "inbox_prefix": prefix}
    async with (
        open_world(ConnectOptions(nats_server.url, **options)) as first,  # type: ignore[arg-type]
        open_world(ConnectOptions(nats_server.url, **options)) as second,  # type: ignore[arg-type]
    ):

        async def answer(question: bytes) -> bytes:
            return question.upper()

        stops = [
            await first.wire.serve("worker-1", answer),
            await first.wire.serve("flow", answer, shared=True),
        ]
        await first.connection.call("$JS.API.INFO")  # the subscriptions are on the server by now
        assert await second.wire.ask("worker-1", b"forward", SOON) == b"FORWARD"
        assert await second.wire.ask("flow", b"query", SOON, shared=True) == b"QUERY"
        heard: list[bytes] = []
        inbox, close = second.wire.expect(heard.append)
        first.wire.notify(inbox, b"over")
        await until(lambda: heard == [b"over"])
        close()
        key = InstanceKey("flow", "i")
        unfollow = await second.wire.follow(key, lambda _generation, _n: None, heard.append)
        await second.connection.call("$JS.API.INFO")
        first.wire.announce(key, b"news")
        await until(lambda: heard == [b"over", b"news"])
        await unfollow()
        for stop in stops:
            await stop()
        names = [spec.name for spec in first.topology.streams()]
        await asyncio.gather(*(first.connection.call(f"$JS.API.STREAM.DELETE.{name}") for name in names))


@pytest.mark.parametrize(
    "prefix",
    ["", ".", "a.", ".a", "a..b", "a b", "a.*", "a.>", ">", "*", "$SYS", "_INBOX.\n", "ä", "romancy"],
)
def test_a_prefix_that_is_none_is_refused(prefix: str) -> None:
    with pytest.raises(ValidationError, match="inbox prefix"):
        Settings(inbox_prefix=prefix, namespace="romancy")
