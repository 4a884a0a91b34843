"""The real command as a process, on a real server: every command, its JSON, its exit codes, SIGTERM."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from romancy_nats.jetstream.server import LocalServer
from tests.integration.command import romancy

APP = """
import asyncio, os
from romancy_nats import App, RetryPolicy, WorkflowContext, activity, compensation, workflow

VARIANT = os.environ.get("VARIANT", "")

@compensation
async def cancel_reservation(item: str) -> None: ...

@activity(compensation=cancel_reservation)
async def reserve(item: str) -> str:
    return f"reserved {item}"

@activity
async def slow(seconds: float) -> float:
    await asyncio.sleep(min(seconds, float(os.environ.get("LONGEST_NAP", "inf"))))
    return seconds

@activity(retry=RetryPolicy(max_attempts=1))
async def boom() -> None:
    raise ValueError("no\\nway")

@activity
def environment(name: str) -> str:
    return os.environ.get(name, "")

@activity
async def leaves_behind(how: str) -> str:
    async def leave() -> None:
        raise SystemExit(3)

    if how == "a task":
        left.append(asyncio.get_running_loop().create_task(leave()))
    else:
        asyncio.get_running_loop().call_soon(exit, 3)
    return how

left = []

@workflow
async def careless(ctx: WorkflowContext, how: str) -> str:
    return await ctx.run(leaves_behind, how)

@workflow
async def order(ctx: WorkflowContext, item: str, fail: bool = False, nap: float = 0.0) -> dict[str, object]:
    if VARIANT == "other":
        await ctx.run(environment, "HOME")
    told = await ctx.run(reserve, item)
    if nap:
        await ctx.run(slow, nap)
    if fail:
        await ctx.run(boom)
    return {"told": told, "seed": await ctx.run(environment, "PYTHONHASHSEED")}

@workflow
async def echo(ctx: WorkflowContext, value: object) -> object:
    return value

@workflow
async def talk(ctx: WorkflowContext) -> list[object]:
    said = []
    ctx.on_query("said", lambda: said)
    ctx.on_query("count", lambda least=0: len(said) >= least)
    ctx.on_update("say", said.append, lambda what: 1 / len(what))
    ctx.emit("listening", durable=True)
    said.append((await ctx.receive("words")).data)
    said.append((await ctx.wait_event("shop.closed", key="today")).data)
    await ctx.run(slow, 0.3)
    return said

app = App("shop", workflows=[order, echo, talk, careless])
not_an_app = 3
"""


class Cli:
    """Runs the command in a directory of its own, against a namespace of its own."""

    def __init__(self, url: str, directory: Path, namespace: str) -> None:
        self.directory = directory
        self.namespace = namespace
        self.url = url
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("ROMANCY_")}
        self.env.pop("PYTHONHASHSEED", None)
        self.env |= {
            "ROMANCY_NATS_URL": url,
            "ROMANCY_NAMESPACE": namespace,
            "ROMANCY_SHARDS": "2",
            "ROMANCY_GRACE": "5",
        }
        (directory / "shop.py").write_text(APP, encoding="utf-8")

    def __call__(
        self, *args: str, exit: int = 0, stdin: str = "", traceback: bool = False, **env: str | None
    ) -> subprocess.CompletedProcess[str]:
        done = romancy(args, self.directory, self._env(env), stdin)
        assert done.returncode == exit, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert traceback or "Traceback" not in done.stderr
        return done

    def json(self, *args: str, exit: int = 0) -> Any:
        return json.loads(self(*args, "--json", exit=exit).stdout)

    def complaint(self, *args: str, exit: int, **env: str | None) -> str:
        done = self(*args, exit=exit, **env)
        assert done.stdout == ""
        [line] = done.stderr.splitlines()
        assert line.startswith("romancy: ")
        return line

    @contextmanager
    def running(self, *args: str, ready: str = " serves ", **env: str | None) -> Iterator[Process]:
        name = f"{args[0]}-{secrets.token_hex(4)}"
        process = Process(self.directory / name, args, self.directory, self._env(env))
        try:
            process.wait_for(ready)
            yield process
        finally:
            process.end()

    def _env(self, changes: dict[str, str | None]) -> dict[str, str]:
        changed = {**self.env, **changes}
        return {name: value for name, value in changed.items() if value is not None}


class Process:
    """A command that goes on until it is told to end."""

    def __init__(self, log: Path, args: tuple[str, ...], directory: Path, env: dict[str, str]) -> None:
        self._log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "romancy_nats", *args],
                cwd=directory,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def wait_for(self, text: str) -> None:
        until(lambda: text in self.log or self.process.poll() is not None)
        assert text in self.log, self.log

    def terminate(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def cli(nats_server: LocalServer, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    return Cli(nats_server.url, tmp_path_factory.mktemp("cli"), f"cli-{secrets.token_hex(4)}")


@pytest.fixture(scope="module")
def worker(cli: Cli) -> Iterator[Process]:
    with cli.running("worker", "shop:app") as process:
        yield process


@pytest.fixture
def own(nats_server: LocalServer, tmp_path: Path) -> Cli:
    """A namespace that no other test's worker serves."""
    return Cli(nats_server.url, tmp_path, f"cli-{secrets.token_hex(4)}")


