"""One process on its way to the server: latency, lost answers, boundaries at which it dies. Knows no port."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from romancy_nats.errors import ServerUnavailableError
from romancy_nats.ports import WriteReply
from romancy_nats.testing.memory.faults import Dice, Fate, Faults
from romancy_nats.testing.virtual_time import PROCESS, VirtualTimeLoop

if TYPE_CHECKING:
    from romancy_nats.testing.memory.store import MemoryServer

T = TypeVar("T")

Answer = Callable[[WriteReply], None]
Effect = Callable[[Answer], None]
"""What a write does once it has arrived; it answers now or, replicated, a little later."""


class Subscription(Protocol):
    """Something the server forgets when the process dies."""

    def close(self) -> None: ...


def unheard(reply: WriteReply) -> None:
    """The answer that nobody gets."""


class Process:
    """Every call passes `send` or `ask`, and so two boundaries: before its effect and after it."""

    def __init__(self, server: MemoryServer, name: str, faults: Faults) -> None:
        self.server = server
        self.name = name
        self.faults = faults
        self.dice = Dice(faults, name)
        self.loop = server.loop
        self.dead = False
        self.boundaries = 0
        self.crash_at = 0
        self.on_crash: Callable[[], None] | None = None
        self.subscriptions: dict[Subscription, None] = {}
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.context = Context()
        self.context.run(PROCESS.set, self)

    # --- life and death

    def crash(self) -> None:
        """kill -9: what was sent before may still land, nothing else ever happens."""
        if self.dead:
            return
        self.dead = True
        for subscription in list(self.subscriptions):
            subscription.close()
        self.subscriptions.clear()
        # A stopped process that is killed does not stay stopped: its tasks have to be cancelled.
        self._thaw()
        self.server.after(0, self._bury)

    def _bury(self) -> None:
        for task in list(self.tasks):
            task.cancel()
        if self.on_crash is not None:
            self.on_crash()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run it as part of this process, and let it die with it."""
        task = self.loop.create_task(work, context=self.context.copy())
        self.tasks[task] = None
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.pop(task, None)

    def pause(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        if isinstance(self.loop, VirtualTimeLoop) and not self.dead:
            self.loop.freeze(self)
            self.server.after(seconds, self._thaw)

    def _thaw(self) -> None:
        if isinstance(self.loop, VirtualTimeLoop):
            self.loop.thaw(self)

    def alive_here(self) -> bool:
        """A boundary: counted, and perhaps the last."""
        if self.dead:
            return False
        self.boundaries += 1
        if self.boundaries == self.crash_at:
            self.faults.fired["crash_after"] += 1
            self.crash()
        elif self.faults.crash and self.dice.hit("crash"):
            self.crash()
        elif self.faults.pause and self.dice.hit("pause"):
            self.pause(self.dice.upto(self.faults.pause_for))
        return not self.dead

    async def boundary(self) -> None:
        """The same for a coroutine: a dead process never comes back from it."""
        if not self.alive_here():
            await self.silence()

    async def silence(self) -> None:
        """Never ends, except by cancellation; the clean-up of a task that is being cancelled ends at once."""
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
        await self.loop.create_future()

    # --- to the server and back

    def here(self, delay: float, call: Callable[..., None], *args: Any) -> None:
        """Run something in this process, later."""
        if delay > 0:
            self.loop.call_later(delay, call, *args, context=self.context)
        else:
            self.loop.call_soon(call, *args, context=self.context)

    def send(self, effect: Effect, done: Answer) -> None:
        """A write, answered by callback."""
        if not self.alive_here():
            return
        self.perhaps_outage()
        server, faults = self.server, self.faults
        way = self.dice.delay()
        fate = self.dice.fate()
        if fate is Fate.ANSWERED:
            server.after(way, self._land, effect, partial(self._answer, done))
        elif fate is Fate.COMMITTED_ERROR:
            server.after(way, self._land, effect, partial(self._answer_vaguely, done))
        elif fate is Fate.NO_RESPONDERS:
            self.here(way, self._deliver, done, None)
        else:
            self.here(faults.timeout, self._deliver, done, None)
            if fate is Fate.LOST_ACK:
                server.after(way, self._land, effect, unheard)
            elif fate is Fate.LATE:
                server.after(faults.timeout + self.dice.upto(faults.late_by), self._land_late, effect)

    def _land(self, effect: Effect, answer: Answer) -> None:
        if self.server.down:
            self.faults.fired["sent_into_outage"] += 1
            self.server.after(self.faults.timeout, answer, None)
        else:
            effect(answer)

    def _land_late(self, effect: Effect) -> None:
        # A client that buffers sends it again and again until the server is back.
        if self.server.down:
            self.server.after(self.server.down_for() + 0.1, self._land_late, effect)
        else:
            self.faults.fired["late_write_landed"] += 1
            effect(unheard)

    def _answer(self, done: Answer, reply: WriteReply) -> None:
        self.here(self.dice.delay(), self._deliver, done, reply)

    def _answer_vaguely(self, done: Answer, _: WriteReply) -> None:
        self._answer(done, None)

    def _deliver(self, done: Answer, reply: WriteReply) -> None:
        if self.alive_here():
            done(reply)

    async def write(self, effect: Effect) -> WriteReply:
        """A write, awaited."""
        answered: asyncio.Future[WriteReply] = self.loop.create_future()
        self.send(effect, partial(_settle, answered))
        if self.dead:
            await self.silence()
        return await answered

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if self.dead:
            await self.silence()

    async def ask(self, read: Callable[[], T]) -> T:
        """A read. Raises ServerUnavailableError."""
        if not self.alive_here():
            await self.silence()
        self.perhaps_outage()
        await asyncio.sleep(self.dice.delay())
        if self.server.down:
            self.faults.fired["sent_into_outage"] += 1
            await asyncio.sleep(self.faults.timeout)
            await self.boundary()
            raise ServerUnavailableError("the server did not answer in time; ask again")
        if self.dice.hit("no_responders"):
            raise ServerUnavailableError("nobody answers for this stream just now; ask again")
        result = read()
        if way := self.dice.delay():
            await asyncio.sleep(way)
        if not self.alive_here():
            await self.silence()
        return result

    def tell(self, effect: Callable[[], None], fault: str) -> None:
        """Best effort, unanswered: `fault` is the one that loses it."""
        if not self.alive_here():
            return
        way = self.dice.delay()
        if not self.dice.hit(fault):
            self.server.after(way, self._hear, effect)
        self.alive_here()

    def _hear(self, effect: Callable[[], None]) -> None:
        if not self.server.down:
            effect()

    def perhaps_outage(self) -> None:
        if self.faults.outage and not self.server.down and self.dice.hit("outage"):
            self.server.outage(self.dice.upto(self.faults.outage_for))

    def replica_cutoff(self) -> float:
        """The state a replica answers with: as it was at this virtual time."""
        now = self.loop.time()
        if self.server.replicas > 1 and self.faults.stale_read and self.dice.hit("stale_read"):
            return now - self.dice.upto(self.faults.stale_by)
        return now


def _settle(future: asyncio.Future[WriteReply], reply: WriteReply) -> None:
    if not future.done():
        future.set_result(reply)
