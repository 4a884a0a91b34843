"""The attempts of one activity, one after the other: retries, back-off, results. Says how it ended; records nothing."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any, Protocol

from romancy_nats.core.error_text import class_key, error_text, is_one_of, shown
from romancy_nats.core.events import ActivityAttemptFailed, ActivityCompleted, ActivityFailed
from romancy_nats.core.failure import Failure
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.messages.announcement import FAILED, HEARTBEAT, STARTED
from romancy_nats.core.parameters import ArgumentsNotMadeError
from romancy_nats.core.pending import PendingActivity
from romancy_nats.core.plain import decode_plain, encode_plain
from romancy_nats.core.retry import asked_delay
from romancy_nats.core.times import micros
from romancy_nats.errors import PayloadError, PayloadTooLargeError
from romancy_nats.runtime.activity_context import ActivityContext
from romancy_nats.runtime.attempt import Attempt
from romancy_nats.runtime.workshop import Workshop

_log = logging.getLogger("romancy.activity")
RECORDED_FROM = 0.2
"""From this back-off on (seconds) a failed attempt is committed at once, with the time of the next one: a write is
cheap beside the wait, the count survives a kill, and the instance may rest meanwhile."""
_SOON = 0.05
_BETWEEN_BEATS = 0.1


class Ended(Protocol):
    """Who is told about attempts."""

    def ended(self, event: ActivityCompleted | ActivityFailed) -> None: ...
    def attempt_failed(self, event: ActivityAttemptFailed, *, commit: bool) -> None: ...
    def announce(self, type: str, data: bytes) -> None: ...


class Attempts:
    """The attempts of one scheduled activity in this process."""

    def __init__(
        self, workshop: Workshop, key: InstanceKey, generation: int, pending: PendingActivity, told: Ended
    ) -> None:
        self._workshop = workshop
        self._key = key
        self._generation = generation
        self._pending = pending
        self._told = told
        self._number = pending.attempts
        self._heartbeat = pending.heartbeat
        self._attempt: Attempt | None = None
        self._next: asyncio.TimerHandle | None = None
        self._soon: asyncio.TimerHandle | None = None
        self._given_up = False
        self._announced = 0
        self._beat_at = 0.0

    def begin(self) -> None:
        """Begin the next attempt, as soon as the lease allows it (L10). Whatever goes wrong with it is its failure."""
        self._next = None
        if not self._workshop.may_begin():
            # Also before the first: this process may have stood still since it was asked for.
            self._next = self._workshop.loop.call_later(self._workshop.tuning.lease_ttl / 30, self.begin)
            return
        self._number += 1
        try:
            self._begin()
        except BaseException as error:  # noqa: BLE001 - the boundary: decoding runs code of a user
            if is_one_of(error, (ArgumentsNotMadeError,)):
                self._failed(error, final=True)
            else:
                self._attempt_ended(None, error)

    def give_up(self) -> None:
        """The result no longer counts: interrupt async code, raise the flag for a thread."""
        self._given_up = True
        attempt = self._attempt
        self._release()
        if attempt is not None:
            attempt.give_up()

    def _begin(self) -> None:
        pending, workshop = self._pending, self._workshop
        activity = pending.activity
        context = ActivityContext(
            self._key,
            pending.id,
            self._number,
            workshop.state,
            decode_plain(self._heartbeat),
            self._generation,
            workshop.limits().failure,
        )
        context.tell = self._heard
        args, kwargs = activity.parameters.decode(pending.input)
        fn, is_async = workshop.function(activity.name, activity.fn, activity.is_async)
        self._attempt = Attempt(workshop, activity, context, self._begun, self._attempt_ended)
        self._attempt.begin(fn, is_async, args, kwargs)

    def _release(self) -> None:
        """Nothing of the attempt is kept or will happen: it and what it runs in refer to us."""
        for timer in (self._next, self._soon):
            if timer is not None:
                timer.cancel()
        self._next = self._soon = None
        if self._attempt is not None:
            self._attempt.context.tell = None
            self._attempt = None

    # --- how an attempt ends

    def _attempt_ended(self, value: object, error: BaseException | None) -> None:
        if self._given_up:
            return
        final = False
        if error is None:
            try:
                data = self._encode(value)
            except BaseException as problem:  # noqa: BLE001 - the boundary: encoding runs code of a user
                # Running it again would do its work again and give the same kind of value.
                error, final = self._unfit(problem), True
            else:
                self._over(ActivityCompleted(self._pending.id, self._number, data))
                return
        self._failed(error, final)

    def _over(self, event: ActivityCompleted | ActivityFailed) -> None:
        self._release()
        # Out of the variables that the activity set: what the engine begins now is not to see them.
        self._workshop.scope().run(self._told.ended, event)

    def _encode(self, result: Any) -> bytes:
        activity, limit = self._pending.activity, self._workshop.limits().value
        data = activity.result.encode(result)
        if len(data) > limit:
            raise PayloadTooLargeError(f"the result of activity {activity.name!r}", len(data), limit)
        return data

    def _unfit(self, problem: BaseException) -> PayloadError:
        name = self._pending.activity.name
        if is_one_of(problem, (PayloadError,)):
            if isinstance(problem, PayloadError) and name in error_text(problem, 1000):
                return problem
            reason = error_text(problem, 1000)
        else:
            reason = f"its result could not be encoded: {shown(problem)}"
        error = PayloadError(f"activity {name!r}: {reason}")
        error.__cause__ = problem
        return error

    def _failed(self, error: BaseException, final: bool) -> None:
        try:
            failure = self._failure(error)
            delay, exhausted = self._next_delay(error, final)
        except BaseException as problem:  # noqa: BLE001 - the boundary: what goes wrong here is no reason for a worker to end
            _log.exception(
                "%s: the failure of an attempt could not be judged", self._name(), extra=self._fields()
            )
            failure = Failure(
                class_key(type(error)), f"{error_text(error)} (and then {shown(problem)})"
            ).encode()
            delay, exhausted = None, False
        self._begun()
        self._tell(FAILED, error=shown(error))
        if delay is None:
            # Not a warning: the workflow may catch it. If it does not, its own failure is one.
            text = "%s failed after %d attempt(s): %s"
            _log.info(text, self._name(), self._number, shown(error), extra=self._fields())
            self._over(ActivityFailed(self._pending.id, self._number, failure, exhausted))
        else:
            text = "attempt %d of %s failed, next in %.2f s: %s"
            _log.info(text, self._number, self._name(), delay, shown(error), extra=self._fields())
            self._wait(delay, failure)

    def _next_delay(self, error: BaseException, final: bool) -> tuple[float | None, bool]:
        """Seconds until the next attempt, None for none; and whether the attempts are used up."""
        workshop = self._workshop
        policy = self._pending.activity.retry or workshop.tuning.retry
        if final or policy.is_final(error):
            return None, False
        elapsed = workshop.clock.now() - self._pending.began / 1_000_000
        delay = policy.next_delay(self._number, elapsed, workshop.chance.number(), asked_delay(error))
        return delay, True

    def _wait(self, delay: float, failure: bytes) -> None:
        if self._attempt is not None:
            self._heartbeat = self._attempt.context.details() or self._heartbeat
        self._release()
        recorded = delay > RECORDED_FROM
        if not recorded:
            self._next = self._workshop.loop.call_later(delay, self.begin)
        # One that is recorded is begun by whoever owns the instance then.
        due = micros(self._workshop.clock.now() + delay) if recorded else 0
        note = ActivityAttemptFailed(self._pending.id, self._number, failure, self._heartbeat, due)
        self._workshop.scope().run(lambda: self._told.attempt_failed(note, commit=recorded))

    def _failure(self, error: BaseException) -> bytes:
        most = self._workshop.limits().failure
        return Failure.of(error, self._pending.activity.errors, most=most).encode()

    # --- what is announced

    def _begun(self) -> None:
        """It runs. Whoever watches sees a first attempt only if it takes long: most are over before that."""
        number = self._number
        if self._attempt is not None and not self._attempt.over and number == 1:
            self._soon = self._workshop.loop.call_later(_SOON, self._announce_start)
        else:
            self._announce_start()

    def _announce_start(self) -> None:
        if self._announced < self._number:
            self._announced = self._number
            self._tell(STARTED)

    def _tell(self, type: str, **more: object) -> None:
        pending = self._pending
        known = {"activity_id": pending.id, "name": pending.activity.name, "attempt": self._number}
        try:
            self._told.announce(type, encode_plain({**known, **more}))
        except Exception:  # noqa: BLE001 - the boundary: nothing of a notice is worth the end of an attempt
            _log.debug("%s: a notice of %s could not be sent", self._name(), type, exc_info=True)

    def _heard(self, type: str, data: bytes) -> None:
        """The activity has something to tell, perhaps from a thread."""
        if type == HEARTBEAT:
            now = self._workshop.clock.monotonic()
            if now - self._beat_at < _BETWEEN_BEATS:
                return
            self._beat_at = now
        # The worker may be gone while a thread of it still runs.
        with suppress(RuntimeError):
            self._workshop.loop.call_soon_threadsafe(self._pass_on, type, data)

    def _pass_on(self, type: str, data: bytes) -> None:
        if not self._given_up:
            self._told.announce(type, data)

    def _name(self) -> str:
        return f"{self._key!r} {self._pending.id}"

    def _fields(self) -> dict[str, object]:
        """What a log record about an attempt carries beside its text."""
        key = self._key
        known: dict[str, object] = {"workflow": key.workflow, "instance_id": key.id}
        return known | {"activity_id": self._pending.id, "attempt": self._number}
