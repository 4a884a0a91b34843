"""One run: some instances, some workers that die and come back, some faults; then everything heals and has to drain."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from random import Random
from typing import Any

from romancy_nats import Client, InstanceConflictError, InstanceStatus, WorkflowHandle
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.record import InstanceRecord
from romancy_nats.errors import RomancyError, WorkflowError, WorkflowStalledError
from romancy_nats.runtime.engine import Engine
from romancy_nats.runtime.tuning import Tuning
from romancy_nats.testing.memory import Faults, MemoryServer, MemoryWorld
from romancy_nats.testing.virtual_time import VirtualTimeLoop, clear
from tests.simulation.case import CONFLICT, Told
from tests.simulation.checker import check
from tests.simulation.evidence import Evidence, trace
from tests.simulation.kept import Kept
from tests.simulation.oddities import ODD_SHARE, odd
from tests.simulation.program import Program, interpreter, make, recurring
from tests.simulation.record import Ledgerbook, Record
from tests.simulation.slots import Slots
from tests.simulation.user import Speaker
from tests.simulation.waits import SHARE, Sending, waiting

TUNING = Tuning(
    lease_ttl=15.0,
    ack_wait=16.0,
    sweep_every=60.0,
    grace=5.0,
    forward_timeout=4.0,
    max_takeovers=1_000_000,
)
NEVER = 1e9
ARCHIVE_AFTER = (0.0, 1.0, 30.0, NEVER)
LONGEST = 14_400.0
RECURRING = 0.05
"""The part of all plans whose instances go through generations."""


@dataclass(slots=True)
class Plan:
    """What a seed stands for."""

    seed: int
    faults: Faults
    replicas: int
    workers: int
    programs: list[Program]
    cancels: list[float | None]
    rivals: list[float | None] = field(default_factory=list[float | None])
    sendings: list[list[Sending]] = field(default_factory=list[list[Sending]])
    purge_at: float | None = None
    archive_after: float = NEVER
    heal_after: float = 300.0
    """Then nothing goes wrong any more: a worker that dies every few seconds would else never end a long activity."""
    crash_at: int | None = None
    crash_slot: int = 0
    scheduled: bool = True


@dataclass(slots=True)
class Report:
    """How a run went."""

    seed: int
    violations: list[str]
    fired: Counter[str]
    instances: int
    attempts: int
    boundaries: list[int]
    """How many boundaries the first process of each slot passed."""
    told: list[Told] = field(default_factory=list[Told])
    reached: Counter[str] = field(default_factory=Counter[str])
    trace: str = ""
    """A digest of all that happened: the same for the same seed, whatever ran before and however sets are ordered."""


def plan(seed: int) -> Plan:
    """A random plan: each run leans on some of the faults, so that none hides behind the others."""
    dice = Random(seed)
    faults = Faults(seed=seed, latency=dice.choice([0.0, 0.01, 0.3]))
    for name, most in FAULTS.items():
        if dice.random() < 0.35:
            setattr(faults, name, most * dice.random())
    if dice.random() < 0.2:
        faults.slow = 0.02
    programs = [make(dice) for _ in range(1 + dice.randrange(3))]
    cancels = [dice.random() * 20 if dice.random() < 0.2 else None for _ in programs]
    plan = Plan(seed, faults, dice.choice([1, 3]), 1 + dice.randrange(3), programs, cancels)
    # Dice of their own: what came later leaves the programs of the older seeds as they were.
    more = Random(f"{seed}/more")
    plan.rivals = [more.random() if more.random() < 0.15 else None for _ in programs]
    plan.purge_at = more.random() * 30 if more.random() < 0.1 else None
    if more.random() < 0.25:
        _storm(faults, more)
        plan.heal_after = 120.0
    _wait(plan, Random(f"{seed}/waits"))
    recurs = Random(f"{seed}/recurs")
    if recurs.random() < RECURRING:
        plan.programs = [recurring(recurs, program) for program in plan.programs]
    _add_what_is_odd(plan, Random(f"{seed}/odd"))
    return plan


def _add_what_is_odd(plan: Plan, dice: Random) -> None:
    if dice.random() >= ODD_SHARE:
        return
    sendings = plan.sendings or [[] for _ in plan.programs]
    made = [odd(dice, f"i{number}", program) for number, program in enumerate(plan.programs)]
    plan.programs = [each.program for each in made]
    plan.sendings = [said + each.sendings for said, each in zip(sendings, made, strict=True)]


def _wait(plan: Plan, dice: Random) -> None:
    """Some plans wait for others, too; some are archived while they are still looked at."""
    if dice.random() >= SHARE:
        return
    plan.archive_after = dice.choice(ARCHIVE_AFTER)
    made = [waiting(dice, f"i{number}", program) for number, program in enumerate(plan.programs)]
    plan.programs = [each.program for each in made]
    plan.sendings = [each.sendings for each in made]


def leaning(seed: int, **faults: float) -> Plan:
    """The plan of a seed with some faults set: `replicas` and `purge_at` too."""
    found = plan(seed)
    for name, value in faults.items():
        setattr(found if hasattr(found, name) else found.faults, name, value)
    return found


def _storm(faults: Faults, dice: Random) -> None:
    """Some faults at once and often: only so do they meet in one and the same moment."""
    for name in dice.sample(sorted(FAULTS), 3):
        setattr(faults, name, FAULTS[name] * 4)
    faults.pause_for = 60.0


FAULTS = {
    "lost_ack": 0.05,
    "committed_error": 0.05,
    "late_write": 0.03,
    "lost_write": 0.05,
    "no_responders": 0.05,
    "outage": 0.003,
    "stale_read": 0.3,
    "lost_answer": 0.1,
    "duplicate": 0.1,
    "lost_notice": 0.2,
    "lost_ask": 0.2,
    "late_expiry": 0.3,
    "clock_jump": 0.01,
    "pause": 0.015,
    "crash": 0.03,
}


def _for_a_client(faults: Faults) -> Faults:
    """The same network, but a client neither crashes nor stops: it is who was told."""
    spared = replace(faults, crash=0.0, pause=0.0, outage=0.0, clock_jump=0.0)
    spared.fired = faults.fired
    return spared


@dataclass(slots=True)
class Finished:
    """A run that is over and not yet checked."""

    server: MemoryServer
    book: Ledgerbook
    evidence: Evidence
    told: list[Told]


def run(plan: Plan, plant: Callable[[Finished], None] | None = None) -> Report:
    """Carry out a plan in virtual time and check it; `plant` may spoil what the checker gets to see."""
    loop = VirtualTimeLoop(plan.seed if plan.scheduled else None, keep_order=True)
    # Finalizers run when the collector says so, which depends on what ran before in this process.
    collecting = gc.isenabled()
    gc.disable()
    with warnings.catch_warnings():
        # A workflow that is closed in its `finally` has made coroutines there that nobody runs any more.
        warnings.filterwarnings("ignore", "coroutine .* was never awaited")
        try:
            return loop.run_until_complete(_whole(loop, plan, plant))
        finally:
            clear(loop)
            loop.close()
            if collecting:
                gc.enable()


async def _whole(loop: VirtualTimeLoop, plan: Plan, plant: Callable[[Finished], None] | None) -> Report:
    it = _Run(loop, plan, plant)
    try:
        return await it.whole()
    finally:
        it.slots.close()


def _where(task: asyncio.Task[None]) -> list[str]:
    """What a task waits for, innermost last."""
    places: list[str] = []
    awaited: object = task.get_coro()
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None)
        if frame is not None:
            places.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
        awaited = getattr(awaited, "cr_await", None)
    return places


class _Run:
    def __init__(self, loop: VirtualTimeLoop, plan: Plan, plant: Callable[[Finished], None] | None) -> None:
        self.plan = plan
        self.plant = plant
        self.server = MemoryServer(seed=plan.seed, shards=2, replicas=plan.replicas, ack_wait=TUNING.ack_wait)
        self.evidence = Evidence(self.server, Kept(self.server))
        self.evidence.watch()
        self.book = Ledgerbook(loop)
        self.dice = Random(f"{plan.seed}/run")
        self.broken: list[str] = []
        self.slots = Slots(
            self.server, plan.faults, self.dice, self._build, self.broken, plan.crash_at, plan.crash_slot
        )
        loop.set_exception_handler(self._callback_raised)
        self.begins = {f"i{number}": self.dice.random() * 5 for number in range(len(plan.programs))}
        self.tasks: list[asyncio.Task[None]] = []

    async def whole(self) -> Report:
        plan = self.plan
        self.tasks = [asyncio.create_task(self.slots.run(number)) for number in range(plan.workers)]
        told = [Told(f"i{number}", program) for number, program in enumerate(plan.programs)]
        users = [
            asyncio.create_task(self._user(each, cancel, sendings))
            for each, cancel, sendings in zip_longest(told, plan.cancels, plan.sendings, fillvalue=None)
            if each is not None
        ]
        for each, after in zip(told, plan.rivals, strict=False):
            if after is not None:
                each.rival = Told(each.id, [["act", "plain", "rival", "ok", 0.1]])
                users.append(asyncio.create_task(self._rival(each.rival, after)))
        if plan.purge_at is not None:
            self.server.after(plan.purge_at, self._purge)
        await asyncio.wait(users, timeout=plan.heal_after)
        plan.faults.heal()
        _, late = await asyncio.wait(users, timeout=LONGEST)
        for task in users:
            if task in late:
                self.broken.append(f"a user still waits: {_where(task)}")
                task.cancel()
            elif (error := task.exception()) is not None:
                self.broken.append(f"a user met {error!r}")
        await self._drained()
        await self._read_again(told)
        first = {world.name: world.boundaries for world in self.slots.worlds}
        boundaries = [first.get(f"w{slot}.1", 0) for slot in range(plan.workers)]
        self.slots.over = True
        if self.plant is not None:
            self.plant(Finished(self.server, self.book, self.evidence, told))
        reached: Counter[str] = Counter()
        archived = plan.archive_after != NEVER
        found = await check(
            self.server, self.book, told, [interpreter], self.evidence, plan.faults, reached, archived
        )
        violations = self.broken + found
        attempts = len(self.book.attempts)
        digest = trace(self.server, self.book, self.evidence)
        return Report(
            plan.seed, violations, plan.faults.fired, len(told), attempts, boundaries, told, reached, digest
        )

    def _callback_raised(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Nobody waits for a callback: without this its error would look like an answer that never came."""
        if "handle" in context:
            self.broken.append(f"a callback raised {context.get('exception')!r}")
        else:
            loop.default_exception_handler(context)

    async def _user(self, told: Told, cancel: float | None, sendings: list[Sending] | None) -> None:
        """Start one instance twice over, perhaps cancel it, and wait for what becomes of it."""
        world = self.server.world(f"client-{told.id}", faults=_for_a_client(self.plan.faults))
        client = Client(world)
        if sendings:
            self.evidence.kept.look_at(InstanceKey(interpreter.name, told.id))
        await asyncio.sleep(self.begins[told.id])
        again = self.dice.random() < 0.3
        handle = await self._start(client, told)
        if handle is None:
            return
        waiting = [self._wait(handle, told)]
        if again and told.rival is None:
            waiting.append(self._again(client, told))
        if cancel is not None:
            waiting.append(self._cancel(handle, told, cancel))
        speaker = Speaker(client, handle, told, self.evidence.kept)
        waiting += [speaker.say(sending) for sending in sendings or ()]
        await asyncio.gather(*waiting)

    async def _start(self, client: Client, told: Told) -> WorkflowHandle[str] | None:
        try:
            handle = await client.start(interpreter.options(id=told.id), told.program)
        except InstanceConflictError:
            told.outcome = CONFLICT
            return None
        told.acknowledged = True
        told.starts += 1
        return handle

    async def _rival(self, told: Told, after: float) -> None:
        """Start the same id with another program at about the same time: one of the two is a conflict."""
        world = self.server.world(f"rival-{told.id}", faults=_for_a_client(self.plan.faults))
        await asyncio.sleep(self.begins[told.id] + after - 0.5)
        self.plan.faults.fired["rival"] += 1
        handle = await self._start(Client(world), told)
        if handle is not None:
            await self._wait(handle, told)

    def _purge(self) -> None:
        self.plan.faults.fired["purged"] += self.evidence.purge()

    async def _wait(self, handle: WorkflowHandle[str], told: Told) -> None:
        while True:
            try:
                told.result = await handle.result()
                told.outcome = "completed"
            except InstanceConflictError:
                told.outcome = CONFLICT
            except WorkflowStalledError as error:
                if ["stall"] in told.program:
                    # Until somebody cancels it.
                    await asyncio.sleep(1)
                    continue
                told.outcome, told.error = type(error).__name__, str(error)
            except WorkflowError as error:
                told.outcome = type(error).__name__
                told.error = str(error)
            except RomancyError:
                await asyncio.sleep(1)
                continue
            self.evidence.kept.ring(InstanceKey(interpreter.name, told.id))
            return

    async def _again(self, client: Client, told: Told) -> None:
        await asyncio.sleep(self.dice.random() * 30)
        handle = await client.start(interpreter.options(id=told.id), told.program)
        while await handle.status() is InstanceStatus.QUEUED:
            # Two starts that differ and have no record yet: either may win, and that is no conflict of ours.
            await asyncio.sleep(1)
        try:
            await client.start(interpreter.options(id=told.id), [["sleep", 1.25]])
        except InstanceConflictError:
            told.conflicts += 1

    async def _cancel(self, handle: WorkflowHandle[str], told: Told, after: float) -> None:
        await asyncio.sleep(after)
        while True:
            try:
                told.cancelled = await handle.cancel("the user said so")
                return
            except RomancyError:
                await asyncio.sleep(1)

    def _build(self, world: MemoryWorld, name: str) -> Engine:
        """A worker that is watched."""
        self.evidence.watch_process(world)
        engine = Engine(
            world, [interpreter], replace(TUNING, label=name, archive_after=self.plan.archive_after)
        )
        engine.workshop.state = Record(self.book, name)
        self.evidence.kept.follow(engine, name)
        return engine

    async def _drained(self) -> None:
        """Give the last acks, expiries and sweeps the time that they may take."""
        server = self.server
        streams = (server.start_stream, server.messages_stream, server.timers_stream, server.events.stream)
        for _ in range(80):
            if not any(stream.messages for stream in streams) and self._archived() and self._cleared():
                return
            await asyncio.sleep(10)

    def _cleared(self) -> bool:
        """Whether nothing is left of generations that are over, or whoever was to clear it is gone for good."""
        kept = {(place.token, place.generation) for shard in self.server.shards for place in shard.commits}
        return len(kept) == len({token for token, _ in kept})

    def _archived(self) -> bool:
        """Whether all has left the ledger that has to."""
        if self.plan.archive_after == NEVER:
            return True
        versions = [versions[-1] for shard in self.server.shards for versions in shard.records.values()]
        return all(InstanceRecord.decode(last.data).sealed for last in versions)

    async def _read_again(self, told: list[Told]) -> None:
        """What a client sees that comes when all is over."""
        client = Client(self.server.world("late", faults=Faults(seed=self.plan.seed)))
        for each in told if self.plan.archive_after != NEVER else ():
            if not each.acknowledged:
                continue
            handle = client.get(each.id, interpreter)
            try:
                each.reread = [commit.encode() for commit in await handle.history()]
            except RomancyError as error:
                self.broken.append(f"{each.id}: its history cannot be read any more: {error!r}")
            await self._told_again(handle, each)

    async def _told_again(self, handle: WorkflowHandle[str], told: Told) -> None:
        rival = told.rival.outcome if told.rival is not None else ""
        try:
            await handle.result(timeout=LONGEST)
            outcome = "completed"
        except (WorkflowError, TimeoutError) as error:
            outcome = type(error).__name__
        if outcome not in (told.outcome, rival):
            self.broken.append(f"{told.id}: told {told.outcome!r} first and {outcome!r} when all was over")
