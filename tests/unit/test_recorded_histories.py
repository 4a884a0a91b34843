"""Histories recorded from real runs replay for ever; code that asks for something else is told what and where."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from romancy_nats import (
    ConfigurationError,
    DeterminismError,
    InstanceStatus,
    PayloadError,
    Workflow,
    WorkflowContext,
    activity,
    workflow,
)
from romancy_nats.core.events import ActivityAttemptFailed, ActivityScheduled
from romancy_nats.core.history import History
from romancy_nats.testing import replay
from tests.histories.workflows import (
    WORKFLOWS,
    Reservation,
    add,
    charge,
    decline,
    reserve,
    slow,
)

FOLDER = Path(__file__).resolve().parents[1] / "histories"
FILES = sorted(FOLDER.glob("*.json"))
ENDED = {
    "cancelled_in_flight": InstanceStatus.CANCELLED,
    "saga_failed": InstanceStatus.FAILED,
    "terminated": InstanceStatus.TERMINATED,
}


def load(name: str) -> History:
    return History.from_json((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def scheduled(name: str) -> list[str]:
    events = [event for commit in load(name).commits for event in commit.events]
    return [event.id for event in events if isinstance(event, ActivityScheduled)]


# --- for ever


def test_every_workflow_has_a_history() -> None:
    assert {path.stem for path in FILES} == set(WORKFLOWS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_replays(path: Path) -> None:
    known = json.loads(path.read_text(encoding="utf-8"))
    replayed = replay(WORKFLOWS[path.stem], path)
    assert replayed.status is ENDED.get(path.stem, InstanceStatus.COMPLETED)
    assert replayed.commits == len(known["commits"])
    assert replayed.events == sum(len(commit["events"]) for commit in known["commits"])
    assert (replayed.workflow, replayed.id) == (known["workflow"], known["id"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_replays_up_to_every_commit(path: Path) -> None:
    history = load(path.stem)
    for n in range(len(history.commits)):
        part = History(history.key, history.generation, history.commits[:n])
        replayed = replay(WORKFLOWS[path.stem], part)
        assert replayed.status is InstanceStatus.RUNNING
        assert bool(replayed.pending) is (n > 0), "what is not ended waits for something"


@pytest.mark.parametrize("seed", ["0", "1", "random"])
def test_it_replays_in_another_process_whatever_its_hashes(seed: str) -> None:
    code = (
        "import sys; from pathlib import Path; from romancy_nats.testing import replay\n"
        "from tests.histories.workflows import WORKFLOWS\n"
        "for path in map(Path, sys.argv[1:]): replay(WORKFLOWS[path.stem], path)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, FILES)],
        cwd=FOLDER.parents[1],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.anyio
async def test_it_replays_inside_a_running_loop() -> None:
    assert replay(WORKFLOWS["mixed"], load("mixed")).status is InstanceStatus.COMPLETED
    await asyncio.sleep(0)


def test_the_shapes_are_what_their_names_say() -> None:
    assert scheduled("saga_failed")[-3:] == [
        "compensate:charge:1",
        "compensate:reserve:2",
        "compensate:reserve:1",
    ]
    assert scheduled("cancelled_in_flight") == ["reserve:1", "slow:1", "add:1", "compensate:reserve:1"]
    events = [event for commit in load("retried").commits for event in commit.events]
    attempts = [event.attempt for event in events if isinstance(event, ActivityAttemptFailed)]
    assert attempts == [1, 2, 1, 2]


# --- the JSON form


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_json_comes_back_byte_for_byte(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    history = History.from_json(text)
    assert history.to_json() == text
    again = History.from_json(history.to_json())
    assert again == history
    assert [one.encode() for one in again.commits] == [one.encode() for one in history.commits]


def test_what_is_for_people_is_not_read() -> None:
    plain = json.loads(load("sequential").to_json())
    plain["comment"] = "mine"
    for commit in plain["commits"]:
        commit["time"] = "whenever"
        for event in commit["events"]:
            for value in event.values():
                if isinstance(value, dict):
                    value["shown"] = {"anything": 1}
    assert History.from_plain(plain) == load("sequential")


def test_payloads_can_be_read_by_people() -> None:
    plain: Any = load("sequential").to_plain()
    [_, asked] = plain["commits"][0]["events"]
    assert asked["input"]["shown"] == [["book", "9.99"], {}]
    assert plain["commits"][1]["events"][0]["result"]["shown"] == {"item": "book", "price": "9.99"}
    plain = load("saga_failed").to_plain()
    told = plain["commits"][-1]["events"][-1]["failure"]["shown"]
    assert told == {"error": "CardDeclinedError", "message": "no credit for 12.49"}


def spoiled(change: Callable[[Any], object]) -> Any:
    plain = json.loads(load("sequential").to_json())
    change(plain)
    return plain


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda plain: plain.pop("format"), "no history"),
        (lambda plain: plain.update(version=99), "upgrade"),
        (lambda plain: plain.update(commits={}), "'commits' is not an array"),
        (lambda plain: plain.update(workflow=""), "workflow name"),
        (lambda plain: plain.update(generation=True), "'generation' is not a whole number"),
        (lambda plain: plain["commits"].pop(0), "commit 1 .* bears the number 2"),
        (lambda plain: plain["commits"][0].update(open=0), "commit 1 .*'open' is not true or false"),
        (lambda plain: plain["commits"][0]["events"][0].update(type="Nope"), "event 1 of commit 1 .*'Nope'"),
        (lambda plain: plain["commits"][0]["events"][1].pop("name"), "ActivityScheduled. lacks name"),
        (lambda plain: plain["commits"][0]["events"][1]["input"].update(base64="?"), "not base64"),
        (lambda plain: plain["commits"][0]["events"].insert(0, 3), "event 1 of commit 1 .* not an object"),
    ],
)
def test_what_is_no_history_is_refused_with_its_place(
    change: Callable[[Any], object], complaint: str
) -> None:
    with pytest.raises(PayloadError, match=complaint):
        History.from_plain(spoiled(change))


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000], ids=lambda text: text[:6])
def test_text_that_is_no_history_is_refused(text: str) -> None:
    with pytest.raises(PayloadError):
        History.from_json(text)


def test_a_history_is_given_in_any_form(tmp_path: Path) -> None:
    history = load("sequential")
    path = tmp_path / "history.json"
    path.write_text(history.to_json(), encoding="utf-8")
    code = WORKFLOWS["sequential"]
    forms = [history, path, str(path), history.to_json(), history.to_json().encode(), history.to_plain()]
    assert len({replay(code, form) for form in forms}) == 1
    with pytest.raises(ConfigurationError, match="No such file"):
        replay(code, tmp_path / "none.json")


def test_a_history_of_another_workflow_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="of workflow 'sequential', not of 'gathered'"):
        replay(WORKFLOWS["gathered"], load("sequential"))


# --- code that asks for something else


@workflow(name="sequential")
async def swapped(ctx: WorkflowContext, item: str) -> str:
    receipt = await ctx.run(charge, Decimal("9.99"))
    reservation = await ctx.run(reserve, item)
    return f"{reservation.item}: {receipt}"


@workflow(name="sequential")
async def dropped(ctx: WorkflowContext, item: str) -> str:
    reservation = await ctx.run(reserve, item)
    return reservation.item


@workflow(name="sequential")
async def inserted(ctx: WorkflowContext, item: str) -> str:
    reservation = await ctx.run(reserve, item)
    await ctx.run(add, 1, 2)
    return await ctx.run(charge, reservation.price)


@activity(name="book")
async def renamed_activity(item: str) -> Reservation:
    return Reservation(item, Decimal(0))


@workflow(name="sequential")
async def renamed(ctx: WorkflowContext, item: str) -> str:
    reservation = await ctx.run(renamed_activity, item)
    return await ctx.run(charge, reservation.price)


@workflow(name="sequential")
async def in_parallel(ctx: WorkflowContext, item: str) -> str:
    _, receipt = await asyncio.gather(ctx.run(reserve, item), ctx.run(charge, Decimal(1)))
    return receipt


@workflow(name="sequential")
async def with_a_nap(ctx: WorkflowContext, item: str) -> str:
    reservation = await ctx.run(reserve, item)
    await asyncio.sleep(1)
    return await ctx.run(charge, reservation.price)


@workflow(name="sequential")
async def failing(ctx: WorkflowContext, item: str) -> str:
    await ctx.run(reserve, item)
    raise LookupError(item)


@workflow(name="sequential")
async def added_at_the_end(ctx: WorkflowContext, item: str) -> str:
    reservation = await ctx.run(reserve, item)
    receipt = await ctx.run(charge, reservation.price)
    await ctx.run(add, 1, 2)
    return receipt


@workflow(name="sequential")
async def own_id(ctx: WorkflowContext, item: str) -> str:
    reservation = await ctx.run(reserve.options(id="the book"), item)
    return await ctx.run(charge, reservation.price)


@activity(name="reserve")
async def reserve_without_compensation(item: str, price: Decimal = Decimal("9.99")) -> Reservation:
    return Reservation(item, price)


@workflow(name="saga_failed")
async def one_compensation_less(ctx: WorkflowContext, first: str, second: str) -> str:
    one = await ctx.run(reserve, first)
    two = await ctx.run(reserve_without_compensation, second, price=Decimal("2.50"))
    await ctx.run(charge, one.price + two.price)
    return await ctx.run(decline, one.price + two.price)


@workflow(name="saga_failed")
async def error_caught(ctx: WorkflowContext, first: str, second: str) -> str:
    one = await ctx.run(reserve, first)
    two = await ctx.run(reserve, second, price=Decimal("2.50"))
    await ctx.run(charge, one.price + two.price)
    try:
        return await ctx.run(decline, one.price + two.price)
    except Exception:  # noqa: BLE001 - as user code may
        return "caught"


@workflow(name="cancelled_in_flight")
async def cancel_swallowed(ctx: WorkflowContext, item: str) -> float:
    await ctx.run(reserve, item)
    try:
        return await ctx.run(slow, 3600.0)
    except asyncio.CancelledError:
        return 0.0


@workflow(name="gathered")
async def gathered_less(ctx: WorkflowContext, count: int) -> list[int]:
    sums = await asyncio.gather(*(ctx.run(add, n, n) for n in range(count - 1)))
    return [*sums, await ctx.run(add, sums[0], sums[-1])]


MUTATIONS = [
    (swapped, "id='reserve:1'", "id='charge:1'", "await ctx.run(charge, Decimal("),
    (dropped, "id='charge:1'", "WorkflowCompleted", None),
    (inserted, "id='charge:1'", "id='add:1'", "await ctx.run(add, 1, 2)"),
    (renamed, "name='reserve'", "name='book'", "await ctx.run(renamed_activity, item)"),
    (in_parallel, "nothing", "id='charge:1'", "await asyncio.gather("),
    (with_a_nap, "ActivityScheduled(id='charge:1'", "TimerStarted(id='timer:1')", "await asyncio.sleep(1)"),
    (failing, "id='charge:1'", "CompensationBegun(cause='WorkflowFailed')", None),
    (added_at_the_end, "WorkflowCompleted", "id='add:1'", "await ctx.run(add, 1, 2)"),
    (own_id, "id='reserve:1'", "id='the book'", "reserve.options(id="),
    (one_compensation_less, "compensate:reserve:2", "compensate:reserve:1", None),
    (error_caught, "CompensationBegun(cause='WorkflowFailed')", "WorkflowCompleted", None),
    (cancel_swallowed, "id='add:1'", "CompensationBegun(cause='WorkflowCancelled')", None),
    (gathered_less, "id='add:5'", "nothing", "for n in range(count - 1)"),
]


@pytest.mark.parametrize(
    ("code", "expected", "produced", "line"), MUTATIONS, ids=[one[0].fn.__name__ for one in MUTATIONS]
)
def test_other_code_is_told_what_differs_and_where(
    code: Workflow[..., Any], expected: str, produced: str, line: str | None
) -> None:
    with pytest.raises(DeterminismError) as found:
        replay(code, load(code.name))
    text = str(found.value)
    assert expected in found.value.expected
    assert produced in found.value.produced
    assert f"- expected: {found.value.expected}\n+ produced: {found.value.produced}" in text
    assert f"{code.name}/{code.name}-1" in text
    if line is not None:
        assert line in text, text
        assert f"{Path(__file__).name}:" in text


def test_a_change_that_asks_for_the_same_is_welcome() -> None:
    @workflow(name="sequential")
    async def rewritten(ctx: WorkflowContext, item: str, gift: bool = False) -> str:
        reservation = await ctx.run(reserve, item=item, price=Decimal("9.99"))
        ctx.logger.info("reserved %s", reservation)
        return await ctx.run(charge, amount=reservation.price)

    assert replay(rewritten, load("sequential")).status is InstanceStatus.COMPLETED
