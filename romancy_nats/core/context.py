"""What workflow code may call. Each verb gives out its id when called, in program order, and awaits a delivery."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, MutableMapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from datetime import UTC, datetime
from functools import cached_property
from random import Random
from typing import Any, NoReturn, ParamSpec, TypeVar, cast, overload
from uuid import UUID

from romancy_nats.core import sending
from romancy_nats.core.activity import Activity, AsyncActivity, SyncActivity, as_activity, is_async_callable
from romancy_nats.core.cloudevents import check_key, check_type
from romancy_nats.core.current import running_workflow
from romancy_nats.core.error_text import value_repr
from romancy_nats.core.ids import InstanceKey, check_name, check_text
from romancy_nats.core.opening import Opening
from romancy_nats.core.plain import as_plain
from romancy_nats.core.received import ReceivedEvent, ReceivedMessage
from romancy_nats.core.state import WorkflowState
from romancy_nats.core.times import Duration, seconds
from romancy_nats.core.waits import EVENT, MESSAGE, Invalid
from romancy_nats.errors import ConfigurationError, EventTimeoutError, MessageTimeoutError, QueryError

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M")

_logger = logging.getLogger("romancy.workflow")


class WorkflowContext:
    """The workflow's view of itself and the only door to the outside."""

    def __init__(self, state: WorkflowState, worker_id: str) -> None:
        self._state = state
        self._worker_id = worker_id

    @property
    def _acting(self) -> WorkflowState:
        """For everything that changes the workflow, which a query handler may not do."""
        if self._state.asked:
            raise QueryError("a query handler only looks; it may not ask the workflow to do anything")
        return self._state

    @property
    def instance_id(self) -> str:
        """The id of this instance."""
        return self._state.key.id

    @property
    def workflow_name(self) -> str:
        """The name of the workflow."""
        return self._state.key.workflow

    @property
    def worker_id(self) -> str:
        """The label of the worker that runs this code just now; never branch on it."""
        return self._worker_id

    @property
    def generation(self) -> int:
        """0, and one more after each `recur`."""
        return self._state.generation

    @property
    def is_replaying(self) -> bool:
        """True while recorded events are consumed, False from the first new one.

        True again in code that is closed because this worker drops it from memory: what it does has no effect.
        """
        return self._state.replaying

    @property
    def random(self) -> Random:
        """A random generator that gives the same numbers in replay."""
        return self._acting.random

    @cached_property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger under `romancy.workflow`; silent in replay, and in code that is dropped from memory."""
        return _WorkflowLogger(self._state, self._worker_id)

    def now(self) -> datetime:
        """The time of the last recorded event, in UTC: the same in replay."""
        return datetime.fromtimestamp(self._state.loop.time(), UTC)

    def uuid4(self) -> UUID:
        """A random UUID that is the same in replay."""
        return UUID(int=self._acting.random.getrandbits(128), version=4)

    def run(self, activity: Activity[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Run an activity durably: its result is recorded once, and replay returns the record.

        Raises what the activity raised for good: RetryExhaustedError, a TerminalError or non-retryable error as
        itself, PayloadError when the arguments cannot be serialised.
        """
        if not isinstance(activity, Activity):  # pyright: ignore[reportUnnecessaryIsInstance]
            name = getattr(activity, "__name__", repr(activity))
            raise ConfigurationError(
                f"ctx.run takes an activity; decorate {name} with @activity, or use ctx.step"
            )
        return self._acting.run_activity(activity, args, kwargs)

    @overload
    def step(
        self, name: str, fn: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]: ...
    @overload
    def step(
        self, name: str, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]: ...
    def step(
        self, name: str, fn: Callable[..., object], /, *args: Any, **kwargs: Any
    ) -> Coroutine[Any, Any, Any]:
        """Make a closure durable: `fn`, plain or async, runs once as an activity called `name`."""
        return self._acting.run_activity(step_activity(name, fn), args, kwargs)

    async def sleep(self, duration: Duration) -> None:
        """Wait; durable like `asyncio.sleep` in workflow code."""
        await asyncio.sleep(max(0.0, seconds(duration, "the duration of ctx.sleep")))

    async def sleep_until(self, moment: datetime) -> None:
        """Wait until a moment, which must have a time zone; a past one returns at once."""
        if getattr(moment, "tzinfo", None) is None:
            raise ConfigurationError(
                f"sleep_until takes an aware datetime, with a time zone, not {value_repr(moment, 100)}"
            )
        await asyncio.sleep(max(0.0, moment.timestamp() - self._state.loop.time()))

    def register_compensation(self, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call `fn` with these arguments if the workflow fails or is cancelled, in its place in the reverse order."""
        state = self._acting
        state.saga.register(as_activity(fn), args, kwargs, state.max_value)

    # --- waiting for others

    @overload
    async def wait_event(
        self,
        type: str,
        *,
        key: str | None = None,
        timeout: Duration | None = None,
        model: type[M],
        invalid: Invalid = "skip",
    ) -> ReceivedEvent[M]: ...
    @overload
    async def wait_event(
        self,
        type: str,
        *,
        key: str | None = None,
        timeout: Duration | None = None,
        model: None = None,
        invalid: Invalid = "skip",
    ) -> ReceivedEvent[Any]: ...
    async def wait_event(
        self,
        type: str,
        *,
        key: str | None = None,
        timeout: Duration | None = None,
        model: Any = None,
        invalid: Invalid = "skip",
    ) -> ReceivedEvent[Any]:
        """Wait for the next event of this type (and key, if given). One sent before is not heard.

        One whose data does not fit `model` is logged, counted and parked in the dead letters, and the wait goes on;
        with `invalid="raise"` it raises pydantic's ValidationError here. Raises EventTimeoutError after `timeout`.
        """
        waiting = self._acting.waiting
        opening = Opening[Any](waiting, self._acting.conversions, model, invalid)
        limit = asyncio.timeout(_longest(timeout, "wait_event"))
        wait = waiting.start(EVENT, type, key)
        try:
            async with limit:
                return await opening.event(wait)
        except TimeoutError as error:
            if timeout is not None and limit.expired():
                raise EventTimeoutError(type, seconds(timeout)) from error
            raise
        finally:
            waiting.end(wait)

    @overload
    def events(
        self, type: str, key: str | None = None, *, model: type[M], invalid: Invalid = "skip"
    ) -> AbstractAsyncContextManager[AsyncIterator[ReceivedEvent[M]]]: ...
    @overload
    def events(
        self, type: str, key: str | None = None, *, model: None = None, invalid: Invalid = "skip"
    ) -> AbstractAsyncContextManager[AsyncIterator[ReceivedEvent[Any]]]: ...
    @asynccontextmanager
    async def events(
        self, type: str, key: str | None = None, *, model: Any = None, invalid: Invalid = "skip"
    ) -> AsyncGenerator[AsyncIterator[ReceivedEvent[Any]]]:
        """All events of this type (and key) from here to the end of the block; none is missed between two reads.

        What becomes of one that does not fit `model` is said at `wait_event`.
        """
        waiting = self._acting.waiting
        opening = Opening[Any](waiting, self._acting.conversions, model, invalid)
        wait = waiting.start(EVENT, type, key, stream=True)

        async def stream() -> AsyncGenerator[ReceivedEvent[Any]]:
            while True:
                yield await opening.event(wait)

        try:
            async with aclosing(stream()) as events:
                yield events
        finally:
            waiting.end(wait)

    @overload
    async def receive(
        self,
        channel: str,
        timeout: Duration | None = None,
        *,
        model: type[M],
        invalid: Invalid = "raise",
    ) -> ReceivedMessage[M]: ...
    @overload
    async def receive(
        self, channel: str, timeout: Duration | None, model: type[M], *, invalid: Invalid = "raise"
    ) -> ReceivedMessage[M]: ...
    @overload
    async def receive(
        self,
        channel: str,
        timeout: Duration | None = None,
        model: None = None,
        *,
        invalid: Invalid = "raise",
    ) -> ReceivedMessage[Any]: ...
    async def receive(
        self,
        channel: str,
        timeout: Duration | None = None,
        model: Any = None,
        *,
        invalid: Invalid = "raise",
    ) -> ReceivedMessage[Any]:
        """The next message on a channel, in the order in which its sender sent them; unread ones are kept.

        One whose data does not fit `model` raises pydantic's ValidationError; with `invalid="skip"` it is logged,
        counted and parked in the dead letters, and the next one counts. Raises MessageTimeoutError after `timeout`.
        """
        waiting = self._acting.waiting
        opening = Opening[Any](waiting, self._acting.conversions, model, invalid)
        message = opening.unread(channel)
        if message is not None:
            return message
        limit = asyncio.timeout(_longest(timeout, "receive"))
        wait = waiting.start(MESSAGE, channel)
        try:
            async with limit:
                return await opening.message(wait)
        except TimeoutError as error:
            if timeout is not None and limit.expired():
                raise MessageTimeoutError(channel, seconds(timeout)) from error
            raise
        finally:
            waiting.end(wait)

    # --- reaching others

    async def send_event(self, type: str, data: object, *, key: str | None = None) -> None:
        """Publish an event, once, after the step that sends it is recorded."""
        check_type(type)
        check_key(key)
        await self.run(
            sending.send_event,
            type,
            as_plain(data, f"the data of event {type!r}", self._acting.max_value),
            key,
        )

    async def send_to(
        self, instance_id: str, channel: str, data: object, workflow: str | None = None
    ) -> None:
        """Send a message to another instance, once, after the step that sends it is recorded.

        Without `workflow` the target is an instance of this one's workflow.
        """
        check_text(channel, "a channel")
        plain = as_plain(data, f"the message on {channel!r}", self._acting.max_value)
        target = InstanceKey(self.workflow_name if workflow is None else workflow, instance_id)
        state = self._acting
        order = state.number_message(target)
        try:
            await self.run(sending.send_to, target.workflow, target.id, channel, plain, order)
        except Exception:
            state.message_failed(target, order)
            raise

    def on_query(self, name: str, fn: Callable[..., object]) -> None:
        """Answer `handle.query(name, …)` with `fn`, which only looks: it may not wait, or ask for anything."""
        self._acting.handlers.on_query(name, fn)

    def on_update(
        self, name: str, fn: Callable[..., object], validate: Callable[..., object] | None = None
    ) -> None:
        """Carry out `handle.update(name, …)` with `fn`, plain or async; `validate` refuses one by raising."""
        self._acting.handlers.on_update(name, fn, validate)

    def recur(self, *args: object, **kwargs: object) -> NoReturn:
        """End here and begin anew with this input, under the same id, with an empty history: for what runs for ever.

        Unread messages and the time limit carry over; background tasks are cancelled, waits end, compensations are
        dropped. Raises PayloadError when the input cannot be serialised. Queries and updates are registered anew.
        """
        self._acting.recur(args, kwargs)

    def emit(self, value: object, durable: bool = False) -> None:
        """Tell whoever watches; with `durable` it is also in the history, for those who watch later."""
        self._acting.emit_value(value, durable=durable)


def current_workflow() -> WorkflowContext | None:
    """The context when called inside workflow code (its handlers included), else None.

    Activities, steps and threads are not workflow code, also where they were begun by it.
    """
    return cast("WorkflowContext | None", running_workflow())


def _longest(timeout: Duration | None, verb: str) -> float | None:
    """How long a wait may take, in seconds; None for ever."""
    return None if timeout is None else seconds(timeout, f"the timeout of ctx.{verb}")


def step_activity(name: str, fn: Callable[..., R]) -> Activity[..., R]:
    """An activity made on the spot from a closure."""
    check_name(name, "the name of a step")
    if not callable(fn):
        raise ConfigurationError(f"ctx.step({name!r}, …) takes a function, not {type(fn).__name__}")
    if is_async_callable(fn):
        return AsyncActivity[..., R](fn, name=name)
    return SyncActivity[..., R](fn, name=name)


class _WorkflowLogger(logging.LoggerAdapter[logging.Logger]):
    """Adds which instance speaks; says nothing in replay and in evicted code."""

    def __init__(self, state: WorkflowState, worker: str) -> None:
        super().__init__(_logger, {})
        self._state = state
        self._worker = worker

    def isEnabledFor(self, level: int) -> bool:
        return not self._state.replaying and super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        key = self._state.key
        extra = {
            "worker": self._worker,
            "workflow": key.workflow,
            "instance_id": key.id,
            "generation": self._state.generation,
        }
        return msg, {**kwargs, "extra": {**extra, **(kwargs.get("extra") or {})}}
