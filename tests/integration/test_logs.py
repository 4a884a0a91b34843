"""What a service leaves in its log: one warning for a failed workflow, one line for what else people want to know."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import secrets
from pathlib import Path

import pytest

from romancy_nats import (
    RetryPolicy,
    TerminalError,
    WorkflowContext,
    WorkflowError,
    activity,
    compensation,
    workflow,
)
from romancy_nats.core.logs import FIELDS, LOGGERS
from romancy_nats.jetstream.server import LocalServer
from tests.integration.place import Place, until, until_status
from tests.integration.test_cli import Cli
from tests.integration.test_cli import until as until_true

PACKAGE = Path(__file__).resolve().parents[2] / "romancy_nats"


@compensation
async def release(item: str) -> None: ...


@activity(compensation=release)
async def reserve(item: str) -> str:
    return item


@activity(retry=RetryPolicy(max_attempts=3, initial_interval=0.01))
async def flaky() -> None:
    raise ConnectionError("the gateway is down")


@activity
def refuse() -> None:
    raise TerminalError("no such card")


@workflow
async def fails(ctx: WorkflowContext, how: str) -> str:
    await ctx.run(reserve, how)
    if how == "code":
        raise LookupError("nothing\nhere")
    if how == "exhausted":
        await ctx.run(flaky)
    if how == "terminal":
        await ctx.run(refuse)
    if how == "group":
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.run(flaky))
    return how


@workflow
async def goes_on(ctx: WorkflowContext) -> str:
    with contextlib.suppress(TerminalError):
        await ctx.run(refuse)
    ctx.logger.info("it goes on")
    return await ctx.run(reserve, "mug")


@workflow
async def waits(ctx: WorkflowContext) -> None:
    await ctx.run(reserve, "mug")
    await ctx.receive("never")


def told(caplog: pytest.LogCaptureFixture, id: str, least: int = logging.DEBUG) -> list[logging.LogRecord]:
    records = [one for one in caplog.records if one.name.startswith("romancy.") and one.levelno >= least]
    return [one for one in records if one.__dict__["instance_id"] == id]


@pytest.mark.anyio
async def test_a_failed_workflow_leaves_one_warning_with_its_traceback(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "romancy")
    last = {"code": "LookupError", "exhausted": "RetryExhaustedError", "terminal": "TerminalError"}
    settings = place.settings(worker_id="left till")
    async with place.worker(fails, settings=settings), place.client() as client:
        for how, kind in (*last.items(), ("group", "ExceptionGroup")):
            handle = await client.start(fails.options(id=how), how)
            with pytest.raises(WorkflowError):
                await handle.result(10)
            await until(lambda how=how: told(caplog, how, logging.WARNING))
            [warning] = told(caplog, how, logging.WARNING)
            first, *lines = warning.getMessage().splitlines()
            assert first.startswith(f"fails/{how} failed: {kind}: ")
            assert how != "code" or first.endswith("nothing here")
            assert "Traceback (most recent call last):" in lines
            assert any("in fails" in line for line in lines)
            if how == "exhausted":
                assert any("in flaky" in line for line in lines), "what caused it is told, too"
            assert len(warning.getMessage()) < 40_000
            assert warning.__dict__["workflow"] == "fails"
            assert warning.__dict__["error_type"] == kind
            error = (await handle.describe()).error
            assert error is not None
            assert "Traceback (most recent call last):" in error
            assert "in fails" in error
    ours = [one for one in caplog.records if one.name.startswith("romancy.")]
    inside = [one for one in ours if one.name in ("romancy.worker", "romancy.activity", "romancy.workflow")]
    without = [one.getMessage() for one in inside if one.__dict__["worker"] != "left till"]
    assert without == []


@pytest.mark.anyio
async def test_what_else_people_want_to_know_is_one_line_each(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "romancy")
    async with place.client() as client:
        async with place.worker(goes_on, waits):
            assert await client.execute(goes_on.options(id="fine")) == "mug"
            for id in ("cancelled", "terminated"):
                handle = await client.start(waits.options(id=id))
                await until_status(handle, "waiting_for_message")
                await (handle.cancel("no\nmore") if id == "cancelled" else handle.terminate("at once"))
                with pytest.raises(WorkflowError):
                    await handle.result(10)
                await until(lambda id=id: len(told(caplog, id)) >= 2)
    everything = {
        id: [(one.levelname, one.getMessage()) for one in told(caplog, id)]
        for id in ("fine", "cancelled", "terminated")
    }
    assert everything["fine"] == [
        ("DEBUG", "goes_on/fine begins"),
        ("INFO", "goes_on/fine refuse:1 failed after 1 attempt(s): TerminalError: no such card"),
        ("INFO", "it goes on"),
        ("DEBUG", "goes_on/fine is completed"),
    ]
    for id, text in (("cancelled", "no more"), ("terminated", "at once")):
        begin, *rest = everything[id]
        assert begin == ("DEBUG", f"waits/{id} begins")
        assert [one for one in rest if one[0] != "DEBUG"] == [("INFO", f"waits/{id} is {id}: {text}")]
    records = [one for one in caplog.records if one.name in LOGGERS]
    for record in records:
        assert FIELDS.keys() <= record.__dict__.keys(), "a format may name them"


def test_every_logger_of_the_package_adds_the_fields() -> None:
    named = {
        text.split('"')[0]
        for path in PACKAGE.rglob("*.py")
        for text in path.read_text(encoding="utf-8").split('getLogger("')[1:]
    }
    assert named - {"romancy"} == set(LOGGERS)


# --- the command


OWN = """
import asyncio, logging
from contextlib import asynccontextmanager
from romancy_nats import App, WorkflowContext, activity, workflow