# --- start and result


def test_start_prints_the_id_and_result_the_result(cli: Cli, worker: Process) -> None:
    id = cli("start", "order", "--input", '{"item": "book"}').stdout.strip()
    assert re.fullmatch("[0-9a-f]{24}", id)
    told = json.loads(cli("result", id).stdout)
    assert told["told"] == "reserved book"
    assert cli.json("result", id) == {"workflow": "order", "id": id, "status": "completed", "result": told}


def test_a_start_may_begin_later(cli: Cli, worker: Process) -> None:
    later = cli("start", "order", "--input", '{"item": "tree"}', "--after", "3600").stdout.strip()
    in_2099 = cli("start", "order", "--input", '{"item": "x"}', "--at", "2099-01-01T00:00").stdout.strip()
    for id in (later, in_2099):
        assert cli.json("status", id)["status"] == "queued"
        cli("cancel", id)
        cli("result", id, exit=1)
    soon = cli.json("start", "order", "--input", '{"item": "tea"}', "--after", "0.2", "--wait")
    assert soon["result"]["told"] == "reserved tea"
    cli("start", "order", "--after", "1", "--at", "2099-01-01T00:00", exit=2)


def test_workers_have_a_fixed_hash_seed(cli: Cli, worker: Process) -> None:
    assert cli.json("start", "order", "--input", '["x"]', "--wait")["result"]["seed"] == "0"


@pytest.mark.parametrize(
    ("input", "value"),
    [
        ('{"value": {"a": [1]}}', {"a": [1]}),
        ('{"args": [1]}', 1),
        ('{"kwargs": {"value": 2}}', 2),
        ("[3]", 3),
        ("[[4, 5]]", [4, 5]),
        ('"größe"', "größe"),
        ("6.5", 6.5),
        ("null", None),
        ("true", True),
        ("@input.json", "from a file"),
        ("-", "from stdin"),
    ],
)
def test_every_form_of_input(cli: Cli, worker: Process, input: str, value: object) -> None:
    (cli.directory / "input.json").write_text('"from a file"', encoding="utf-8")
    done = cli("start", "echo", "--input", input, "--wait", "--json", stdin='"from stdin"')
    assert json.loads(done.stdout)["result"] == value


def test_the_same_id_twice_is_the_same_instance(cli: Cli, worker: Process) -> None:
    start = ("start", "echo", "--id", "twice or more", "--input", "1")
    assert cli(*start, "--wait").stdout == "1\n"
    again = cli(*start, "--wait")
    assert again.stdout == "1\n"
    assert "exists already (completed)" in again.stderr


def test_a_failure_is_exit_code_1_and_one_line(cli: Cli, worker: Process) -> None:
    failing = ("start", "order", "--input", '{"item": "a", "fail": true}', "--id", "fails", "--wait")
    assert "failed: RetryExhaustedError: activity 'boom'" in cli.complaint(*failing, exit=1)
    told = cli.json("result", "fails", exit=1)
    assert (told["status"], told["error_type"]) == ("failed", "RetryExhaustedError")
    info = cli.json("status", "fails")
    assert info["status"] == "failed"
    [undone] = info["compensations"]
    assert (undone["name"], undone["status"]) == ("cancel_reservation", "completed")


