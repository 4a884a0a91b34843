"""Replay compares the input of each command, as a value under the present code, and stalls where it differs (L7)."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, cast

import anyio
import pytest
from pydantic import BaseModel, BeforeValidator

from romancy_nats import (
    App,
    ConfigurationError,
    DeterminismError,
    InstanceStatus,
    WorkflowContext,
    activity,
    compensation,
    workflow,
)
from romancy_nats.core import determinism, handles
from romancy_nats.core.definition import Workflow
from romancy_nats.core.determinism import InputRule
from romancy_nats.core.events import (
    ActivityCompleted,
    ActivityFailed,
    ActivityScheduled,
    MessageReceived,
    TimerFired,
    TimerStarted,
    WorkflowCompleted,
)
from romancy_nats.core.execution import Execution
from romancy_nats.core.failure import Failure
from romancy_nats.core.handles import WorkflowTimer
from romancy_nats.core.history import History
from romancy_nats.core.plain import encode_plain
from romancy_nats.runtime.alarms import next_due
from romancy_nats.testing import replay
from tests.histories.workflows import WORKFLOWS
from tests.unit.test_waits import Run

FOLDER = Path(__file__).resolve().parents[1] / "histories"
given: dict[str, Any] = {}
"""What the code under test gives this time, in place of a clock, chance or the order of a set."""


@activity
async def take(value: Any, *, note: str = "", **more: Any) -> Any:
    return value


def replayed(run: Run, code: Workflow[..., Any] | None = None, rule: InputRule | None = None) -> Execution:
    again = Execution(code or run.code, run.key, inputs=rule)
    try:
        for commit in run.commits:
            again.replay(type(commit).decode(commit.encode()))
        return again
    finally:
        again.evict()


def asking(ask: Callable[[WorkflowContext], Any]) -> Workflow[..., Any]:
    @workflow(name="asking")
    async def code(ctx: WorkflowContext) -> Any:
        return await ask(ctx)

    return code


async def _send(ctx: WorkflowContext) -> None:
    await ctx.send_event("sold", given["value"], key="k")


async def _send_to(ctx: WorkflowContext) -> None:
    await ctx.send_to("other", "c", given["value"])


ASKS: dict[str, Callable[[WorkflowContext], Any]] = {
    "run": lambda ctx: ctx.run(take, given["value"]),
    "direct": lambda ctx: take(given["value"]),
    "keyword": lambda ctx: ctx.run(take, 1, note=str(given["value"])),
    "more keywords": lambda ctx: ctx.run(take, 1, extra=given["value"]),
    "step": lambda ctx: ctx.step("one", lambda value: value, given["value"]),
    "event": _send,
    "message": _send_to,
    "recur": lambda ctx: ctx.recur(given["value"]),
}


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_another_input_is_told_with_both_and_the_line(ask: Callable[[WorkflowContext], Any]) -> None:
    @workflow(name="asking")
    async def code(ctx: WorkflowContext, value: Any = None) -> Any:
        return await ask(ctx)

    given["value"] = "Oslo"
    run = Run(code)
    replayed(run)
    given["value"] = "Rome"
    with pytest.raises(DeterminismError) as found:
        replayed(run)
    text = str(found.value)
    assert "another input" in text
    assert "Oslo" in found.value.expected
    assert "Rome" in found.value.produced
    assert f"- expected: {found.value.expected}\n+ produced: {found.value.produced}" in text
    assert "inputs=" in text
    if ask is not ASKS["recur"]:
        assert f"{Path(__file__).name}:" in text
    run.execution.evict()


def test_only_the_arguments_that_differ_are_shown_and_bounded() -> None:
    long = "x" * 100_000
    given["value"] = f"{long}Oslo{long}"
    run = Run(asking(lambda ctx: ctx.run(take, given["value"], note="same", number=1)))
    given["value"] = f"{long}Rome{long}"
    with pytest.raises(DeterminismError) as found:
        replayed(run)
    text = str(found.value)
    assert len(text) < 2_000
    assert "Oslo" in found.value.expected
    assert "Rome" in found.value.produced
    assert "value=" in text
    assert "note=" not in found.value.expected + found.value.produced
    run.execution.evict()


# --- equal as values under the present code


def _cents(value: Any) -> int:
    return round(float(value) * 100)


class Old(BaseModel):
    name: str


class New(BaseModel):
    name: str
    gift: bool = False


class Required(BaseModel):
    name: str
    gift: bool


@dataclass
class Line:
    item: str
    tags: set[str] = field(default_factory=set[str])


def versions(model: type[Any], **more: Any) -> Workflow[..., Any]:
    """The same workflow with another class of the same name, as in another version of the code."""
    model = type("Order", (model,), {"__module__": __name__, "__qualname__": "Order"})

    async def sell(order: Any) -> None:
        """One."""

    sell.__annotations__["order"] = model
    selling = activity(sell)

    @workflow(name="versions")
    async def code(ctx: WorkflowContext) -> None:
        await ctx.run(selling, model(name="tea", **more))

    return code


def test_a_model_may_gain_a_field_with_a_default() -> None:
    run = Run(versions(Old))
    replayed(run, versions(New))
    replayed(run, versions(New, gift=False))
    with pytest.raises(DeterminismError, match='"gift": true'):
        replayed(run, versions(New, gift=True))
    run.execution.evict()


def test_one_that_gains_a_required_field_is_told_so() -> None:
    run = Run(versions(Old))
    with pytest.raises(DeterminismError, match="cannot read the recorded input") as found:
        replayed(run, versions(Required, gift=True))
    assert "gift" in str(found.value)
    run.execution.evict()


def test_an_activity_may_gain_a_parameter_with_a_default() -> None:
    @activity(name="sell")
    async def before(item: str) -> None: ...

    @activity(name="sell")
    async def after(item: str, count: int = 1) -> None: ...

    run = Run(asking(lambda ctx: ctx.run(before, "tea")))
    replayed(run, asking(lambda ctx: ctx.run(after, "tea")))
    replayed(run, asking(lambda ctx: ctx.run(after, item="tea", count=1)))
    with pytest.raises(DeterminismError, match="count"):
        replayed(run, asking(lambda ctx: ctx.run(after, "tea", 2)))
    run.execution.evict()


def test_what_was_converted_once_is_not_converted_again_to_compare_it() -> None:
    @activity(name="pay")
    async def before(price: Annotated[int, BeforeValidator(_cents)]) -> None: ...

    @activity(name="pay")
    async def after(price: Annotated[int, BeforeValidator(_cents)], tip: int = 0) -> None: ...

    run = Run(asking(lambda ctx: ctx.run(before, cast("int", "5.25"))))
    replayed(run, asking(lambda ctx: ctx.run(after, cast("int", "5.25"))))
    with pytest.raises(DeterminismError, match="price=525"):
        replayed(run, asking(lambda ctx: ctx.run(after, cast("int", "5.26"))))
    run.execution.evict()


def test_a_parameter_that_is_gone_is_told() -> None:
    @activity(name="sell")
    async def before(item: str, count: int = 1) -> None: ...

    @activity(name="sell")
    async def after(item: str) -> None: ...

    run = Run(asking(lambda ctx: ctx.run(before, "tea")))
    with pytest.raises(DeterminismError, match="takes 1 positional"):
        replayed(run, asking(lambda ctx: ctx.run(after, "tea")))
    run.execution.evict()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"b", "a", "c"}, {"c", "b", "a"}),
        ({1: "x", 2: "y"}, {2: "y", 1: "x"}),
        ({"a": {"x": 1, "y": [2]}}, {"a": {"y": [2], "x": 1}}),
        ([frozenset({("a", 1), ("b", 2)})], [frozenset({("b", 2), ("a", 1)})]),
        ({(1, 2): 1, (3, 4): 2}, {(3, 4): 2, (1, 2): 1}),
        (float("nan"), float("nan")),
        (Line("tea", {"a", "b"}), Line("tea", {"b", "a"})),
    ],
)
def test_equal_values_are_the_same_input(one: Any, other: Any) -> None:
    @activity
    async def typed(value: Any) -> None: ...

    @activity(name="typed")
    async def lines(value: Line) -> None: ...

    kind = lines if isinstance(one, Line) else typed
    given["value"] = one
    run = Run(asking(lambda ctx: ctx.run(kind, given["value"])))
    given["value"] = other
    replayed(run)
    run.execution.evict()


@pytest.mark.parametrize(
    ("one", "other"), [(1, True), (1, 1.0), ("1", 1), ([1], (1,)), ([1, 2], [2, 1]), ({}, [])]
)
def test_values_of_another_type_or_order_are_not(one: object, other: object) -> None:
    given["value"] = one
    run = Run(asking(lambda ctx: ctx.run(take, given["value"])))
    given["value"] = other
    with pytest.raises(DeterminismError):
        replayed(run)
    run.execution.evict()


@dataclass
class Fragile:
    name: str

    def __post_init__(self) -> None:
        if given.get("broken"):
            raise OSError("the clock looked wrong")

    def __eq__(self, other: object) -> bool:
        raise OSError("no comparing")


@activity
async def keep(value: Fragile) -> None: ...


@pytest.mark.parametrize("broken", [False, True])
def test_classes_that_raise_when_rebuilt_or_compared_are_a_mismatch_not_a_crash(broken: bool) -> None:
    given["broken"] = False
    given["value"], other = Fragile("a"), Fragile("b")
    run = Run(asking(lambda ctx: ctx.run(keep, given["value"])))
    given["value"], given["broken"] = other, broken
    try:
        with pytest.raises(DeterminismError, match='"b"'):
            replayed(run)
    finally:
        given["broken"] = False
    run.execution.evict()


# --- what is no input


def test_results_and_emitted_values_may_differ() -> None:
    @workflow
    async def telling(ctx: WorkflowContext) -> object:
        ctx.emit({"at": given["value"]}, durable=True)
        return given["value"]

    given["value"] = 1
    run = Run(telling)
    given["value"] = 2
    again = replayed(run)
    assert again.state.ending == run.execution.state.ending, "what was recorded counts"
    run.execution.evict()


def test_errors_may_differ() -> None:
    @workflow
    async def failing(ctx: WorkflowContext) -> None:
        raise LookupError(given["value"])

    given["value"] = "one"
    run = Run(failing)
    given["value"] = "other"
    assert replayed(run).state.ending == run.execution.state.ending
    run.execution.evict()


# --- compensations


@compensation
async def give_back(value: Any) -> None: ...


@activity(compensation=give_back)
async def borrow(value: Any) -> Any: ...


def test_a_compensation_gets_the_recorded_input_and_a_changed_one_is_told() -> None:
    @workflow
    async def saga(ctx: WorkflowContext) -> None:
        ctx.register_compensation(give_back, given["value"])
        await ctx.run(borrow, 1)
        raise LookupError("over")

    given["value"] = "a"
    run = Run(saga)
    run.give(ActivityCompleted("borrow:1", 1, encode_plain(None)))
    run.give(ActivityCompleted("compensate:borrow:1", 1, encode_plain(None)))
    replayed(run)
    given["value"] = "b"
    with pytest.raises(DeterminismError) as found:
        replayed(run)
    assert '"a"' in found.value.expected
    assert '"b"' in found.value.produced
    run.execution.evict()


# --- inputs="warn"


def test_with_warn_it_goes_on_with_what_was_recorded_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @workflow
    async def twice(ctx: WorkflowContext) -> list[Any]:
        found = [await ctx.run(take, given["value"]), await ctx.run(take, given["value"])]
        await ctx.receive("go")
        return found

    given["value"] = "old"
    run = Run(twice)
    run.give(ActivityCompleted("take:1", 1, encode_plain("first")))
    given["value"] = "new"
    rule = InputRule(stalls=False)
    with caplog.at_level(logging.WARNING):
        again = Execution(twice, run.key, inputs=rule)
        for commit in run.commits:
            again.replay(commit)
        replayed(run, rule=rule)
    [line] = [record.getMessage() for record in caplog.records]
    assert "old" in line
    assert "new" in line
    [pending] = again.state.activities.values()
    recorded = next(e for e in run.commits[1].events if isinstance(e, ActivityScheduled))
    assert pending.input == recorded.input
    # The rule goes with the instance into its next generation.
    assert again.following()._inputs is rule  # pyright: ignore[reportPrivateUsage]
    again.evict()
    run.execution.evict()


@pytest.mark.parametrize("value", ["ignore", "", None, True, "STALL"])
def test_inputs_is_stall_or_warn(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="inputs"):
        App("a", workflows=[], inputs=value)


# --- recorded histories


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_each_recorded_input_counts(path: Path) -> None:
    """In every recorded history, a recorded call with another argument does not fit the code any more."""
    history = History.from_json(path.read_text(encoding="utf-8"))
    tried = 0
    for n, commit in enumerate(history.commits):
        for at, event in enumerate(commit.events):
            if not isinstance(event, ActivityScheduled) or event.input == b"\x92\x90\x80":
                continue
            spoilt = event._replace(input=b"\x92\x91\xa7spoiled\x80")
            events = (*commit.events[:at], spoilt, *commit.events[at + 1 :])
            commits = (*history.commits[:n], replace(commit, events=events), *history.commits[n + 1 :])
            with pytest.raises(DeterminismError, match="another input"):
                replay(WORKFLOWS[path.stem], History(history.key, history.generation, commits))
            tried += 1
    assert tried or path.stem in {"timed", "grouped", "group_failed", "waited_for", "recurred"}


SETS = """
import json, sys
from pathlib import Path
from romancy_nats import DeterminismError
from romancy_nats.core.history import History
from romancy_nats.runtime.alarms import next_due
from romancy_nats.testing import replay
from tests.histories.workflows import WORKFLOWS
from tests.unit.test_recorded_inputs import compare, record

