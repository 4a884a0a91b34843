"""The demo: orders stream in, two workers serve them, one is killed half-way, and the end is checked. Drives only."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from attempt import attempts
from check import Verdict, check
from crew import Crew, Hand
from entry import Entry
from main import Order, order_workflow
from publish import at_work, publish, read_orders
from record import Record
from screen import Screen
from story import COMPENSATED_BY, Story, activities, ending

from romancy_nats import Client, Settings, WorkflowError
from romancy_nats.jetstream.server import EmbeddedServer

DEADLINE = 60.0
POLL = 0.02


class Demo:
    """The actors and their cues."""

    def __init__(
        self, screen: Screen, client: Client, crew: Crew, record: Record, texts: Sequence[str]
    ) -> None:
        self._screen = screen
        self._client = client
        self._crew = crew
        self._record = record
        self._texts = texts
        self.story = Story([Order.model_validate_json(text) for text in texts])

    async def run(self, url: str) -> Story:
        """From the first order to the last ending."""
        story = self.story
        for name in ("worker-a", "worker-b"):
            hand = await self._crew.hire(name)
            story.names[hand.pid] = name
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
            watch = group.create_task(self._watch())
            await at_work(url, len(story.names))
            self._screen.hired(story.names)
            placing = group.create_task(publish(self._client, url, self._texts))
            group.create_task(self._change_of_mind())
            await self._murder()
            await placing
            await self._all_ended()
            watch.cancel()
        self._screen.ended(len(story.orders))
        story.entries = self._record.entries()
        async for info in self._client.list(workflow=order_workflow):
            story.histories[info.id] = await self._client.get(info.id, order_workflow).history()
        return story

    async def _watch(self) -> None:
        """A demo without workers would wait for ever."""
        while not (lost := self._crew.lost()):
            await asyncio.sleep(0.2)
        raise WorkerLostError(f"{lost[0].name} ended by itself with {lost[0].process.returncode}")

    async def _until(self, there: Callable[[list[Entry]], bool]) -> list[Entry]:
        while not there(entries := await asyncio.to_thread(self._record.entries)):
            await asyncio.sleep(POLL)
        return entries

    async def _change_of_mind(self) -> None:
        """A customer cancels while the pallet is being loaded."""
        (order,) = (order for order in self.story.orders if ending(order) == "cancelled")
        await self._until(lambda entries: _has(entries, order.id, "ship", "begin"))
        asked = time.time_ns() // 1000
        await self._client.get(order.id, order_workflow).cancel("the customer found it cheaper")
        # Another worker may be the one that hears it, and then the shipment was interrupted by the kill.
        entries = await self._until(lambda entries: any(_hears(entry, order.id) for entry in entries))
        heard = next(entry.wall for entry in entries if _hears(entry, order.id))
        self._screen.cancelled(order.id, (heard - asked) / 1e6)

    async def _murder(self) -> None:
        """Half-way, the busier worker dies in the middle of its work."""
        half = sum(map(activities, self.story.orders)) // 2
        entries = await self._until(lambda entries: sum(e.kind == "end" for e in entries) >= half)
        victim = self._busier(entries)
        await self._crew.kill(victim)
        self.story.deaths[victim.pid] = time.time_ns() // 1000
        self._screen.killed(victim.name, victim.pid, self._record.entries())

    def _busier(self, entries: Sequence[Entry]) -> Hand:
        busy = Counter(
            attempt.begun.pid
            for found in attempts(entries).values()
            for attempt in found
            if attempt.outcome is None
        )
        return max(self._crew.hands, key=lambda hand: busy[hand.pid])

    async def _all_ended(self) -> None:
        handles = [self._client.get(order.id, order_workflow) for order in self.story.orders]
        for handle in handles:
            # How each ended is for the check to say.
            with suppress(WorkflowError):
                await handle.result()

    def logs(self) -> str:
        """The end of what each worker said."""
        return "\n".join(f"--- {hand.name}\n{_tail(hand.log)}" for hand in self._crew.hands)


class WorkerLostError(Exception):
    """A worker ended by itself."""


def _has(entries: Sequence[Entry], order: str, activity: str, kind: str) -> bool:
    return any((e.order, e.activity, e.kind) == (order, activity, kind) for e in entries)


def _hears(entry: Entry, order: str) -> bool:
    interrupted = entry.kind == "interrupted" or entry.activity in COMPENSATED_BY.values()
    return entry.order == order and interrupted


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])


def judge(story: Story) -> Verdict:
    """Hold the histories against the record."""
    return check(
        story.expected,
        story.histories,
        story.entries,
        deaths=story.deaths,
        compensated_by=COMPENSATED_BY,
    )


@asynccontextmanager
async def stage(screen: Screen) -> AsyncGenerator[tuple[Demo, str]]:
    """Server, client, record and crew; all of it gone at the end."""
    with tempfile.TemporaryDirectory(prefix="romancy-orders-") as made:
        folder = Path(made)
        settings = Settings()
        async with EmbeddedServer(store=folder / "store", sync_always=settings.sync_always) as server:
            screen.serving(server.url, settings.lease_ttl)
            environment = {
                "ROMANCY_NATS_URL": server.url,
                "ROMANCY_LEASE_TTL": str(settings.lease_ttl),
                "ORDERS_RECORD": str(folder / "record.sqlite3"),
            }
            record = Record(folder / "record.sqlite3")
            try:
                async with (
                    Client.connect(server.url, settings=settings) as client,
                    Crew(folder, environment) as crew,
                ):
                    yield Demo(screen, client, crew, record, read_orders()), server.url
            finally:
                record.close()


async def perform() -> int:
    """The whole evening; the exit code."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    screen = Screen()
    began = time.monotonic()
    story = None
    async with stage(screen) as (demo, url):
        try:
            story = await demo.run(url)
        except* (WorkerLostError, TimeoutError) as errors:
            screen.failed(f"{errors.exceptions[0] or 'not all orders ended in time'}\n{demo.logs()}")
    if story is None:
        return 1
    verdict = judge(story)
    screen.told(story, verdict)
    return screen.judged(story, verdict, time.monotonic() - began)


def plain_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Without settings meant for other programs, and with a lease so short that nobody has to wait long."""
    kept = {name: value for name, value in environment.items() if not name.startswith("ROMANCY_")}
    return {**kept, "ROMANCY_LEASE_TTL": environment.get("ROMANCY_LEASE_TTL", "3")}


def main() -> int:
    """Run the demo; 0 when every order ended exactly once."""
    kept = plain_environment(os.environ)
    os.environ.clear()
    os.environ.update(kept)
    try:
        return asyncio.run(perform())
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("interrupted; workers and server are stopped")
        return 130
