"""The public API under any order of calls and misfortunes: Hypothesis finds it, the simulation's rules judge it."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections import Counter
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from romancy_nats import Client, InstanceConflictError, InstanceNotFoundError, InstanceStatus, WorkflowHandle
from romancy_nats.errors import ServerUnavailableError, WorkflowError, WorkflowStalledError
from romancy_nats.runtime.engine import Engine
from romancy_nats.testing.memory import Faults, MemoryServer, MemoryWorld
from romancy_nats.testing.virtual_time import VirtualTimeLoop, clear
from tests.simulation.case import CONFLICT, Told
from tests.simulation.checker import check
from tests.simulation.evidence import Evidence
from tests.simulation.kept import Kept
from tests.simulation.leftovers import Leftovers
from tests.simulation.program import changed, interpreter
from tests.simulation.record import Ledgerbook, Record
from tests.simulation.schedule import FAULTS, TUNING

T = TypeVar("T")
EXAMPLES = int(os.environ.get("ROMANCY_EXAMPLES", "250"))
STEPS = 30
VERSIONS = (interpreter, changed)
IDS = st.sampled_from(["a", "b", "c"])
PROGRAMS: tuple[list[Any], ...] = (
    [["act", "work", "1", "ok", 0.5], ["sleep", 20.0], ["act", "work", "2", "flaky1", 0.5]],
    [
        ["act", "work", "1", "ok", 0.0],
        ["par", [["act", "work", "2", "ok", 8.0], ["act", "plain", "3", "ok", 1.0]]],
        ["fail"],
    ],
)
LONGEST = 2_000.0
"""So long may everything take, once nothing goes wrong any more."""


class Machine(RuleBasedStateMachine):
    """What was asked of each instance is the model; `Told` is what came of it."""

    reached: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        logging.disable(logging.CRITICAL)
        gc.disable()
        self.loop = VirtualTimeLoop(0, keep_order=True)
        self.told: dict[str, Told] = {}
        self.handles: dict[str, WorkflowHandle[str]] = {}
        self.asked: dict[str, set[str]] = {}
        self.ended: dict[str, InstanceStatus] = {}
        self.workers: list[tuple[MemoryWorld, Engine]] = []
        self.version = 0
        self.lives = 0
        self.leftovers = Leftovers()

    @initialize(replicas=st.sampled_from([1, 3]), seed=st.integers(0, 1000))
    def begin(self, replicas: int, seed: int) -> None:
        self.faults = Faults(seed=seed, latency=0.01)
        self.run(self._begin(replicas, seed))
        self.start_worker()

    async def _begin(self, replicas: int, seed: int) -> None:
        self.server = MemoryServer(seed=seed, shards=2, replicas=replicas, ack_wait=TUNING.ack_wait)
        self.evidence = Evidence(self.server, Kept(self.server))
        self.evidence.watch()
        self.book = Ledgerbook(self.loop)
        network = Faults(
            seed=seed, latency=0.01, lost_ack=0.03, committed_error=0.03, no_responders=0.05, lost_notice=0.2
        )
        self.client_faults = network
        self.client = Client(self.server.world("client", faults=network))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Let time pass until this is done."""
        return self.loop.run_until_complete(work)

    # --- what users do

    @rule(id=IDS, program=st.sampled_from([0, 0, 0, 1]))
    def start(self, id: str, program: int) -> None:
        """Again, or with another program, too: the first one that was accepted is the instance."""
        told = self._contender(id, PROGRAMS[program])
        options = interpreter.options(id=id)
        try:
            handle = self.run(self.client.start(options, told.program))
        except InstanceConflictError:
            assert self._status(id) is not None, "a conflict with nothing"
            told.outcome = told.outcome or CONFLICT
            return
        told.acknowledged = True
        told.starts += self._published(id)
        self.handles.setdefault(f"{id}/{program}", handle)
        self.handles.setdefault(id, handle)

    def _contender(self, id: str, program: list[Any]) -> Told:
        first = self.told.setdefault(id, Told(id, program))
        if first.program == program:
            return first
        if first.rival is None:
            first.rival = Told(id, program)
        return first.rival

    def _published(self, id: str) -> int:
        """Whether that start became a message, or joined a record that was there."""
        count = sum(source.stream.endswith("START") for source in self.evidence.published)
        new, self.starts = count - getattr(self, "starts", 0), count
        return new

    @precondition(lambda self: self.handles)
    @rule(id=IDS, kind=st.sampled_from(["cancel", "terminate"]))
    def stop(self, id: str, kind: str) -> None:
        if id in self.handles:
            handle = self.handles[id]
            took = self.run(handle.cancel("stop") if kind == "cancel" else handle.terminate("stop"))
            if took:
                self.asked.setdefault(id, set()).add(kind)
            else:
                assert self._status(id) in self._over(), "refused, and it had not ended"

    @precondition(lambda self: self.handles)
    @rule(id=IDS)
    def retry(self, id: str) -> None:
        if id in self.handles and self.run(self.handles[id].retry()):
            self.asked.setdefault(id, set()).add("retry")

    @precondition(lambda self: self.handles)
    @rule(id=IDS, timeout=st.sampled_from([0.1, 30.0]))
    def result(self, id: str, timeout: float) -> None:
        """A result harms nothing, and once there is one it stays."""
        if id in self.handles:
            self.run(self._ask(id, timeout))

    async def _ask(self, id: str, timeout: float) -> None:
        before = self._status(id)
        try:
            await self.handles[id].result(timeout)
        except TimeoutError:
            assert before not in self._over() or self.handles[id]._target.own is not None
        except InstanceConflictError:
            assert self.told[id].rival is not None
        except WorkflowStalledError:
            pass
        except WorkflowError:
            assert self._status(id) in self._over()
        else:
            assert self._status(id) is InstanceStatus.COMPLETED

    @rule()
    def unknown_id(self) -> None:
        try:
            self.run(self.client.get("nobody", interpreter).status())
        except (InstanceNotFoundError, ServerUnavailableError):
            return
        raise AssertionError("an instance that nobody started")

    # --- what happens to workers

    @precondition(lambda self: len(self._alive()) < 3)
    @rule()
    def start_worker(self) -> None:
        self.lives += 1
        name = f"w{self.lives}"
        world = self.server.world(name, faults=self.faults)
        self.evidence.watch_process(world)
        self.run(self._start_worker(world, name))

    async def _start_worker(self, world: MemoryWorld, name: str) -> None:
        engine = Engine(world, [VERSIONS[self.version]], replace(TUNING, label=name))
        engine.workshop.state = Record(self.book, name)
        self.leftovers.follow(engine)
        world.spawn(world.ensure_consumers({interpreter.name: None}))
        world.spawn(engine.run())
        self.workers.append((world, engine))

    def _alive(self) -> list[tuple[MemoryWorld, Engine]]:
        return [
            (world, engine)
            for world, engine in self.workers
            if not world.crashed and not engine.host.draining
        ]

    @precondition(lambda self: self._alive())
    @rule(which=st.integers(0, 2))
    def kill_worker(self, which: int) -> None:
        alive = self._alive()
        alive[which % len(alive)][0].crash()

    @precondition(lambda self: self._alive())
    @rule(which=st.integers(0, 2))
    def drain_worker(self, which: int) -> None:
        alive = self._alive()
        world, engine = alive[which % len(alive)]
        world.spawn(engine.drain())
        self.advance(0.1)

    @precondition(lambda self: self._alive())
    @rule(which=st.integers(0, 2), seconds=st.sampled_from([3.0, 14.9, 40.0]))
    def pause_worker(self, which: int, seconds: float) -> None:
        alive = self._alive()
        alive[which % len(alive)][0].pause(seconds)

    @rule()
    def deploy(self) -> None:
        """Every worker is replaced by one with the other code: what the old code began stalls, and heals later."""
        self.version = 1 - self.version
        for world, engine in self._alive():
            world.spawn(engine.drain())
        self.start_worker()

    # --- what happens around them

    @rule(seconds=st.sampled_from([0.0, 0.3, 1.0, 5.0, 16.0, 100.0]))
    def advance(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @rule(seconds=st.sampled_from([1.0, 20.0]))
    def outage(self, seconds: float) -> None:
        self.server.outage(seconds)

    @rule(fault=st.sampled_from(sorted(set(FAULTS) - {"outage", "clock_jump", "crash", "pause"})))
    def trouble(self, fault: str) -> None:
        setattr(self.faults, fault, FAULTS[fault])

    @rule()
    def heal(self) -> None:
        for fault in FAULTS:
            setattr(self.faults, fault, 0.0)

    # --- what must hold

    def _over(self) -> list[InstanceStatus]:
        return [status for status in InstanceStatus if status.ended]

    def _status(self, id: str) -> InstanceStatus | None:
        """What the record says, read past the API."""
        from romancy_nats.core.ids import InstanceKey
        from romancy_nats.core.record import InstanceRecord

        key = InstanceKey(interpreter.name, id)
        stored = self.server.shards[key.shard(len(self.server.shards))].record(key.token)
        return InstanceRecord.decode(stored.data).status if stored is not None else None

    @invariant()
    def ended_for_good(self) -> None:
        for id in self.told:
            status = self._status(id)
            if id in self.ended:
                assert status is self.ended[id], f"{id} was {self.ended[id]} and is {status}"
            elif status is not None and status.ended:
                self.ended[id] = status

    def teardown(self) -> None:
        """Nothing goes wrong any more: each version gets its time, then everything has ended and every rule holds."""
        try:
            if hasattr(self, "server"):
                self._finish()
        finally:
            self.run(self._close())
            clear(self.loop)
            self.loop.close()
            gc.enable()
            logging.disable(logging.NOTSET)

    async def _close(self) -> None:
        for world, _ in self.workers:
            world.crash()
        self.leftovers.close()

    def _finish(self) -> None:
        self.heal()
        self.client_faults.heal()
        self.faults.latency = 0.0
        for _ in range(2):
            self.deploy()
            self.advance(LONGEST / 2)
        for told in self.told.values():
            for each in (told, told.rival):
                if each is not None and each.acknowledged:
                    self.run(self._conclude(each))
        self._as_asked()
        every = list(self.told.values())
        found = self.run(
            check(self.server, self.book, every, VERSIONS, self.evidence, self.faults, self.reached)
        )
        assert not found, "\n".join(found)

    async def _conclude(self, told: Told) -> None:
        handle = self.handles[f"{told.id}/{PROGRAMS.index(told.program)}"]
        try:
            told.result = await handle.result(100.0)
            told.outcome = "completed"
        except InstanceConflictError:
            told.outcome = CONFLICT
        except WorkflowError as error:
            told.outcome, told.error = type(error).__name__, str(error)

    def _as_asked(self) -> None:
        """The status that the model allows: nobody is cancelled or terminated who was not asked to be."""
        for id, told in self.told.items():
            runs = told if told.outcome != CONFLICT else told.rival
            assert runs is not None
            natural = InstanceStatus.FAILED if runs.program[-1] == ["fail"] else InstanceStatus.COMPLETED
            allowed = {natural}
            if "cancel" in self.asked.get(id, ()):
                allowed.add(InstanceStatus.CANCELLED)
            if "terminate" in self.asked.get(id, ()):
                allowed.add(InstanceStatus.TERMINATED)
            assert self._status(id) in allowed, f"{id} is {self._status(id)}, asked was {self.asked.get(id)}"


SETTINGS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    derandomize="ROMANCY_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
MUST_REACH = (
    "completed",
    "failed",
    "cancelled",
    "terminated",
    "stalled",
    "takeover",
    "conflict",
    "TerminateRequested",
)


def test_any_order_of_calls_and_misfortunes() -> None:
    Machine.reached.clear()
    run_state_machine_as_test(Machine, settings=SETTINGS)  # type: ignore[no-untyped-call]
    missing = [what for what in MUST_REACH if not Machine.reached[what]]
    assert not missing, f"no example came to this, so they prove little: {missing}"


def test_an_ended_instance_gets_no_second_ending_by_code_that_does_not_fit() -> None:
    """Found by the machine: terminated, its worker killed before it rested, taken over by a worker with other code."""
    machine = Machine()
    machine.begin(replicas=1, seed=1)
    for _ in range(3):
        machine.deploy()
    machine.start(id="a", program=0)
    machine.stop(id="a", kind="terminate")
    machine.kill_worker(which=0)
    machine.teardown()
    assert machine.reached["TerminateRequested"]