def test_arguments_that_do_not_fit_are_exit_code_2(cli: Cli, worker: Process) -> None:
    line = cli.complaint("start", "order", "--input", '{"itm": 1}', "--wait", exit=2)
    assert "has no argument 'itm'" in line


# --- status and list


def test_status_and_list_for_people_and_programs(cli: Cli, worker: Process) -> None:
    cli("start", "echo", "--input", "1", "--id", "listed\tid", "--wait")
    info = cli.json("status", "listed\tid")
    assert (info["workflow"], info["id"], info["status"]) == ("echo", "listed\tid", "completed")
    assert info["started_at"].endswith("+00:00")
    assert "status\tcompleted" in cli("status", "listed\tid").stdout.splitlines()
    [found] = [one for one in cli.json("list", "--workflow", "echo") if one["id"] == "listed\tid"]
    assert found == info
    rows = [line.split("\t") for line in cli("list", "--workflow", "echo").stdout.splitlines()]
    assert rows[0][:3] == ["workflow", "id", "status"]
    assert ["echo", "listed\\tid", "completed"] in [row[:3] for row in rows]
    assert cli.json("list", "--status", "stalled") == []
    cli("list", "--status", "asleep", exit=2)


def test_a_narrow_terminal_never_cuts_an_id(cli: Cli, worker: Process) -> None:
    id = cli("start", "echo", "--input", "1", "--wait", "--json").stdout
    text = cli("list", FORCE_COLOR="1", COLUMNS="40").stdout
    assert "\x1b[" in text
    assert json.loads(id)["id"] in text


def test_an_id_under_two_workflows_needs_its_workflow(cli: Cli, worker: Process) -> None:
    cli("start", "echo", "--input", "1", "--id", "double", "--wait")
    cli("start", "order", "--input", '["a"]', "--id", "double", "--wait")
    line = cli.complaint("status", "double", exit=2)
    assert "echo, order" in line
    assert "--workflow" in line
    assert cli.json("status", "double", "--workflow", "echo")["workflow"] == "echo"
    assert cli("result", "double", "--workflow", "echo").stdout == "1\n"


def test_what_is_not_there_is_exit_code_3(cli: Cli, worker: Process) -> None:
    for command in ("status", "result", "history", "cancel", "terminate", "retry"):
        assert "'nobody'" in cli.complaint(command, "nobody", exit=3)
    cli.complaint("status", "nobody", "--workflow", "order", exit=3)
    cli.complaint("replay", "nobody", "shop:app", exit=3)


# --- cancel, terminate, retry


def test_cancel_in_flight(cli: Cli, worker: Process) -> None:
    cli("start", "order", "--input", '{"item": "a", "nap": 600}', "--id", "long")
    until(lambda: "slow:1" in cli("history", "long", "--workflow", "order").stdout)
    line = cli.complaint("result", "long", "--timeout", "0.2", exit=5)
    assert "it goes on" in line
    told = cli.json("cancel", "long", "--reason", "changed my mind")
    assert told == {"workflow": "order", "id": "long", "command": "cancel", "accepted": True}
    assert "was cancelled: changed my mind" in cli.complaint("result", "long", exit=1)
    assert cli.json("result", "long", exit=1)["status"] == "cancelled"
    assert "ended already (cancelled)" in cli.complaint("cancel", "long", exit=1)


def test_terminate(cli: Cli, worker: Process) -> None:
    cli("start", "order", "--input", '{"item": "a", "nap": 600}', "--id", "endless")
    until(lambda: "slow:1" in cli("history", "endless", "--workflow", "order").stdout)
    assert "on its way" in cli("terminate", "endless", "--reason", "enough").stdout
    assert cli.json("result", "endless", exit=1)["status"] == "terminated"
    assert cli.json("status", "endless")["compensations"] == []


