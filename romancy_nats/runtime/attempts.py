"""Running an activity: attempts, limits, heartbeats, threads, back-off. Says how it ended; records nothing."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, cast

import anyio
import anyio.to_thread

from romancy_nats.core.events import ActivityAttemptFailed, ActivityCompleted, ActivityFailed
from romancy_nats.core.failure import Failure
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.limits import Limits
from romancy_nats.core.payload import ValueCodec
from romancy_nats.core.pending import PendingActivity
from romancy_nats.core.plain import encode_plain
from romancy_nats.core.retry import RetryPolicy
from romancy_nats.core.times import micros
from romancy_nats.errors import ActivityTimeoutError, PayloadError, PayloadTooLargeError
from romancy_nats.ports import Chance, Clock
from romancy_nats.runtime.activity_context import ActivityContext, enter_attempt
from romancy_nats.runtime.progress import FAILED, HEARTBEAT, STARTED
from romancy_nats.runtime.tuning import Tuning

_log = logging.getLogger("romancy.activity")
_details = ValueCodec[object](Any)
LONG_DELAY = 1.0
"""From this back-off on (seconds) a failed attempt is committed at once: a write is cheap beside the wait."""


LONG_REST = 5.0
"""From this back-off on the worker lets go of the activity until the next attempt is due."""


_SOON = 0.05
_BETWEEN_BEATS = 0.1


class Ended(Protocol):
    """Who is told about attempts."""

    def ended(self, event: ActivityCompleted | ActivityFailed) -> None: ...
    def attempt_failed(self, event: ActivityAttemptFailed, *, commit: bool) -> None: ...
    def announce(self, type: str, data: bytes) -> None: ...


class Workshop:
    """What the attempts of one worker share: limits, resources, replacements of activities."""

    def __init__(self, tuning: Tuning, clock: Clock, chance: Chance) -> None:
        self.tuning = tuning
        self.clock = clock
        self.chance = chance
        self.state: object = None
        self.overrides: Mapping[str, Callable[..., object]] = {}
        self.inline_threads = False
        self.may_begin: Callable[[], bool] = lambda: True
        self.limits: Callable[[], Limits] = Limits
        self._limiters: dict[str, anyio.CapacityLimiter] = {}

    def limiter(self, name: str, most: int | None) -> anyio.CapacityLimiter:
        """The bound on threads for one activity, or the worker's own."""
        bound = "" if most is None else name
        limiter = self._limiters.get(bound)
        if limiter is None:
            limiter = self._limiters[bound] = anyio.CapacityLimiter(most or self.tuning.threads)
        return limiter


