"""The rules of the deterministic loop (L7, L8): steps, time, timers, errors, refusals."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from romancy_nats.core.loop import DeterministicLoop, StepViolation
from romancy_nats.errors import StepTooLongError, WorkflowIOError, WorkflowRuleError
from tests.unit.virtual import START, Drive, run


def test_a_step_runs_everything_that_is_ready_and_no_more() -> None:
    seen: list[object] = []

    async def main() -> None:
        seen.append("began")
        seen.append(await future)
        seen.append("ended")

    loop = DeterministicLoop()
    future: asyncio.Future[str] = loop.create_future()
    drive = Drive(main, loop)
    assert seen == ["began"]
    drive.step(lambda: future.set_result("result"))
    assert seen == ["began", "result", "ended"]
    assert drive.root.done()


def test_time_is_what_the_step_says_and_never_goes_backwards() -> None:
    loop = DeterministicLoop()
    seen: list[float] = []
    for now in (START, START + 5, START + 1, START + 6):
        loop.step(now, lambda: seen.append(loop.time()))
    assert seen == [START, START + 5, START + 5, START + 6]


def test_the_root_task_runs_in_the_context_it_is_given() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="fresh")
    variable.set("of the worker")
    seen: list[str] = []

    async def main() -> None:
        seen.append(variable.get())
        variable.set("of the workflow")
        await asyncio.gather(child())

    async def child() -> None:
        seen.append(variable.get())

    run(main)
    assert seen == ["fresh", "of the workflow"]
    assert variable.get() == "of the worker"


# --- timers


def test_sleep_makes_one_numbered_timer_and_sleep_zero_none() -> None:
    async def main() -> float:
        await asyncio.sleep(0)
        await asyncio.sleep(10)
        await asyncio.sleep(20)
        return asyncio.get_running_loop().time()

    drive = Drive(main)
    assert [(timer.number, timer.when()) for timer in drive.timers] == [(1, START + 10)]
    assert drive.to_end() == START + 30
    assert drive.steps == 3
    assert drive.cancelled == []


def test_a_timer_cancelled_in_the_step_of_its_creation_is_never_seen() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        handles = [loop.call_later(seconds, print) for seconds in (1, 2, 3, 4)]
        handles[1].cancel()
        handles[0].cancel()
        handles[1].cancel()

    drive = Drive(main)
    assert [timer.number for timer in drive.timers] == [3, 4]
    assert drive.cancelled == []


def test_only_timers_known_outside_are_reported_as_cancelled() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        known = [loop.call_later(1, print), loop.call_later(2, print)]
        await future
        known[1].cancel()
        loop.call_later(3, print)
        loop.call_later(4, print).cancel()
        known[0].cancel()

    loop = DeterministicLoop()
    future: asyncio.Future[None] = loop.create_future()
    drive = Drive(main, loop)
    drive.step(lambda: future.set_result(None))
    assert drive.cancelled == [2, 1]
    assert [timer.number for timer in drive.timers] == [3]


def test_what_is_due_already_runs_in_the_same_step_and_what_is_due_never_makes_no_timer() -> None:
    seen: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(0, seen.append, "now")
        loop.call_at(loop.time() - 5, seen.append, "past")
        loop.call_at(math.inf, seen.append, "never")
        with pytest.raises(ValueError, match="NaN"):
            loop.call_later(math.nan, seen.append, "nan")

    drive = Drive(main)
    assert seen == ["now", "past"]
    assert drive.timers == []


def test_a_sleep_shorter_than_a_float_can_tell_still_waits() -> None:
    async def main() -> None:
        await asyncio.sleep(1e-12)

    drive = Drive(main)
    assert [timer.when() > START for timer in drive.timers] == [True]
    drive.to_end()


def test_a_fired_timer_that_was_cancelled_in_the_same_step_does_not_run() -> None:
    seen: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        second = loop.call_later(1, seen.append, "second")
        loop.call_later(1, second.cancel)

    drive = Drive(main)
    second, first = drive.timers
    drive.timers.clear()

    def deliver() -> None:
        drive.loop.fire(first)
        drive.loop.fire(second)
        drive.loop.fire(second)

    drive.step(deliver, now=START + 1)
    assert seen == []
    assert drive.cancelled == []


# --- order


def test_futures_and_tasks_are_hashed_by_creation_within_a_seed() -> None:
    def orders(seed: int) -> list[int]:
        loop = DeterministicLoop(seed=seed)
        found: list[int] = []

        async def main() -> None:
            created = [asyncio.create_task(asyncio.sleep(0)), loop.create_future(), loop.create_future()]
            assert list(set(reversed(created))) == created
            assert created[0] != created[1]
            found.extend(map(hash, created))

        drive = Drive(main, loop)
        assert drive.root.exception() is None
        return found

    assert orders(1) == orders(1)
    assert orders(0) == [2, 3, 4]
    assert not set(orders(1)) & set(orders(2))


def test_default_task_names_count_from_the_start_of_the_instance() -> None:
    async def main() -> list[str]:
        return [asyncio.create_task(asyncio.sleep(0)).get_name() for _ in range(2)]

    assert run(main) == run(main) == ["Task-2", "Task-3"]


def test_live_tasks_are_the_pending_ones_in_order_of_creation() -> None:
    async def main() -> None:
        for _ in range(50):
            await asyncio.create_task(asyncio.sleep(0))
        for number in range(3):
            asyncio.create_task(asyncio.sleep(1), name=str(number))  # noqa: RUF006 - the loop itself must hold them
        await asyncio.sleep(2)

    drive = Drive(main)
    assert [task.get_name() for task in drive.loop.live_tasks()] == ["Task-1", "0", "1", "2"]
    drive.to_end()
    assert drive.loop.live_tasks() == []


# --- refusals

IO_METHODS = sorted(
    name
    for name in dir(asyncio.AbstractEventLoop)
    if name.startswith(("add_", "remove_", "sock_", "connect_", "subprocess_"))
    or name.startswith(("create_conn", "create_data", "create_serv", "create_unix"))
    or name
    in {"getaddrinfo", "getnameinfo", "run_in_executor", "set_default_executor", "sendfile", "start_tls"}
)


@pytest.mark.parametrize("name", IO_METHODS)
def test_every_io_method_says_to_use_an_activity(name: str) -> None:
    with pytest.raises(WorkflowIOError, match=rf"{name}: do this in an activity"):
        getattr(DeterministicLoop(), name)("anything")


def test_no_method_of_an_event_loop_was_forgotten() -> None:
    inherited = [
        name
        for name in dir(asyncio.AbstractEventLoop)
        if not name.startswith("__")
        and getattr(DeterministicLoop, name) is getattr(asyncio.AbstractEventLoop, name)
    ]
    assert inherited == []


@pytest.mark.parametrize(
    "io",
    [
        lambda: asyncio.to_thread(print),
        lambda: asyncio.open_connection("localhost", 1),
        lambda: asyncio.create_subprocess_exec("true"),
        lambda: asyncio.get_running_loop().getaddrinfo("localhost", 1),
        lambda: anyio.connect_tcp("127.0.0.1", 1),
    ],
)
def test_io_in_a_workflow_fails_it_at_once(io: Callable[[], Any]) -> None:
    async def main() -> None:
        await io()

    with pytest.raises((WorkflowIOError, ExceptionGroup)) as raised:
        run(main)
    error = raised.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, WorkflowIOError)


@pytest.mark.parametrize("name", ["run_forever", "stop", "close", "set_task_factory", "set_debug"])
def test_workflow_code_may_not_drive_the_loop(name: str) -> None:
    with pytest.raises(WorkflowRuleError, match=name):
        getattr(DeterministicLoop(), name)()


def test_a_future_resolved_outside_a_step_stalls_the_loop_and_says_where_from() -> None:
    reported: list[StepViolation] = []
    loop = DeterministicLoop(on_stalled=reported.append)
    future: asyncio.Future[int] = loop.create_future()

    async def main() -> None:
        await future

    Drive(main, loop)
    with pytest.raises(StepViolation):
        future.set_result(1)
    assert loop.stalled is not None
    assert loop.stalled.call == "call_soon"
    assert "test_a_future_resolved_outside_a_step" in loop.stalled.stack
    assert "activity" in str(loop.stalled)
    assert reported == [loop.stalled]
    assert loop.is_closed()


def test_call_soon_threadsafe_stalls_even_inside_a_step_and_the_first_violation_counts() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(StepViolation):
            loop.call_soon_threadsafe(print)
        coroutine = asyncio.sleep(0)
        with pytest.raises(StepViolation):
            asyncio.run_coroutine_threadsafe(coroutine, loop)
        coroutine.close()

    drive = Drive(main)
    assert drive.root.exception() is None
    assert drive.loop.stalled is not None
    assert "loop.call_soon_threadsafe(print)" in drive.loop.stalled.stack


def test_a_task_made_outside_a_step_is_refused_without_a_warning() -> None:
    loop = DeterministicLoop()
    with pytest.raises(StepViolation):
        loop.create_task(asyncio.sleep(1))
    assert loop.stalled is not None
    assert loop.errors == []


def test_another_thread_is_refused_even_while_a_step_runs() -> None:
    raised: list[BaseException] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def elsewhere() -> None:
            try:
                loop.call_soon(print)
            except StepViolation as error:
                raised.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    drive = Drive(main)
    assert len(raised) == 1
    assert drive.loop.stalled is not None
    assert "elsewhere" in drive.loop.stalled.stack


def test_a_thread_that_calls_back_stalls_the_loop_instead_of_hanging_it() -> None:
    stalled, go = threading.Event(), threading.Event()
    loop = DeterministicLoop(on_stalled=lambda violation: stalled.set())
    threads: list[threading.Thread] = []

    def call_back(future: asyncio.Future[int]) -> None:
        go.wait(10)
        with pytest.raises(StepViolation):
            loop.call_soon_threadsafe(future.set_result, 1)

    async def main() -> None:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        threads.append(threading.Thread(target=call_back, args=(future,)))
        threads[0].start()
        await future

    drive = Drive(main, loop)
    go.set()
    assert stalled.wait(10)
    threads[0].join(10)
    assert loop.stalled is not None
    assert loop.stalled.call == "call_soon_threadsafe"
    assert not drive.root.done()
    loop.close_all()


def test_a_step_that_never_waits_is_broken_off() -> None:
    async def main() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)

    loop = DeterministicLoop(max_handles=500)
    with pytest.raises(StepTooLongError, match="500"):
        Drive(main, loop)
    loop.close_all()


def test_exactly_the_allowed_number_of_handles_is_fine() -> None:
    loop = DeterministicLoop(max_handles=3)
    seen: list[int] = []

    def deliver() -> None:
        for number in range(3):
            loop.call_soon(seen.append, number)

    loop.step(START, deliver)
    assert seen == [0, 1, 2]


def test_a_step_within_a_step_is_refused() -> None:
    other = DeterministicLoop()

    async def main() -> None:
        with pytest.raises(WorkflowRuleError, match="step within a step"):
            other.step(START)
        with pytest.raises(WorkflowRuleError, match="step within a step"):
            drive.loop.step(START)
        with pytest.raises(WorkflowRuleError, match="step within a step"):
            drive.loop.close_all()

    loop = DeterministicLoop()
    drive = Drive.__new__(Drive)
    drive.loop = loop
    Drive.__init__(drive, main, loop)
    assert drive.root.exception() is None
    other.step(START)


# --- errors


def test_errors_of_callbacks_are_collected_and_the_step_goes_on() -> None:
    errors: list[dict[str, object]] = []
    loop = DeterministicLoop(on_error=errors.append)
    seen: list[str] = []

    def deliver() -> None:
        loop.call_soon(lambda: 1 / 0)
        loop.call_soon(seen.append, "next")

    loop.step(START, deliver)
    assert seen == ["next"]
    assert [type(context["exception"]) for context in errors] == [ZeroDivisionError]


def test_a_task_failure_that_nobody_looks_at_is_collected(capfd: pytest.CaptureFixture[str]) -> None:
    async def fail() -> None:
        raise ValueError("lost")

    async def main() -> None:
        task = asyncio.create_task(fail())
        await asyncio.sleep(0)
        del task

    drive = Drive(main)
    assert [str(context["exception"]) for context in drive.loop.errors] == ["lost"]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_system_exit_fails_the_task_and_not_the_worker(error: BaseException) -> None:
    seen: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().call_soon(seen.append, "went on")
        raise error

    drive = Drive(main)
    assert drive.root.exception() is error
    assert seen == ["went on"]


def test_an_error_in_deliver_leaves_the_loop_usable() -> None:
    loop = DeterministicLoop()

    def deliver() -> None:
        loop.call_soon(seen.append, "later")
        raise KeyError("bug")

    seen: list[str] = []
    with pytest.raises(KeyError):
        loop.step(START, deliver)
    assert not loop.is_running()
    loop.step(START)
    assert seen == ["later"]
