"""Credentials with few rights: what they may do works; what they may not is one line that names the right."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from romancy_nats import App, Client, PermissionDeniedError, Settings, WorkflowContext, workflow
from romancy_nats.jetstream.server import LocalServer
from tests.integration.test_cli import Cli

USERS = """
accounts { A {
  jetstream: enabled
  users: [
    { user: admin, password: admin }
    { user: outsider, password: pw, permissions {
        publish: ["romancy.start.>", "romancy.event.>"], subscribe: ["_INBOX.>"] } }
    { user: nobody, password: pw, permissions { publish: ["other.>"], subscribe: ["_INBOX.>"] } }
  ]
} }
"""


@workflow
async def order(ctx: WorkflowContext, amount: int) -> int:
    return amount


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer(sync_always=False, extra_config=USERS) as server:
        yield server


def settings(server: LocalServer, user: str, **more: float) -> Settings:
    password = "admin" if user == "admin" else "pw"
    return Settings(nats_url=server.url, user=user, password=password, shards=2, grace=0.1, **more)


@pytest.mark.anyio
async def test_who_may_only_publish_starts_and_events_starts_and_hears_the_result(
    server: LocalServer,
) -> None:
    app = App("shop", workflows=[order], settings=settings(server, "admin"))
    async with app.worker(), Client.connect(settings=settings(server, "outsider")) as outsider:
        id = f"order-{secrets.token_hex(4)}"
        handle = await outsider.start(order.options(id=id), 7)
        assert await handle.result(20) == 7
        again = await outsider.start(order.options(id=id), 7)
        assert again.id == id, "the server has seen it, and may not be asked more"
        assert await outsider.execute(order, 8) == 8
        await outsider.send_event("payment.completed", {"amount": 7}, key=id)
        for refused in (again.status(), again.describe(), again.cancel("no"), outsider.count()):
            with pytest.raises(PermissionDeniedError, match=r"add it to the user's permissions"):
                await refused


def test_a_command_without_the_right_is_one_line(server: LocalServer, tmp_path: Path) -> None:
    cli = Cli(server.url, tmp_path, "romancy")
    rights = {"outsider": ("start", "event"), "nobody": ()}
    commands = {
        "start": ("order", "--input", "1", "--id", "by-command"),
        "event": ("payment.completed", "--data", "{}"),
        "status": ("by-command",),
        "list": (),
        "history": ("by-command", "--workflow", "order"),
        "cancel": ("by-command",),
        "doctor": (),
        "dead": ("list",),
        "streams": ("diff",),
        "worker": ("shop:app",),
    }
    cli.env |= {"ROMANCY_USER": "admin", "ROMANCY_PASSWORD": "admin"}
    cli("streams", "apply")
    for user, may in rights.items():
        cli.env |= {"ROMANCY_USER": user, "ROMANCY_PASSWORD": "pw"}
        for command, arguments in commands.items():
            if command in may:
                assert cli(command, *arguments).stderr == "", command
            else:
                line = cli.complaint(command, *arguments, exit=2)
                assert "denies these credentials to publish to" in line, line
    cli.env["ROMANCY_PASSWORD"] = "wrong"
    for command, arguments in commands.items():
        assert "refused the login" in cli.complaint(command, *arguments, exit=2)
