"""Records histories from real runs: `python -m tests.histories.record [NAME…]`. Files that exist are left alone."""

from __future__ import annotations

import asyncio
import sys
import traceback
from pathlib import Path
from typing import Any

from romancy_nats import App, Client, InstanceStatus, WorkflowError, WorkflowHandle
from romancy_nats.core import failure
from romancy_nats.core.events import ActivityScheduled
from romancy_nats.core.history import History
from romancy_nats.core.ids import InstanceKey
from tests.histories.workflows import WORKFLOWS

FOLDER = Path(__file__).parent
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "sequential": ("book",),
    "gathered": (5,),
    "saga_failed": ("book", "lamp"),
    "cancelled_in_flight": ("book",),
    "terminated": ("book",),
    "retried": ("shop",),
    "timed": (3,),
    "grouped": (),
    "group_failed": (),
    "waited_for": (),
    "mixed": (["ann", "bob", "cy"],),
    "recurred": (2,),
}


async def record(client: Client, name: str) -> History:
    """Run one workflow to its end, with what is to happen to it on the way."""
    handle = await client.start(WORKFLOWS[name].options(id=f"{name}-1"), *ARGUMENTS[name])
    if name in {"cancelled_in_flight", "terminated"}:
        await scheduled(handle, "slow:1")
        await (handle.cancel("changed my mind") if name != "terminated" else handle.terminate("enough"))
    try:
        print(name, await handle.result(30))
    except WorkflowError as error:
        print(name, repr(error))
    assert await handle.status() is not InstanceStatus.STALLED
    generation = (await handle.describe()).generation
    return History(InstanceKey(name, handle.id), generation, tuple(await handle.history()))


async def scheduled(handle: WorkflowHandle[Any], id: str) -> None:
    """Wait until an activity is under way."""
    async with asyncio.timeout(30):
        while True:
            events = [event for commit in await handle.history() for event in commit.events]
            if any(isinstance(event, ActivityScheduled) and event.id == id for event in events):
                return
            await asyncio.sleep(0.02)


async def main(names: list[str]) -> None:
    """Record what is missing."""
    app = App("histories", workflows=list(WORKFLOWS.values()))
    async with app.run() as client:
        for name in names or sorted(WORKFLOWS):
            path = FOLDER / f"{name}.json"
            if not path.exists():
                path.write_text((await record(client, name)).to_json(), encoding="utf-8")


def _without_paths(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error))


if __name__ == "__main__":
    # Tracebacks name the files of whoever records; a history that is kept for ever should not.
    failure._traceback = _without_paths
    asyncio.run(main(sys.argv[1:]))