@activity
async def greet(name: str) -> str:
    logging.getLogger("greeter").warning("greeting %s", name)
    logging.getLogger("greeter").debug("not asked for")
    return name

@workflow
async def hello(ctx: WorkflowContext, name: str) -> str:
    ctx.logger.debug("about to greet")
    await ctx.run(greet, name)
    raise ValueError({("a", 1): name})

@activity
async def sit() -> None:
    logging.getLogger("greeter").warning("sitting")
    await asyncio.sleep(600)

@workflow
async def sits(ctx: WorkflowContext) -> None:
    await ctx.run(sit)

@asynccontextmanager
async def broken():
    raise LookupError("no database at\\nlocalhost")
    yield

app = App("greeter", workflows=[hello, sits])
down = App("greeter", workflows=[hello], lifespan=broken)
"""


@pytest.fixture
def cli(nats_server: LocalServer, tmp_path: Path) -> Cli:
    made = Cli(nats_server.url, tmp_path, f"log-{secrets.token_hex(4)}")
    (tmp_path / "greeter.py").write_text(OWN, encoding="utf-8")
    return made


def test_json_is_one_object_a_line_with_all_that_is_known(cli: Cli) -> None:
    args = ("worker", "greeter:app", "--log-format", "json", "--log-level", "debug")
    with cli.running(*args, ROMANCY_WORKER_ID="till 1") as process:
        cli("start", "hello", "--input", '"Ada"', "--id", "1")
        until_true(lambda: "hello/1 failed" in process.log)
        assert process.terminate() == 0
        records = [json.loads(line) for line in process.log.splitlines()]
    assert all(one.keys() >= {"time", "level", "logger", "message", "worker"} for one in records)
    assert {one["worker"] for one in records} == {"till 1"}
    [greeting] = [one for one in records if one["logger"] == "greeter"]
    assert greeting["message"] == "greeting Ada"
    place = {name: greeting[name] for name in ("workflow", "instance_id", "activity_id", "attempt")}
    assert place == {"workflow": "hello", "instance_id": "1", "activity_id": "greet:1", "attempt": 1}
    [failed] = [one for one in records if one["level"] == "warning" and one["logger"].startswith("romancy")]
    assert failed["error_type"] == "ValueError"
    assert "Traceback" in failed["message"]
    assert any(one["message"] == "about to greet" for one in records)
    assert not [one for one in records if one["logger"] in ("asyncio", "concurrent.futures")]


def test_the_level_is_that_of_our_loggers_alone(cli: Cli) -> None:
    until_there = {"ready": "", "ROMANCY_WORKER_ID": "till 2"}
    with cli.running("worker", "greeter:app", "--log-level", "error", **until_there) as process:
        cli("start", "hello", "--input", '"Ada"', "--id", "1")
        cli("result", "1", "--timeout", "30", exit=1)
        until_true(lambda: "greeting Ada" in process.log)
        assert process.terminate() == 0
    [line] = process.log.splitlines()
    assert line.endswith("WARNING greeter [till 2] greeting Ada")


def test_a_fatal_error_of_a_worker_is_one_readable_line(cli: Cli) -> None:
    line = cli.complaint("worker", "greeter:down", "--log-level", "error", exit=1)
    assert "LookupError: no database at\\nlocalhost (at " in line
    assert "greeter.py:" in line
    done = cli("worker", "greeter:down", "--log-level", "debug", exit=1, traceback=True)
    assert "Traceback (most recent call last)" in done.stderr
    assert "ROMANCY_SHARDS: " in cli.complaint("worker", "greeter:app", exit=2, ROMANCY_SHARDS="many")


def test_a_takeover_after_a_kill_is_one_line_for_each_instance(cli: Cli) -> None:
    short = {"ROMANCY_LEASE_TTL": "1", "ROMANCY_GRACE": "0.1"}
    with cli.running("worker", "greeter:app", ROMANCY_WORKER_ID="till 3", **short) as first:
        for id in ("a", "b"):
            cli("start", "sits", "--id", id)
        until_true(lambda: first.log.count("sitting") == 2)
        with cli.running("worker", "greeter:app", ROMANCY_WORKER_ID="till 4", **short) as second:
            first.process.kill()
            until_true(lambda: second.log.count("sitting") == 2)
            assert second.terminate() == 0
    lines = [line for line in second.log.splitlines() if "taken over" in line]
    assert len(lines) == 2, second.log
    for id in ("a", "b"):
        [line] = [line for line in lines if f"sits/{id}" in line]
        assert re.search(rf" INFO +romancy.worker \[till 4\] sits/{id}: taken over from \S+", line)
    assert "taken over" not in first.log