if sys.argv[1] == "record":
    print(record().to_json())
else:
    try:
        print(replay(compare, sys.stdin.read()).status)
    except DeterminismError as error:
        print("stalled", error)
"""


@workflow
async def compare(ctx: WorkflowContext, cities: set[str]) -> dict[str, Any]:
    return {city: await ctx.run(take, city) for city in cities}


def record() -> History:
    run = Run(compare, {"Oslo", "Rome", "Lima", "Kyiv", "Bern"})
    for n in range(4):
        run.give(ActivityCompleted(f"take:{n + 1}", 1, encode_plain(n)))
    run.execution.evict()
    return History(run.key, 0, tuple(run.commits))


def _python(how: str, seed: int, history: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-c", SETS, how],
        cwd=FOLDER.parents[1],
        env={**os.environ, "PYTHONHASHSEED": str(seed)},
        input=history,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


def test_a_loop_over_a_set_under_another_seed_stalls() -> None:
    history = _python("record", 1)
    assert _python("replay", 1, history) == InstanceStatus.RUNNING
    told = _python("replay", 2, history)
    assert told.startswith("stalled")
    assert "sort the set" in told


# --- recorded times


def _timed(wait: Callable[[WorkflowContext, float], Any]) -> Workflow[..., Any]:
    @workflow(name="timed")
    async def code(ctx: WorkflowContext) -> str:
        try:
            await wait(ctx, given["seconds"])
        except TimeoutError:
            return "late"
        return "done"

    return code


async def _until(ctx: WorkflowContext, seconds: float) -> None:
    await ctx.sleep_until(datetime.fromtimestamp(1 + seconds, UTC))


async def _asyncio_sleep(ctx: WorkflowContext, seconds: float) -> None:
    await asyncio.sleep(seconds)


async def _asyncio_timeout(ctx: WorkflowContext, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        await ctx.receive("never")


async def _wait_for(ctx: WorkflowContext, seconds: float) -> None:
    await asyncio.wait_for(ctx.receive("never"), seconds)


async def _anyio_sleep(ctx: WorkflowContext, seconds: float) -> None:
    await anyio.sleep(seconds)


async def _fail_after(ctx: WorkflowContext, seconds: float) -> None:
    with anyio.fail_after(seconds):
        await ctx.receive("never")


async def _move_on_after(ctx: WorkflowContext, seconds: float) -> None:
    with anyio.move_on_after(seconds):
        await ctx.receive("never")


WAITS: dict[str, tuple[str, Callable[[WorkflowContext, float], Any]]] = {
    "ctx.sleep": ("done", lambda ctx, seconds: ctx.sleep(seconds)),
    "ctx.sleep_until": ("done", _until),
    "asyncio.sleep": ("done", _asyncio_sleep),
    "asyncio.timeout": ("late", _asyncio_timeout),
    "asyncio.wait_for": ("late", _wait_for),
    "anyio.sleep": ("done", _anyio_sleep),
    "anyio.fail_after": ("late", _fail_after),
    "anyio.move_on_after": ("done", _move_on_after),
    "wait_event": ("late", lambda ctx, seconds: ctx.wait_event("never", timeout=seconds)),
    "receive": ("late", lambda ctx, seconds: ctx.receive("never", timeout=seconds)),
}


@pytest.mark.parametrize("newer", [1.0, 5000.0], ids=["sooner", "later"])
@pytest.mark.parametrize(("end", "wait"), WAITS.values(), ids=WAITS)
def test_recorded_due_times_count_whatever_newer_code_asks_for(
    end: str, wait: Callable[[WorkflowContext, float], Any], newer: float
) -> None:
    code = _timed(wait)
    given["seconds"] = 100.0
    run = Run(code)
    [started] = [command for command in run.commands if isinstance(command, TimerStarted)]
    assert started.due == 101_000_000

    given["seconds"] = newer
    again = Execution(code, run.key)
    again.replay(run.commits[0])
    assert next_due(again.state) == started.due
    commands = again.deliver(TimerFired(started.id), started.due)
    assert not [command for command in commands if isinstance(command, TimerStarted)], "it waits no longer"
    assert isinstance(commands[-1], WorkflowCompleted)
    assert code.result.decode(commands[-1].result) == end

    # The same where the history goes on: nothing of the newer delay is in the replay.
    run.execution.deliver(TimerFired(started.id), started.due)
    whole = replace(run.commits[0], time=started.due, events=(TimerFired(started.id), *commands))
    third = Execution(code, run.key)
    third.replay(run.commits[0])
    third.replay(whole)
    assert third.state.ending == again.state.ending
    for execution in (run.execution, again, third):
        execution.evict()


def test_a_recorded_timer_fires_at_its_time_by_the_clock_of_the_workflow() -> None:
    @workflow(name="timed")
    async def code(ctx: WorkflowContext) -> float:
        await ctx.sleep(given["seconds"])
        return ctx.now().timestamp()

    given["seconds"] = 100.0
    run = Run(code)
    given["seconds"] = 5000.0
    again = Execution(code, run.key)
    again.replay(run.commits[0])
    [*_, ended] = again.deliver(TimerFired("timer:1"), 101_000_000)
    assert isinstance(ended, WorkflowCompleted)
    assert code.result.decode(ended.result) == 101.0
    again.evict()
    run.execution.evict()


def test_a_failed_activity_and_a_message_keep_their_place() -> None:
    """Inputs are compared with the right parameters also where one step asks for many things."""

    @activity
    async def one(a: int) -> int: ...

    @activity
    async def two(b: str, c: int = 0) -> int: ...

    @workflow
    async def many(ctx: WorkflowContext) -> None:
        await ctx.receive("go")
        await asyncio.gather(
            ctx.run(one, 1), ctx.sleep(5), ctx.run(two, "x", given["value"]), return_exceptions=True
        )

    given["value"] = 1
    run = Run(many)
    run.give(MessageReceived("go", encode_plain(1), sender="s"))
    run.give(ActivityFailed("one:1", 1, Failure.of(LookupError("x")).encode()))
    replayed(run)
    given["value"] = 2
    with pytest.raises(DeterminismError) as found:
        replayed(run)
    assert "id='two:1'" in found.value.produced
    assert "c=2" in found.value.produced
    run.execution.evict()


# --- mutants: without its guard, each rule is seen to be broken


def _inputs_are_not_compared(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(determinism, "same_input", lambda *_: True)


def _bytes_are_compared(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(determinism, "same_input", lambda one, other, _: one == other)


def _newer_delays_count(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WorkflowTimer, "fall_due", lambda *_: None)


def _the_deadline_stays(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(handles, "_DEADLINES", ())


MUTANTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], Callable[[], None]]] = {
    "inputs are not compared": (
        _inputs_are_not_compared,
        lambda: test_another_input_is_told_with_both_and_the_line(ASKS["run"]),
    ),
    "bytes are compared": (_bytes_are_compared, test_a_model_may_gain_a_field_with_a_default),
    "newer delays count": (
        _newer_delays_count,
        lambda: test_recorded_due_times_count_whatever_newer_code_asks_for(*WAITS["ctx.sleep"], 5000.0),
    ),
    "the deadline stays": (
        _the_deadline_stays,
        lambda: test_recorded_due_times_count_whatever_newer_code_asks_for(
            *WAITS["anyio.fail_after"], 5000.0
        ),
    ),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("mutant", "test"), MUTANTS.values(), ids=MUTANTS)
def test_each_mutant_is_found(
    mutant: Callable[[pytest.MonkeyPatch], None], test: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    test()
    mutant(monkeypatch)
    with pytest.raises((AssertionError, DeterminismError, pytest.fail.Exception)):
        test()