@pytest.mark.slow
def test_other_code_stalls_and_retry_goes_on_with_the_right_one(own: Cli) -> None:
    with own.running("worker", "shop:app", ROMANCY_GRACE="0") as first:
        own("start", "order", "--input", '{"item": "a", "nap": 600}', "--id", "moved")
        until(lambda: "slow:1" in own("history", "moved", "--workflow", "order").stdout)
        assert first.terminate() == 0
    with own.running("worker", "shop:app", VARIANT="other") as second:
        until(lambda: own.json("status", "moved")["status"] == "stalled")
        done = own("result", "moved", exit=1)
        assert "- expected: ActivityScheduled(id='reserve:1'" in done.stderr
        assert "+ produced: ActivityScheduled(id='environment:1'" in done.stderr
        assert own.json("result", "moved", exit=1)["status"] == "stalled"
        assert second.terminate() == 0
    with own.running("worker", "shop:app", LONGEST_NAP="0.1"):
        own("retry", "moved")
        assert own.json("result", "moved", "--timeout", "30")["status"] == "completed"
        assert "not stalled (completed)" in own.complaint("retry", "moved", exit=1)


# --- history and replay


def test_history_for_people_and_programs(cli: Cli, worker: Process) -> None:
    cli("start", "order", "--input", '["a"]', "--id", "past", "--wait")
    plain = cli.json("history", "past")
    kinds = [event["type"] for commit in plain["commits"] for event in commit["events"]]
    assert kinds[:2] == ["WorkflowStarted", "ActivityScheduled"]
    assert kinds[-1] == "WorkflowCompleted"
    rows = [line.split("\t") for line in cli("history", "past").stdout.splitlines()]
    assert rows[0] == ["commit", "time", "event", "id", "detail"]
    assert [row[2] for row in rows[1:]] == kinds
    assert rows[2][3:] == ["reserve:1", 'name=reserve input=[["a"], {}]']


def test_history_is_followed_to_the_end(cli: Cli, worker: Process) -> None:
    cli("start", "order", "--input", '{"item": "a", "nap": 1}', "--id", "followed")
    done = cli("history", "followed", "--workflow", "order", "--follow", "--json")
    commits = [json.loads(line) for line in done.stdout.splitlines()]
    assert commits == cli.json("history", "followed")["commits"]
    assert commits[-1]["events"][-1]["type"] == "WorkflowCompleted"
    assert "WorkflowCompleted" in cli("history", "followed", "-f").stdout


def test_following_shows_attempts(cli: Cli, worker: Process) -> None:
    cli("start", "talk", "--id", "watched")
    with cli.running("history", "watched", "--workflow", "talk", "-f", ready="WaitStarted") as follower:
        cli("send", "watched", "words")
        until(lambda: cli.json("status", "watched")["status"] == "waiting_for_event")
        cli("event", "shop.closed", "--key", "today")
        follower.wait_for("WorkflowCompleted")
        assert follower.process.wait(10) == 0
        rows = [line.split("\t") for line in follower.log.splitlines()]
    [started] = [row for row in rows if row[2:3] == ["AttemptStarted"]]
    assert started[0] == ""
    assert started[3:] == ["slow:1", '{"name": "slow", "attempt": 1}']
    [emitted] = [row for row in rows if row[2:3] == ["Emitted"]]
    assert emitted[4] == 'value="listening"'


# --- speaking with an instance


def test_a_conversation(cli: Cli, worker: Process) -> None:
    cli("start", "talk", "--id", "chat")
    assert cli.json("query", "chat", "said", "--workflow", "talk") == []
    assert cli.json("update", "chat", "say", "--input", '["hello"]', "--message-id", "1") is None
    assert cli.json("update", "chat", "say", "--input", '["hello"]', "--message-id", "1") is None
    assert (
        "sent to talk/chat" in cli("send", "chat", "words", "--data", '{"a": [1]}', "--metadata", "{}").stdout
    )
    until(lambda: cli.json("query", "chat", "said") == ["hello", {"a": [1]}])
    assert cli.json("query", "chat", "count", "--input", '{"least": 3}') is False
    until(lambda: cli.json("status", "chat")["status"] == "waiting_for_event")
    cli("event", "shop.closed", "--data", '"early"', "--key", "today", "--source", "test")
    assert cli.json("result", "chat")["result"] == ["hello", {"a": [1]}, "early"]
    assert cli.json("query", "chat", "said")[-1] == "early"


