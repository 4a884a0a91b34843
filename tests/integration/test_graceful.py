"""The life of a worker: drained by SIGTERM, blocked, killed again and again, its server gone for a while."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import anyio
import pytest

from romancy_nats import WorkflowContext, activity, activity_context, workflow
from romancy_nats.jetstream import stored
from romancy_nats.jetstream.connection import Connection
from romancy_nats.jetstream.server import EmbeddedServer
from tests.integration import lives
from tests.integration.lives import Line, blocking, chain, deadly, faltering
from tests.integration.place import Place, until, until_status

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).resolve().parents[2]


class Crew:
    """Worker processes of one namespace, and what their activities did."""

    def __init__(self, place: Place, directory: Path) -> None:
        self.place = place
        self.path = directory / "record"
        self.log = directory / "workers.log"
        self.processes: list[subprocess.Popen[str]] = []

    async def start(self, **settings: object) -> subprocess.Popen[str]:
        """A worker, ready to work."""
        chosen = {"NATS_URL": self.place.url, "NAMESPACE": self.place.namespace, "SHARDS": 2, **settings}
        environment = {**os.environ, lives.RECORD: str(self.path)}
        environment |= {f"ROMANCY_{name.upper()}": str(value) for name, value in chosen.items()}
        with self.log.open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.lives"],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.processes.append(process)
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "ready\n", self.log.read_text()
        return process

    def lines(self, what: str, pid: int | None = None) -> list[Line]:
        return [one for one in lives.read(self.path) if one.what == what and pid in (None, one.pid)]

    def ends(self) -> Counter[str]:
        return Counter(one.id.partition("/")[2] for one in self.lines("end"))

    def told(self) -> str:
        return self.log.read_text()

    def bury(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def crew(place: Place, tmp_path: Path) -> Iterator[Crew]:
    crew = Crew(place, tmp_path)
    try:
        yield crew
    finally:
        crew.bury()


async def ended(process: subprocess.Popen[str], within: float = 10.0) -> float:
    """When it ended (wall clock)."""
    assert await asyncio.to_thread(process.wait, within) == 0
    return time.time()


# --- SIGTERM


async def test_sigterm_lets_go_within_the_grace_and_others_go_on_at_once(crew: Crew) -> None:
    async with crew.place.client() as client:
        first = await crew.start(grace=0.5)
        handle = await client.start(chain, [0.0, 0.0, 8.0, 0.0])
        await until(lambda: len(crew.lines("begin")) == 3)
        second = await crew.start(grace=0.5)
        first.send_signal(signal.SIGTERM)
        at = await ended(first)
        await until(lambda: len(crew.lines("begin", second.pid)) == 1)
        assert crew.lines("begin", second.pid)[0].at - at < 1.0, "far below the lease of 15 s"
        assert await handle.result(15) == [first.pid, first.pid, second.pid, second.pid]
    assert crew.ends() == {"step:1": 1, "step:2": 1, "step:3": 1, "step:4": 1}


async def test_a_turn_that_ends_within_the_grace_ends_where_it_began(crew: Crew) -> None:
    async with crew.place.client() as client:
        first = await crew.start(grace=40)
        await crew.start(grace=40)
        handle = await client.start(chain, [0.4])
        await until(lambda: len(crew.lines("begin")) == 1)
        owner = crew.lines("begin")[0].pid
        (process,) = [one for one in crew.processes if one.pid == owner]
        process.send_signal(signal.SIGTERM)
        began = time.time()
        assert await ended(process, 30) - began < 20, "it waits for what runs, not for the grace"
        assert await handle.result(5) == [owner]
    assert first in crew.processes
    assert crew.ends() == {"step:1": 1}


async def test_starts_that_come_while_one_worker_drains_run_on_the_other(crew: Crew) -> None:
    async with crew.place.client() as client:
        first = await crew.start(grace=20)
        held = await client.start(chain, [5.0])
        await until(lambda: len(crew.lines("begin")) == 1)
        second = await crew.start(grace=20)
        first.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.2)  # it drains, and ends only when the activity does
        handles = [await client.start(chain, [0.0]) for _ in range(40)]
        assert {(await one.result(10))[0] for one in handles} == {second.pid}
        assert first.poll() is None, "it was still draining"
        assert await held.result(10) == [first.pid]


@workflow
async def sleeper(ctx: WorkflowContext) -> str:
    await asyncio.sleep(3600)
    return "woken"


async def test_an_instance_that_only_waits_does_not_hold_up_the_drain(place: Place) -> None:
    async with place.client() as client, place.worker(sleeper, settings=place.settings(grace=30.0)) as worker:
        handle = await client.start(sleeper)
        await until(lambda: worker.instances == 1)
        async with asyncio.timeout(15):
            await worker.drain()
        assert await handle.status() == "waiting_for_timer"


async def test_a_cancel_reaches_an_instance_of_a_draining_worker(place: Place) -> None:
    @activity
    async def endless() -> None:
        await asyncio.sleep(600)

    @workflow
    async def waiting(ctx: WorkflowContext) -> None:
        await ctx.run(endless)

    patient = place.settings(grace=20.0, lease_ttl=15.0)
    async with place.client() as client, place.worker(waiting, settings=patient) as first:
        handle = await client.start(waiting)
        await until(lambda: first.instances == 1)
        async with place.worker(waiting, settings=patient):
            async with asyncio.TaskGroup() as group:
                drained = group.create_task(first.drain())
                await asyncio.sleep(0.1)
                await handle.cancel()
                await until_status(handle, "cancelled")
                assert not drained.cancelled()


async def test_everybody_who_drains_waits_for_its_end(place: Place) -> None:
    @activity
    async def short() -> None:
        await asyncio.sleep(0.5)

    @workflow
    async def brief(ctx: WorkflowContext) -> None:
        await ctx.run(short)

    async with place.client() as client, place.worker(brief, settings=place.settings(grace=10.0)) as worker:
        handle = await client.start(brief)
        await until(lambda: worker.instances == 1)
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.drain())
            await asyncio.sleep(0)
            await worker.drain()
            assert worker.instances == 0
            assert await handle.status() == "completed"


# --- the server goes and comes back


@pytest.fixture
async def mortal(tmp_path: Path) -> AsyncGenerator[EmbeddedServer]:
    async with EmbeddedServer(store=tmp_path / "store") as server:
        yield server


done: Counter[int] = Counter()


@activity
async def count(n: int) -> int:
    await asyncio.sleep(0.02)
    done[n] += 1
    return n


@workflow
async def counting(ctx: WorkflowContext, most: int) -> list[int]:
    return [await ctx.run(count, n) for n in range(most)]


async def test_a_restart_of_the_server_loses_and_repeats_nothing(mortal: EmbeddedServer) -> None:
    done.clear()
    place = Place(mortal.url)
    async with place.client() as client, place.worker(counting, settings=place.settings(lease_ttl=15.0)):
        handle = await client.start(counting, 30)
        await until(lambda: done[8] == 1)
        mortal.kill()
        await asyncio.sleep(0.3)
        await mortal.restart()
        assert await handle.result(20) == list(range(30))
        assert await client.execute(counting, 1) == [0]
    assert done.pop(0) == 2
    assert set(done.values()) == {1}


async def test_an_outage_longer_than_the_lease_repeats_nothing_recorded(mortal: EmbeddedServer) -> None:
    done.clear()
    place = Place(mortal.url)
    async with (
        place.client() as client,
        place.worker(counting, settings=place.settings(lease_ttl=1.0)),
    ):
        handle = await client.start(counting, 30)
        await until(lambda: done[8] == 1)
        mortal.kill()
        await asyncio.sleep(2.5)
        await mortal.restart()
        assert await handle.result(20) == list(range(30))
    repeated = [n for n, times in done.items() if times > 1]
    assert len(repeated) <= 1, "at most the one whose result the server never got"


async def test_sigterm_ends_a_worker_whose_server_is_gone(tmp_path: Path) -> None:
    async with EmbeddedServer(store=tmp_path / "store") as server:
        crew = Crew(Place(server.url), tmp_path)
        try:
            async with crew.place.client() as client:
                process = await crew.start(grace=0.5, lease_ttl=2)
                handle = await client.start(chain, [0.0, 60.0])
                await until(lambda: len(crew.lines("begin")) == 2)
                server.kill()
                process.send_signal(signal.SIGTERM)
                await ended(process, 25)
                await server.restart()
                await crew.start()
                await until(lambda: len(crew.lines("begin")) == 3)
                assert await handle.terminate()
        finally:
            crew.bury()


# --- a blocked loop


@activity
async def stubborn(seconds: float) -> None:
    time.sleep(seconds)


@workflow
async def thick(ctx: WorkflowContext, inside: float, outside: float) -> None:
    time.sleep(inside)
    await ctx.run(stubborn, outside)


@pytest.mark.parametrize(("inside", "outside", "culprit"), [(0.0, 0.6, "stubborn"), (0.6, 0.0, "thick")])
async def test_whatever_blocks_the_loop_is_named(
    place: Place, caplog: pytest.LogCaptureFixture, inside: float, outside: float, culprit: str
) -> None:
    async with place.run(thick, settings=place.settings(block_warning=0.2)) as client:
        await client.execute(thick, inside, outside)
    (told,) = [line for line in caplog.messages if "the event loop is blocked" in line]
    assert f"by {culprit} (" in told
    assert "test_graceful.py" in told


async def test_a_loop_blocked_past_the_lease_loses_its_instances_cleanly(crew: Crew, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    async with crew.place.client() as client:
        # On a busy machine the other worker may come late for a while, too.
        first = await crew.start(lease_ttl=2)
        handle = await client.start(blocking, 6.0, str(flag))
        await until(lambda: not flag.exists())
        second = await crew.start(lease_ttl=2)
        assert await handle.result(20) == [first.pid, second.pid, second.pid]
        # The zombie comes to, and its result counts for nothing.
        await until(lambda: len(crew.lines("end", first.pid)) == 2, 20)
        await until(lambda: "is lost" in crew.told())
        recorded = await handle.result()
        owners = [commit.incarnation for commit in await handle.history()]
        assert recorded == [first.pid, second.pid, second.pid]
        assert len(set(owners)) == 2
        assert owners == sorted(owners, key=owners.index), "one owner after the other"
        second.send_signal(signal.SIGTERM)
        await ended(second, 20)
        assert await client.execute(chain, [0.0]) == [first.pid], "under a new incarnation it works on"


# --- an instance that kills its workers


async def test_an_instance_that_kills_its_workers_is_parked_and_may_be_retried(
    crew: Crew, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    options = {"lease_ttl": 1, "max_takeovers": 2, "sweep_every": 0.5}
    async with crew.place.client() as client:
        handle = await client.start(deadly, str(flag))
        deaths = 0
        while await handle.status() != "stalled":
            worker = await crew.start(**options)
            while worker.poll() is None and await handle.status() != "stalled":
                await asyncio.sleep(0.05)
            deaths += worker.poll() is not None
        assert deaths == 3, "its first owner, and as many takeovers as are allowed"
        assert "seems to kill its workers" in str((await handle.describe()).error)
        assert await client.execute(chain, [0.0]) == [worker.pid], "the others are not disturbed"
        await until_empty(crew.place)
        flag.unlink()
        assert await handle.retry()
        assert (await handle.result(5))[1] == worker.pid
    assert crew.ends() == {"step:1": 2, "die:1": 1}


async def until_empty(place: Place) -> None:
    """Wait until every start is acknowledged."""
    async with Connection.open(place.url) as connection:
        request = {"batch": 10, "seq": 1, "next_by_subj": f"{place.namespace}.start.*"}
        async with asyncio.timeout(5):
            while await stored.several(connection, f"{place.namespace.upper()}_START", request):
                await asyncio.sleep(0.02)


# --- a worker that fails


attempts: list[int] = []


@activity
async def lasting() -> int:
    attempts.append(activity_context().attempt)
    await asyncio.sleep(0.4)
    return len(attempts)


@workflow
async def lasts(ctx: WorkflowContext) -> int:
    return await ctx.run(lasting)


async def test_what_runs_when_the_program_around_a_worker_fails_has_not_failed(place: Place) -> None:
    attempts.clear()
    async with place.client() as client:
        handle = await client.start(lasts)
        with pytest.raises(RuntimeError, match="the program broke"):
            async with place.worker(lasts):
                await until(lambda: attempts == [1])
                raise RuntimeError("the program broke")
        async with place.worker(lasts):
            assert await handle.result(5) == 2
        assert attempts == [1, 1], "the first attempt was interrupted, which counts for nothing"


async def test_a_cancelled_block_lets_go_of_its_instances(place: Place) -> None:
    async with place.client() as client:
        handle = await client.start(sleeper)
        with anyio.move_on_after(30) as scope:
            async with place.worker(sleeper) as worker:
                await until(lambda: worker.instances == 1)
                scope.cancel()
                await asyncio.sleep(60)
        info = await handle.describe()
        # At rest as it would be anyway if its timer was recorded by then, else for others to take up.
        assert (info.owner, info.status in ("queued", "waiting_for_timer")) == (None, True)


@pytest.mark.slow
async def test_a_back_off_and_its_count_survive_the_kill_of_the_worker(crew: Crew) -> None:
    async with crew.place.client() as client:
        first = await crew.start(lease_ttl=1)
        handle = await client.start(faltering)
        await until(lambda: len(crew.lines("begin")) == 1)
        await until_status(handle, "waiting_for_timer")
        first.kill()
        second = await crew.start(lease_ttl=1)
        assert await handle.result(20) == 2
    failed, done = crew.lines("begin")
    assert (failed.pid, done.pid) == (first.pid, second.pid)
    assert done.at - failed.at >= 6.0
