# pyright: reportPrivateUsage=false
"""Defects of our own around one instance's turn: it alone is stalled, with reason and traceback."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from romancy_nats import WorkflowContext, WorkflowStalledError, activity, compensation, workflow
from romancy_nats.core.execution import Execution
from romancy_nats.runtime import engine as engine_module
from romancy_nats.runtime import host as host_module
from romancy_nats.runtime import showing
from romancy_nats.runtime.effects import Effects
from romancy_nats.runtime.instance import Instance
from romancy_nats.runtime.registrations import Registrations
from tests.integration.place import PATIENCE, Place, until, until_status

pytestmark = pytest.mark.anyio

UNLUCKY = "unlucky"


class OwnBaseError(BaseException):
    """Not even an Exception."""


@compensation
async def undo() -> None: ...


@activity(compensation=undo)
async def quick() -> str:
    return "done"


@workflow
async def everything(ctx: WorkflowContext) -> str:
    """Passes each place once: an activity, a timer, an event, a message, compensation."""
    await ctx.run(quick)
    await ctx.sleep(0.02)
    async with ctx.events("things"):
        await ctx.receive("go")
    raise ValueError("compensate")


@workflow
async def neighbour(ctx: WorkflowContext, steps: int) -> int:
    for _ in range(steps):
        await ctx.run(quick)
    return steps


def _is_unlucky(found: object) -> bool:
    """Whether a part of the worker belongs to the instance in question."""
    if isinstance(found, Effects | Registrations):
        found = found._instance
    if isinstance(found, Execution):
        found = found.state
    return getattr(getattr(found, "key", None), "id", "") == UNLUCKY


def _breaks(patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """Raise in this function when it works for the unlucky instance."""
    real = getattr(owner, name)

    def broken(*args: Any, **kwargs: Any) -> Any:
        if any(map(_is_unlucky, args)):
            raise OwnBaseError(f"a defect in {name}")
        return real(*args, **kwargs)

    patch.setattr(owner, name, broken)


PLACES: dict[str, tuple[Any, str]] = {
    "step": (Execution, "deliver"),
    "step and commit": (Instance, "_step"),
    "commit answered": (Instance, "_confirm_carried"),
    "effects": (Effects, "carry_out"),
    "timer": (Effects, "arm"),
    "timer fires": (Effects, "_fired"),
    "registration": (Registrations, "_run"),
    "lingering": (Instance, "may_rest"),
    "before the rest": (host_module, "settle_effects"),
    "compensation is shown": (showing, "show"),
}


@pytest.mark.parametrize("where", PLACES)
async def test_a_defect_stalls_its_instance_alone(
    place: Place, where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    owner, name = PLACES[where]
    _breaks(monkeypatch, owner, name)
    async with place.run(everything, neighbour, settings=place.settings(max_takeovers=2)) as client:
        beside = await client.start(neighbour, 50)
        handle = await client.start(everything.options(id=UNLUCKY))
        await handle.send("go", 1)
        await until_status(handle, "stalled", within=20)
        with pytest.raises(WorkflowStalledError) as stalled:
            await handle.result(10)
        assert "takeover" in stalled.value.message or (
            "OwnBaseError" in stalled.value.message and f"a defect in {name}" in stalled.value.message
        )
        assert await beside.result(20) == 50
        assert await client.execute(neighbour, 2) == 2
        # What is stalled can be healed: nothing of it was lost.
        monkeypatch.undo()
        await handle.retry()
        await until_status(handle, "failed", within=20)


async def test_what_cannot_be_brought_to_rest_is_dropped_and_counted(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "romancy.worker")
    broke: list[str] = []
    real: Callable[..., Any] = host_module.rest

    async def broken(instance: Instance, **options: Any) -> bool:
        if _is_unlucky(instance):
            broke.append("rest")
            raise OwnBaseError("it cannot rest")
        return bool(await real(instance, **options))

    monkeypatch.setattr(host_module, "rest", broken)
    async with place.run(everything, neighbour) as client:
        handle = await client.start(everything.options(id=UNLUCKY))
        await until(lambda: len(broke) > 2)
        assert await client.execute(neighbour, 2) == 2
        monkeypatch.undo()
        # It is looked at again, although no message may be left that would wake it.
        await handle.send("go", 1)
        await until_status(handle, "failed", within=20)


async def test_without_the_boundary_a_defect_ends_the_worker(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: if this does not end the worker, the tests above prove nothing."""

    async def unbounded(work: Coroutine[Any, Any, None], _: object) -> None:
        await work

    monkeypatch.setattr(host_module, "_bounded", unbounded)
    _breaks(monkeypatch, host_module, "settle_effects")
    with pytest.raises(BaseExceptionGroup) as found:
        async with place.run(everything, neighbour) as client:
            await client.start(everything.options(id=UNLUCKY))
            await asyncio.sleep(PATIENCE)
    assert found.group_contains(OwnBaseError)


async def test_what_spans_no_instance_goes_on_after_a_defect(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "romancy.worker")
    broke: list[str] = []

    def breaks(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        async def broken(*args: Any, **kwargs: Any) -> Any:
            if name not in broke:
                broke.append(name)
                raise OwnBaseError(name)
            return await real(*args, **kwargs)

        monkeypatch.setattr(owner, name, broken)

    loops = ("_pull_starts", "_pull_messages", "_pull_due")
    for name in loops:
        breaks(engine_module.Engine, name)
    breaks(engine_module.Dispatcher, "run")
    breaks(engine_module.Keepalive, "run")
    breaks(engine_module.Sweeper, "run")
    breaks(engine_module.Sweeper, "watch_deaths")
    breaks(host_module.Janitor, "run")
    breaks(engine_module.Lease, "keep")
    async with place.run(everything, neighbour) as client:
        handle = await client.start(everything.options(id="lucky"))
        await handle.send("go", 1)
        await until_status(handle, "failed")
        assert await client.execute(neighbour, 2) == 2
        assert {*loops, "run", "watch_deaths", "keep"} <= set(broke)