def test_what_goes_wrong_in_a_conversation(cli: Cli, worker: Process) -> None:
    cli("start", "talk", "--id", "rude")
    assert "ZeroDivisionError" in cli.complaint("update", "rude", "say", "--input", '[""]', exit=1)
    late = cli.complaint("update", "rude", "nobody answers", "--timeout", "0.5", exit=5)
    assert "is not answered within 0.5 s: the instance is" in late
    assert "it knows: count, said" in cli.complaint("query", "rude", "nothing", exit=1)
    assert "--data is not JSON" in cli.complaint("send", "rude", "words", "--data", "x", exit=2)
    assert "--metadata is a JSON object" in cli.complaint("send", "rude", "words", "--metadata", "1", exit=2)
    cli("terminate", "rude")
    until(lambda: cli.json("status", "rude")["status"] == "terminated")
    assert "has ended" in cli.complaint("send", "rude", "words", exit=1)
    assert "has ended" in cli.complaint("update", "rude", "say", "--input", '["x"]', exit=1)
    cli.complaint("query", "nobody", "said", exit=3)


def test_replay_of_a_file_an_id_and_stdin(cli: Cli, worker: Process) -> None:
    cli("start", "order", "--input", '["a"]', "--id", "again", "--wait")
    text = cli("history", "again", "--json").stdout
    (cli.directory / "again.json").write_text(text, encoding="utf-8")
    offline: dict[str, str | None] = {"ROMANCY_NATS_URL": None}
    assert "order/again replays" in cli("replay", "again.json", "shop:app", **offline).stdout
    assert "order/again replays" in cli("replay", "-", "shop:app", stdin=text, **offline).stdout
    told = cli.json("replay", "again", "shop:app")
    assert (told["replays"], told["status"]) == (True, "completed")
    done = cli("replay", "again.json", "shop:app", "--json", exit=1, VARIANT="other")
    told = json.loads(done.stdout)
    assert told["replays"] is False
    assert "reserve:1" in told["expected"]
    assert "environment:1" in told["produced"]
    assert 'await ctx.run(environment, "HOME")' in done.stderr
    assert "shop.py:" in done.stderr
    (cli.directory / "bad.json").write_text("[]", encoding="utf-8")
    assert "a history is a JSON object" in cli.complaint("replay", "bad.json", "shop:app", exit=2)


@pytest.mark.parametrize("how", ["a task", "a callback"])
def test_what_an_activity_leaves_behind_does_not_end_the_worker(own: Cli, how: str) -> None:
    with own.running("worker", "shop:app") as worker:
        assert own.json("start", "careless", "--input", json.dumps([how]), "--wait")["result"] == how
        until(lambda: "would have ended the worker" in worker.log)
        assert own.json("start", "echo", "--input", "[1]", "--wait")["result"] == 1
        assert "SystemExit: 3" in worker.log
        assert worker.terminate() == 0
    assert "drained" in worker.log


# --- configuration


