# ruff: noqa: BLE001
"""Threads, processes and I/O in workflow code: refused at the call, or the instance stalls and the text names them."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import anyio
import anyio.from_thread
import anyio.to_process
import anyio.to_thread
import pytest

from romancy_nats import WorkflowContext, WorkflowIOError, WorkflowRuleError, workflow
from romancy_nats.core.events import WorkflowFailed, WorkflowStarted
from romancy_nats.core.execution import Execution
from romancy_nats.core.failure import Failure
from romancy_nats.core.ids import InstanceKey
from tests.unit.test_waits import Run

ran: list[str] = []
NOTHING = [sys.executable, "-c", ""]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    ran.clear()
    before = set(threading.enumerate())
    yield
    assert ran == []
    assert set(threading.enumerate()) <= before


def body(*_: object) -> str:
    ran.append("body")
    return "page"


def _served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Never called."""


async def _in_a_pool() -> object:
    with ThreadPoolExecutor(1) as pool:
        return await asyncio.get_running_loop().run_in_executor(pool, body)


async def _gathered() -> object:
    return await asyncio.gather(anyio.to_thread.run_sync(body), asyncio.sleep(1))


async def _in_a_group() -> object:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.to_thread.run_sync, body)
    return None


REFUSED: dict[str, Callable[[], Any]] = {
    "asyncio.to_thread": lambda: asyncio.to_thread(body),
    "run_in_executor": _in_a_pool,
    "anyio.to_thread": lambda: anyio.to_thread.run_sync(body),
    "anyio.to_thread, abandoned": lambda: anyio.to_thread.run_sync(body, abandon_on_cancel=True),
    "anyio.to_thread, limited": lambda: anyio.to_thread.run_sync(body, limiter=anyio.CapacityLimiter(1)),
    "anyio.to_thread, twice": _gathered,
    "anyio.to_thread, in a group": _in_a_group,
    "anyio.to_process": lambda: anyio.to_process.run_sync(body),
    "anyio.open_file": lambda: anyio.open_file(__file__),
    "anyio.Path": lambda: anyio.Path(__file__).read_text(),
    "anyio.run_process": lambda: anyio.run_process(NOTHING),
    "anyio.open_process": lambda: anyio.open_process(NOTHING),
    "anyio.connect_tcp": lambda: anyio.connect_tcp("127.0.0.1", 1),
    "create_subprocess_exec": lambda: asyncio.create_subprocess_exec(*NOTHING),
    "create_subprocess_shell": lambda: asyncio.create_subprocess_shell("true"),
    "open_connection": lambda: asyncio.open_connection("127.0.0.1", 1),
    "start_server": lambda: asyncio.start_server(_served, "127.0.0.1", 0),
    "getaddrinfo": lambda: asyncio.get_running_loop().getaddrinfo("localhost", 1),
}


def _text(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return _text(group.exceptions[0])
    return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
def test_it_is_refused_at_the_call(call: Callable[[], Any]) -> None:
    @workflow
    async def calling(ctx: WorkflowContext) -> str:
        try:
            await call()
        except Exception as error:
            return _text(error)
        return "ran"

    found = Run(calling).ended()
    assert found.startswith(WorkflowIOError.__name__), found
    assert "activity" in found


def test_the_workflow_fails_with_the_error_that_says_what_to_do() -> None:
    @workflow
    async def calling(ctx: WorkflowContext) -> object:
        return await anyio.to_thread.run_sync(body)

    run = Run(calling)
    ending = run.execution.state.ending
    assert isinstance(ending, WorkflowFailed)
    assert "do this in an activity" in Failure.decode(ending.failure).message
    run.execution.evict()


def test_what_can_only_be_called_in_a_thread_says_so() -> None:
    @workflow
    async def calling(ctx: WorkflowContext) -> str:
        with pytest.raises(RuntimeError, match="worker thread"):
            anyio.from_thread.run_sync(body)
        return "refused"

    assert Run(calling).ended() == "refused"


def _from_a_thread(call: Callable[[], object]) -> None:
    def guarded() -> None:
        try:
            call()
        except Exception as error:
            errors.append(error)

    errors: list[Exception] = []
    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join()
    assert errors, "the thread is told, too"


async def _calls_back() -> None:
    loop, future = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()
    _from_a_thread(lambda: loop.call_soon_threadsafe(future.set_result, 1))
    await future


async def _resolves_a_future() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def wait() -> int:
        return await future

    task = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    _from_a_thread(lambda: future.set_result(1))
    await task


async def _submits_to_a_loop() -> None:
    loop = asyncio.get_running_loop()

    async def nothing() -> None:
        """Never runs."""

    coroutine = nothing()
    _from_a_thread(lambda: asyncio.run_coroutine_threadsafe(coroutine, loop))
    coroutine.close()


async def _wraps_a_future() -> None:
    with ThreadPoolExecutor(1, "mine") as pool:
        await asyncio.wrap_future(pool.submit(str))


STALLS: dict[str, tuple[Callable[[], Any], str]] = {
    "call_soon_threadsafe": (_calls_back, "future.set_result"),
    "set_result": (_resolves_a_future, "future.set_result"),
    "run_coroutine_threadsafe": (_submits_to_a_loop, "run_coroutine_threadsafe"),
    "wrap_future": (_wraps_a_future, "concurrent"),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(("call", "named"), STALLS.values(), ids=STALLS)
def test_a_thread_that_calls_back_stalls_the_instance_and_is_named(
    call: Callable[[], Any], named: str
) -> None:
    @workflow
    async def calling(ctx: WorkflowContext) -> None:
        await call()

    execution = Execution(calling, InstanceKey("calling", "x"))
    with pytest.raises(WorkflowRuleError) as found:
        execution.deliver(WorkflowStarted("calling", calling.parameters.encode(()), calling.code), 1)
    assert named in str(found.value)
    assert "activity" in str(found.value)
    execution.evict()


def test_anyio_knows_the_library_and_its_own_tools_work() -> None:
    @workflow
    async def calling(ctx: WorkflowContext) -> str:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 0)
        with anyio.move_on_after(0):
            await anyio.sleep_forever()
        async with anyio.CapacityLimiter(1), anyio.Lock():
            await anyio.lowlevel.checkpoint()
        return type(anyio.lowlevel.current_token().native_token).__name__

    assert Run(calling).ended() == "DeterministicLoop"
