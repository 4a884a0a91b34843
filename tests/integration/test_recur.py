"""Instances that begin anew under their own id: nothing that was sent to them is lost or seen twice on the way."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from romancy_nats import (
    InstanceConflictError,
    PayloadError,
    UpdateRejectedError,
    WorkflowCancelledError,
    WorkflowContext,
    WorkflowFailedError,
    WorkflowHandle,
    activity,
    compensation,
    workflow,
)
from romancy_nats.client.client import session_of
from romancy_nats.core.events import WorkflowStarted
from romancy_nats.core.history import History
from romancy_nats.core.ids import InstanceKey
from romancy_nats.testing import replay
from tests.integration.place import Place, until, until_status

pytestmark = pytest.mark.anyio
calls: list[Any] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    calls.clear()


@activity
async def note(what: str) -> str:
    calls.append(what)
    return what


@compensation
async def undo_it(what: str) -> None:
    calls.append(f"undo {what}")


@activity(compensation=undo_it)
async def do_it(what: str) -> None:
    calls.append(f"do {what}")


@workflow
async def counter(ctx: WorkflowContext, upto: int, n: int = 0) -> list[int]:
    await ctx.run(note, f"{ctx.generation}:{n}")
    if n < upto:
        ctx.recur(upto, n + 1)
    return [ctx.generation, n]


@workflow
async def ledger(ctx: WorkflowContext, sums: list[int], per_generation: int) -> list[int]:
    total = 0
    for _ in range(per_generation):
        number = (await ctx.receive("numbers")).data
        if number < 0:
            break
        total += number
    else:
        ctx.recur([*sums, total], per_generation)
    return [*sums, total]


@workflow
async def slow_ledger(ctx: WorkflowContext, got: list[int]) -> list[int]:
    await ctx.run(note, "in")
    await asyncio.sleep(0.3)
    got += [(await ctx.receive("numbers")).data for _ in range(2)]
    if len(got) < 8:
        ctx.recur(got)
    return got


@workflow
async def saga(ctx: WorkflowContext, last: bool = False) -> None:
    await ctx.run(do_it, f"{ctx.generation}")
    if not last:
        ctx.recur(True)
    raise ValueError("at the end")


@workflow
async def with_tasks(ctx: WorkflowContext, from_child: bool, again: bool = True) -> str:
    if not again:
        await asyncio.sleep(0.2)
        return f"generation {ctx.generation}"

    async def background() -> None:
        try:
            await ctx.wait_event("never")
        finally:
            calls.append("background over")

    async def recurs() -> None:
        await ctx.run(note, "child")
        ctx.recur(from_child, again=False)

    async with asyncio.TaskGroup() as group:
        group.create_task(background())
        if from_child:
            group.create_task(recurs())
        else:
            await ctx.run(note, "root")
            ctx.recur(from_child, again=False)
    return "never"


@workflow
async def stubborn(ctx: WorkflowContext, again: bool = True) -> int:
    if again:
        try:
            ctx.recur(False)
        except Exception:  # noqa: BLE001 - as users write
            calls.append("swallowed")
    return ctx.generation


@workflow
async def for_ever(ctx: WorkflowContext, n: int = 0) -> None:
    await ctx.sleep(0.05)
    calls.append(n)
    ctx.recur(n + 1)


@workflow
async def waits_again(ctx: WorkflowContext, heard: list[str]) -> list[str]:
    heard.append((await ctx.wait_event("news")).data)
    if len(heard) < 3:
        ctx.recur(heard)
    return heard


@workflow
async def speaker(ctx: WorkflowContext, to: str, first: int) -> None:
    for number in range(first, first + 3):
        await ctx.send_to(to, "numbers", number, workflow="ledger")
    if first < 6:
        ctx.recur(to, first + 3)


async def test_each_generation_has_its_own_history_and_the_last_one_the_result(place: Place) -> None:
    async with place.run(counter) as client:
        handle = await client.start(counter.options(id="c"), 5)
        assert await handle.result(10) == [5, 5]
        assert calls == [f"{n}:{n}" for n in range(6)]
        assert (await handle.describe()).generation == 5
        history = await handle.history()
        started = history[0].events[0]
        assert isinstance(started, WorkflowStarted)
        assert counter.parameters.decode(started.input) == ([5, 5], {})
        replayed = replay(counter, History(InstanceKey("counter", "c"), 5, tuple(history)))
        assert replayed.status == "completed"


async def test_the_first_input_counts_for_conflicts(place: Place) -> None:
    async with place.run(counter) as client:
        handle = await client.start(counter.options(id="c"), 2)
        assert await handle.result(10) == [2, 2]
        assert await (await client.start(counter.options(id="c"), 2)).result(10) == [2, 2]
        with pytest.raises(InstanceConflictError):
            await (await client.start(counter.options(id="c"), 2, 2)).result(10)


async def test_the_ledger_keeps_only_the_latest_generation(place: Place) -> None:
    async with place.run(for_ever) as client:
        handle = await client.start(for_ever.options(id="f"))
        await until(lambda: len(calls) > 20)
        assert await handle.cancel("enough")
        with pytest.raises(WorkflowCancelledError):
            await handle.result(10)
        assert calls == list(range(len(calls)))
        generation = (await handle.describe()).generation
        assert generation >= 20
        key, ledger = InstanceKey("for_ever", "f"), session_of(client).world.ledger
        kept = [n for n in range(generation) if await ledger.read_commit(key, n, 1) is not None]
        assert kept == []


async def test_no_message_is_lost_or_seen_twice(place: Place) -> None:
    async with place.run(ledger) as client:
        handle = await client.start(ledger, [], 3)
        for number in range(1, 21):
            await handle.send("numbers", number)
        await handle.send("numbers", -1)
        assert await handle.result(10) == [6, 15, 24, 33, 42, 51, 39]


async def test_unread_messages_carry_over_also_to_another_worker(place: Place) -> None:
    async def start(client: Any) -> Any:
        handle = await client.start(slow_ledger, [])
        await until(lambda: bool(calls))
        for number in range(8):
            await handle.send("numbers", number)
        return handle

    async with place.handed_over(slow_ledger, ready=lambda: calls.count("in") > 1, start=start) as (
        _,
        handle,
    ):
        assert await handle.result(15) == list(range(8))


async def test_messages_of_one_sender_stay_in_order_when_either_side_recurs(place: Place) -> None:
    async with place.run(ledger, speaker) as client:
        handle = await client.start(ledger, [], 2)
        await client.execute(speaker, handle.id, 0)
        await handle.send("numbers", -1)
        assert await handle.result(10) == [1, 5, 9, 13, 8]


async def test_compensations_of_earlier_generations_are_dropped(place: Place) -> None:
    async with place.run(saga) as client:
        with pytest.raises(WorkflowFailedError):
            await client.execute(saga)
        assert calls == ["do 0", "do 1", "undo 1"]


@pytest.mark.parametrize("from_child", [True, False])
async def test_background_tasks_end_with_their_generation(place: Place, from_child: bool) -> None:
    async with place.run(with_tasks) as client:
        handle = await client.start(with_tasks, from_child)
        assert await handle.result(10) == "generation 1"
        assert calls == ["child" if from_child else "root", "background over"]


async def test_no_except_exception_holds_it_up(place: Place) -> None:
    async with place.run(stubborn) as client:
        assert await client.execute(stubborn) == 1
        assert calls == []


async def test_a_wait_of_a_generation_hears_events_of_its_own_time(place: Place) -> None:
    async with place.run(waits_again) as client:
        handle = await client.start(waits_again, [])
        for number in range(3):
            await until_status(handle, "waiting_for_event")
            await client.send_event("news", f"n{number}")
            await until_generation(handle, number + 1, last=2)
        assert await handle.result(10) == ["n0", "n1", "n2"]


async def until_generation(handle: Any, generation: int, last: int) -> None:
    while (await handle.describe()).generation < min(generation, last):
        await asyncio.sleep(0.005)


async def test_the_time_limit_is_that_of_the_first_generation(place: Place) -> None:
    async with place.run(for_ever) as client:
        with pytest.raises(WorkflowFailedError, match="timeout"):
            await client.execute(for_ever.options(timeout=timedelta(seconds=0.5)))
        assert 2 < len(calls) < 12


async def test_an_input_that_does_not_fit_is_an_error_where_it_is_given(place: Place) -> None:
    @workflow
    async def careless(ctx: WorkflowContext) -> str:
        try:
            ctx.recur("one argument too many")
        except PayloadError as error:
            return str(error)

    async with place.run(careless) as client:
        assert "too many positional arguments" in await client.execute(careless)


async def test_an_update_that_waits_at_recur_is_carried_out_by_the_next_generation(place: Place) -> None:
    @workflow
    async def second_answers(ctx: WorkflowContext, n: int = 0) -> str:
        if n < 2:
            await ctx.receive("go")
            ctx.recur(n + 1)

        def answer(question: str) -> str:
            return f"{question} in {n}"

        ctx.on_update("answer", answer)
        return str((await ctx.receive("end")).data)

    async with place.run(second_answers) as client:
        handle = await client.start(second_answers)
        await until_status(handle, "waiting_for_message")
        asking = asyncio.create_task(handle.update("answer", "asked", message_id="one"))
        try:
            await until_update_arrived(handle)
            await handle.send("go", 1)
            await handle.send("go", 2)
            async with asyncio.timeout(10):
                assert await asking == "asked in 2"
            # Whoever asks again under the same id hears the same, although that history is gone.
            assert await handle.update("answer", "asked", message_id="one") == "asked in 2"
        finally:
            asking.cancel()
        await handle.send("end", "over")
        assert await handle.result(10) == "over"


async def until_update_arrived(handle: WorkflowHandle[Any]) -> None:
    async with asyncio.timeout(10):
        while "UpdateRequested" not in str(await handle.history()):
            await asyncio.sleep(0.02)


async def test_of_updates_that_wait_at_recur_only_so_many_are_carried_over(place: Place) -> None:
    @workflow
    async def never_answers(ctx: WorkflowContext, n: int = 0) -> str:
        await ctx.receive("go")
        if not n:
            ctx.recur(1)
        return "over"

    async with place.run(never_answers) as client:
        handle = await client.start(never_answers)
        await until_status(handle, "waiting_for_message")
        asking = [asyncio.create_task(handle.update("later", "x" * 60_000)) for _ in range(4)]
        try:
            async with asyncio.timeout(10):
                while str(await handle.history()).count("UpdateRequested") < 4:
                    await asyncio.sleep(0.02)
            await handle.send("go", 1)
            await asyncio.wait(asking, timeout=10, return_when=asyncio.FIRST_EXCEPTION)
            rejected = [task for task in asking if task.done() and task.exception() is not None]
            assert rejected
            assert len(rejected) < 4
            await handle.send("go", 2)
            assert await handle.result(10) == "over"
            ends = await asyncio.gather(*asking, return_exceptions=True)
            assert all(isinstance(end, UpdateRejectedError) for end in ends)
        finally:
            for task in asking:
                task.cancel()