def test_no_server_is_exit_code_4(cli: Cli) -> None:
    assert "nats://127.0.0.1:1" in cli.complaint("list", "--url", "nats://127.0.0.1:1", exit=4)
    assert "127.0.0.1:1" in cli("worker", "shop:app", "--url", "nats://127.0.0.1:1", exit=4).stderr


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("worker", "shp:app"), "no module 'shp'"),
        (("worker", "shop:ap"), "shop has no 'ap'; it has the App app"),
        (("worker", "shop:not_an_app"), "is a int, not an App"),
        (("worker", ":app"), "MODULE:app"),
        (("worker", "broken:app"), "ZeroDivisionError: division by zero (at "),
        (("worker", "lacking:app"), "ModuleNotFoundError: No module named 'surely_missing'"),
        (("dev", "shop:app", "--run", "ordr"), "did you mean 'order'?"),
        (("start", "order", "--input", "{"), "--input is not JSON"),
        (("start", "order", "--input", "NaN"), "JSON has no NaN"),
        (("start", "order", "--input", "@none.json"), "No such file"),
        (("start", "order", "--id", ""), "1 to 128 characters"),
        (("list", "--namespace", "Not.Plain"), "namespace"),
        (("replay", "none.json", "shop:app"), "cannot read the history"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_one_line(cli: Cli, args: tuple[str, ...], text: str) -> None:
    (cli.directory / "broken.py").write_text("1 / 0\n", encoding="utf-8")
    (cli.directory / "lacking.py").write_text("import surely_missing\n", encoding="utf-8")
    assert text in cli.complaint(*args, exit=2)


def test_wrong_settings_name_the_variable(cli: Cli) -> None:
    assert "ROMANCY_SHARDS: " in cli.complaint("list", exit=2, ROMANCY_SHARDS="many")
    assert "ROMANCY_NATS_URL" in cli.complaint("list", exit=2, ROMANCY_NATS_URL=None)
    assert "No such option" in cli("list", "--colour", exit=2).stderr


def test_help_says_what_the_exit_codes_mean(cli: Cli) -> None:
    for args in (("--help",), ("result", "--help"), ("worker", "-h")):
        text = " ".join(cli(*args).stdout.split())
        assert "3 not found; 4 the server cannot be reached" in text
    assert re.fullmatch(r"\d+\.\d+.*\n", cli("--version").stdout)


# --- streams and doctor


def test_streams_are_shown_made_and_exported(own: Cli) -> None:
    missing = own.json("streams", "diff", exit=1)
    assert all(one["found"] is None for one in missing)
    assert own("doctor", exit=1).stdout.count("WRONG") == 1
    made = own.json("streams", "apply", "--app", "shop:app")
    assert {one["stream"] for one in made} == {one["stream"] for one in missing}
    assert own.json("streams", "diff") == []
    assert own.json("streams", "apply", "--workflow", "order") == []
    own("streams", "export", "out", "--workflow", "order")
    files = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in own.directory.glob("out/*")}
    assert {one["stream"] for one in missing} < {config["name"] for config in files.values()}
    assert any("durable_name" in config for config in files.values())
    assert json.loads(own("streams", "export", "--workflow", "order").stdout) == files
    # Without the right to create, everything is there.
    assert own("list", ROMANCY_PROVISION="false").stdout.startswith("workflow\tid")


def test_doctor_counts_the_living_workers(own: Cli) -> None:
    own("streams", "apply")
    told = {one["what"]: one["told"] for one in own.json("doctor")}
    assert told["workers"] == "0 alive"
    with own.running("worker", "shop:app") as process:
        told = {one["what"]: one["told"] for one in own.json("doctor")}
        assert told["workers"].startswith("1 alive: ")
        assert process.terminate() == 0
    told = {one["what"]: one["told"] for one in own.json("doctor")}
    assert told["workers"] == "0 alive"
    assert re.match(r"2\.\d+\.\d+ at nats://", told["server"])


# --- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_the_worker(own: Cli, number: int) -> None:
    with own.running("worker", "shop:app", ROMANCY_GRACE="20") as process:
        own("start", "order", "--input", '{"item": "a", "nap": 1}', "--id", "running")
        until(lambda: "slow:1" in own("history", "running", "--workflow", "order").stdout)
        assert process.terminate(number) == 0
        assert "drained" in process.log
        assert "Traceback" not in process.log
    assert own.json("status", "running")["status"] == "completed", "it had time within the grace period"


def test_what_a_drained_worker_lets_go_another_goes_on_with(own: Cli) -> None:
    with own.running("worker", "shop:app", ROMANCY_GRACE="0") as process:
        own("start", "order", "--input", '{"item": "a", "nap": 600}', "--id", "handed over")
        until(lambda: "slow:1" in own("history", "handed over", "--workflow", "order").stdout)
        assert process.terminate() == 0
    assert own.json("status", "handed over")["status"] == "queued"
    with own.running("worker", "shop:app", LONGEST_NAP="0.1"):
        assert own.json("result", "handed over", "--timeout", "30")["status"] == "completed"


