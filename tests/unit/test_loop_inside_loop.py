"""Steps inside another event loop (asyncio, uvloop), in a task or in a callback, leave no trace in it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from romancy_nats.core.loop import WorkflowTask
from tests.unit.virtual import Drive


async def _inside() -> None:
    outer, me, hooks = asyncio.get_running_loop(), asyncio.current_task(), sys.get_asyncgen_hooks()
    seen: list[object] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen.append(loop)
        assert isinstance(asyncio.current_task(), WorkflowTask)
        assert asyncio.current_task(outer) is None
        assert sys.get_asyncgen_hooks() != hooks
        assert [item async for item in numbers()] == [1, 2]
        await asyncio.sleep(1)

    async def numbers() -> Any:
        yield 1
        await asyncio.sleep(1)
        yield 2

    drive = Drive(main)
    await asyncio.sleep(0)
    drive.to_end()
    assert seen == [drive.loop]
    assert asyncio.get_running_loop() is outer
    assert asyncio.current_task() is me
    assert sys.get_asyncgen_hooks() == hooks
    with pytest.raises(KeyError):
        drive.step(lambda: {}["gone"])
    assert asyncio.get_running_loop() is outer
    assert asyncio.current_task() is me


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_steps_inside_another_loop_leave_no_trace_in_it(
    factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_inside())


def test_a_step_in_a_callback_of_another_loop_without_a_task() -> None:
    async def main() -> str:
        return "done"

    outer = asyncio.new_event_loop()
    try:
        found: list[Drive] = []
        outer.call_soon(lambda: found.append(Drive(main)))
        outer.call_soon(outer.stop)
        outer.run_forever()
        assert found[0].root.result() == "done"
    finally:
        outer.close()