class Attempts:
    """The attempts of one scheduled activity, in one asyncio task."""

    def __init__(
        self, workshop: Workshop, key: InstanceKey, generation: int, pending: PendingActivity, told: Ended
    ) -> None:
        self._workshop = workshop
        self._key = key
        self._generation = generation
        self._pending = pending
        self._told = told
        self._context: ActivityContext | None = None
        self._given_up = False
        self._final = False
        self._announced = 0
        self._beat_at = 0.0
        self._loop = asyncio.get_running_loop()
        self.task: asyncio.Task[None] | None = None

    def give_up(self) -> None:
        """The result no longer counts: interrupt async code, raise the flag for a thread."""
        self._given_up = True
        if self._context is not None:
            self._context.cancel()
        if self.task is not None:
            self.task.cancel()

    async def run(self) -> None:
        """Try until it is completed or has failed for good, or waits for long."""
        try:
            await self._run()
        finally:
            # Freed at once: the task and what it runs in refer to us.
            self.task = self._context = None

    async def _run(self) -> None:
        pending, workshop = self._pending, self._workshop
        policy = pending.activity.retry or workshop.tuning.retry
        attempt = pending.attempts
        heartbeat = pending.heartbeat
        while True:
            # Also before the first: this process may have stood still since it was asked for (L10).
            while not workshop.may_begin():
                await asyncio.sleep(workshop.tuning.lease_ttl / 30)
            attempt += 1
            error = await self._try(attempt, heartbeat)
            if error is None or self._given_up:
                return
            delay = None
            if not self._is_final(policy, error):
                elapsed = workshop.clock.now() - pending.began / 1_000_000
                delay = policy.next_delay(attempt, elapsed, workshop.chance.number())
            failure = self._failure(error)
            if delay is None:
                self._fail(attempt, policy, error, failure)
                return
            _log.info(
                "attempt %d of %s failed, next in %.2f s: %s",
                attempt,
                self._name(),
                delay,
                _short(error),
                extra=self._fields(attempt),
            )
            if self._context is not None and self._context.details() is not None:
                heartbeat = _encode_details(self._context.details())
            if delay >= LONG_REST:
                # The instance may rest meanwhile: whoever owns it then begins the next attempt.
                due = micros(workshop.clock.now() + delay)
                note = ActivityAttemptFailed(pending.id, attempt, failure, heartbeat, due)
                self._told.attempt_failed(note, commit=True)
                return
            note = ActivityAttemptFailed(pending.id, attempt, failure, heartbeat)
            self._told.attempt_failed(note, commit=delay >= LONG_DELAY)
            await asyncio.sleep(delay)

    async def _try(self, attempt: int, heartbeat: bytes) -> BaseException | None:
        # Whoever watches wants to see what takes long: most first attempts are over before they are worth a notice.
        soon = self._loop.call_later(_SOON, self._begun, attempt)
        if attempt > 1:
            self._begun(attempt)
        try:
            error = await self._try_quietly(attempt, heartbeat)
        finally:
            soon.cancel()
        if error is not None and not self._given_up:
            self._begun(attempt)
            self._tell(FAILED, attempt, error=_short(error))
        return error

    def _begun(self, attempt: int) -> None:
        if self._announced < attempt:
            self._announced = attempt
            self._tell(STARTED, attempt)

    def _tell(self, type: str, attempt: int, **more: object) -> None:
        pending = self._pending
        known = {"activity_id": pending.id, "name": pending.activity.name, "attempt": attempt}
        self._told.announce(type, encode_plain({**known, **more}))

    def _heard(self, type: str, value: object) -> None:
        """The activity has something to tell, perhaps from a thread."""
        if type == HEARTBEAT:
            now = self._workshop.clock.monotonic()
            if now - self._beat_at < _BETWEEN_BEATS:
                return
            self._beat_at = now
        data = encode_plain(value, "what an activity emits")
        # The worker may be gone while a thread of it still runs.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._pass_on, type, data)

    def _pass_on(self, type: str, data: bytes) -> None:
        if not self._given_up:
            self._told.announce(type, data)

    async def _try_quietly(self, attempt: int, heartbeat: bytes) -> BaseException | None:
        pending = self._pending
        try:
            result = await self._call(attempt, heartbeat)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            # Cancelled from outside, the worker ends: that says nothing about the activity.
            if self._given_up or (task is not None and task.cancelling()):
                raise
            return error
        except BaseException as error:  # noqa: BLE001 - the boundary: whatever an activity raises is its failure, not the worker's
            return error
        try:
            data = self._encode(result)
        except PayloadError as error:
            # Running it again would do its work again and give the same kind of value.
            self._final = True
            return _named(error, pending.activity.name)
        self._told.ended(ActivityCompleted(pending.id, attempt, data))
        return None

    def _encode(self, result: Any) -> bytes:
        activity, limit = self._pending.activity, self._workshop.limits().value
        data = activity.result.encode(result)
        if len(data) > limit:
            raise PayloadTooLargeError(f"the result of activity {activity.name!r}", len(data), limit)
        return data

    async def _call(self, attempt: int, heartbeat: bytes) -> Any:
        pending, workshop = self._pending, self._workshop
        activity = pending.activity
        last = _details.decode(heartbeat) if heartbeat else None
        context = self._context = ActivityContext(
            self._key, pending.id, attempt, workshop.state, last, self._generation
        )
        context.tell = self._heard
        enter_attempt(context)
        args, kwargs = activity.parameters.decode(pending.input)
        fn = workshop.overrides.get(activity.name, activity.fn)
        is_async = activity.is_async if fn is activity.fn else inspect.iscoroutinefunction(fn)
        limit, silence = activity.timeout, activity.heartbeat
        if is_async and limit is None and silence is None:
            return await cast("Awaitable[Any]", fn(*args, **kwargs))
        call = fn(*args, **kwargs) if is_async else self._in_thread(fn, args, kwargs)
        return await self._limited(call, context, limit, silence)

    async def _in_thread(self, fn: Callable[..., object], args: Any, kwargs: Any) -> Any:
        if self._workshop.inline_threads:
            return fn(*args, **kwargs)
        limiter = self._workshop.limiter(self._pending.activity.name, self._pending.activity.max_threads)
        return await anyio.to_thread.run_sync(
            partial(fn, *args, **kwargs), abandon_on_cancel=True, limiter=limiter
        )

    async def _limited(
        self, call: Any, context: ActivityContext, limit: float | None, silence: float | None
    ) -> Any:
        """Await the call within its time limit and its longest silence."""
        name = self._pending.activity.name
        outer = asyncio.timeout(limit)
        inner = asyncio.timeout(silence)
        try:
            async with outer, inner:
                if silence is not None:
                    context.watch(_Pulse(inner, silence))
                return await call
        except TimeoutError as error:
            if outer.expired() and limit is not None:
                raise ActivityTimeoutError(name, limit) from error
            if inner.expired() and silence is not None:
                raise ActivityTimeoutError(name, silence, "heartbeat") from error
            raise
        finally:
            context.watch(lambda: None)
            if outer.expired() or inner.expired() or self._given_up:
                context.cancel()

    def _fail(self, attempt: int, policy: RetryPolicy, error: BaseException, failure: bytes) -> None:
        exhausted = not self._is_final(policy, error)
        # Not a warning: the workflow may catch it. If it does not, its own failure is one.
        text = "%s failed after %d attempt(s): %s"
        _log.info(text, self._name(), attempt, _short(error), extra=self._fields(attempt))
        self._told.ended(ActivityFailed(self._pending.id, attempt, failure, exhausted))

    def _failure(self, error: BaseException) -> bytes:
        most = self._workshop.limits().failure
        return Failure.of(error, self._pending.activity.errors, most=most).encode()

    def _is_final(self, policy: RetryPolicy, error: BaseException) -> bool:
        return self._final or policy.is_final(error)

    def _name(self) -> str:
        return f"{self._key!r} {self._pending.id}"

    def _fields(self, attempt: int) -> dict[str, object]:
        """What a log record about an attempt carries beside its text."""
        key = self._key
        known: dict[str, object] = {"workflow": key.workflow, "instance_id": key.id}
        return known | {"activity_id": self._pending.id, "attempt": attempt}


class _Pulse:
    """Puts the end of the silence off, from whichever thread the heartbeat comes."""

    def __init__(self, silence: asyncio.Timeout, seconds: float) -> None:
        self._silence = silence
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()

    def __call__(self) -> None:
        self._loop.call_soon_threadsafe(self._put_off)

    def _put_off(self) -> None:
        # It runs a turn of the loop later: the attempt may be over by then.
        with suppress(RuntimeError):
            self._silence.reschedule(self._loop.time() + self._seconds)


def _named(error: PayloadError, activity: str) -> PayloadError:
    if activity in str(error):
        return error
    named = PayloadError(f"activity {activity!r}: {error}")
    named.__cause__ = error
    return named


def _encode_details(details: object) -> bytes:
    try:
        return _details.encode(details)
    except PayloadError as error:
        _log.warning("heartbeat details cannot be kept: %s", error)
        return b""


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"