def test_sigterm_while_it_connects_ends_the_worker(own: Cli) -> None:
    own.env["ROMANCY_NATS_URL"] = "nats://127.0.0.1:1"
    (own.directory / "shop.py").write_text(APP + 'print("imported", flush=True)\n', encoding="utf-8")
    # On a busy machine it may have given up connecting, which is exit code 4, before it could be told.
    assert 0 in [_told_while_it_connects(own) for _ in range(3)]


def _told_while_it_connects(own: Cli) -> int:
    with own.running("worker", "shop:app", ready="imported") as process:
        until(lambda: process.process.poll() is not None or _handles_sigterm(process.process.pid))
        return process.terminate()


def _handles_sigterm(pid: int) -> bool:
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"SigCgt:\s*([0-9a-f]+)", text)
    return found is not None and bool(int(found[1], 16) >> (signal.SIGTERM - 1) & 1)


# --- dev


def test_dev_runs_a_server_that_keeps_its_data(own: Cli) -> None:
    own.env.pop("ROMANCY_NATS_URL")
    done = own("dev", "shop:app", "--run", "order", "--input", '["a"]', "--json")
    first = json.loads(done.stdout)
    assert first["result"]["told"] == "reserved a"
    with own.running("dev", "shop:app", ready="export ROMANCY_NATS_URL=") as process:
        found = re.search(r"export ROMANCY_NATS_URL=(\S+)", process.log)
        assert found is not None
        assert own.json("status", first["id"], "--url", found[1])["status"] == "completed"
        assert own("start", "echo", "--input", "7", "--wait", "--url", found[1]).stdout == "7\n"
        assert process.terminate(signal.SIGINT) == 0
    assert (own.directory / ".romancy" / "jetstream").is_dir()


def test_dev_reports_a_failed_run(own: Cli) -> None:
    failing = '{"item": "a", "fail": true}'
    done = own("dev", "shop:app", "--run", "order", "--input", failing, exit=1, traceback=True)
    assert done.stdout == ""
    assert "RetryExhaustedError" in done.stderr
    own("dev", "shop:app", "--run", "order", "--input", '{"itm": "a"}', exit=2)


def test_check_says_which_parameter_cannot_be_stored(cli: Cli) -> None:
    assert "functions checked: " in cli("check", "shop:app").stdout
    assert "reserve" in cli.json("check", "shop:app")["checked"]
    (cli.directory / "unstorable.py").write_text(
        "import socket\n"
        "from romancy_nats import App, WorkflowContext, activity, workflow\n"
        "@activity\nasync def look(connection: socket.socket) -> None: ...\n"
        "@workflow\nasync def flow(ctx: WorkflowContext) -> None: await ctx.run(look)\n"
        "app = App('app', workflows=[flow])\n",
        encoding="utf-8",
    )
    assert "look(): argument 'connection'" in cli.complaint("check", "unstorable:app", exit=2)


def test_a_start_that_no_worker_serves_is_told_at_once(own: Cli) -> None:
    with own.running("worker", "shop:app"):
        own("start", "echo", "--input", "1", "--wait")
        said = own("start", "ecco", "--id", "typo")
        assert said.stdout == "typo\n"
        assert "no worker serves workflow 'ecco'" in said.stderr
        assert "did you mean 'echo'?" in said.stderr
        assert "no worker" not in own("start", "echo", "--input", "1").stderr
    assert own.json("status", "typo")["status"] == "queued"
    assert "no worker serves workflow 'ecco'" in own("status", "typo").stderr
    line = own.complaint("result", "typo", "--timeout", "0.5", exit=5)
    for part in ("'typo'", "'ecco'", "queued", "no worker serves"):
        assert part in line
    assert [one["id"] for one in own.json("list", "--status", "queued")] == ["typo"]
    assert own("cancel", "typo", "--reason", "a slip").stdout
    assert own.json("status", "typo")["status"] == "cancelled"
