"""What activity code may ask about its own attempt. Bound to the running attempt by a context variable."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

from romancy_nats.core.error_text import class_name, shown
from romancy_nats.core.ids import encode_token
from romancy_nats.core.messages.announcement import EMITTED, HEARTBEAT
from romancy_nats.core.plain import encode_plain
from romancy_nats.errors import ConfigurationError

if TYPE_CHECKING:
    from romancy_nats.core.ids import InstanceKey

S = TypeVar("S")
_log = logging.getLogger("romancy.activity")
MAX_DETAILS = 64 * 1024
"""Bytes of the details of a heartbeat, which go into the history with a failed attempt."""

_current: ContextVar[ActivityContext] = ContextVar("romancy_activity")


def activity_context() -> ActivityContext:
    """The context of the running attempt; raises ConfigurationError outside an activity."""
    try:
        return _current.get()
    except LookupError:
        raise ConfigurationError(
            "activity_context() is only there inside an activity run by a workflow"
        ) from None


def enter_attempt(context: ActivityContext) -> None:
    """Make this the context of the running asyncio context."""
    _current.set(context)


class ActivityContext:
    """One attempt of one activity. Safe to use from the thread in which a plain function runs."""

    __slots__ = (
        "_beat",
        "_cancelled",
        "_details",
        "_generation",
        "_key",
        "_most_details",
        "_state",
        "_warned",
        "activity_id",
        "attempt",
        "last_heartbeat",
        "tell",
    )

    def __init__(
        self,
        key: InstanceKey,
        activity_id: str,
        attempt: int,
        state: object,
        last_heartbeat: object = None,
        generation: int = 0,
        most_details: int = MAX_DETAILS,
    ) -> None:
        self._key = key
        self._generation = generation
        self.activity_id = activity_id
        self.attempt = attempt
        self.last_heartbeat = last_heartbeat
        self._state = state
        self._cancelled = False
        self._details = b""
        self._most_details = min(most_details, MAX_DETAILS)
        self._warned = False
        self._beat: Callable[[], None] | None = None
        self.tell: Callable[[str, bytes], None] | None = None

    def __repr__(self) -> str:
        return f"{self._key!r} {self.activity_id}, attempt {self.attempt}"

    @property
    def instance_id(self) -> str:
        """The id of the instance that this attempt works for."""
        return self._key.id

    @property
    def workflow_name(self) -> str:
        """The name of its workflow."""
        return self._key.workflow

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this activity, and for no other: give it to systems that deduplicate."""
        # Encoded, so that no "/" in an id makes two of them one; ids of activities begin anew with each generation.
        workflow, id = encode_token(self._key.workflow), self._key.id_token
        return f"{workflow}/{id}/{self._generation}/{encode_token(self.activity_id)}"

    @property
    def cancelled(self) -> bool:
        """True once this attempt no longer counts: cancelled, timed out, or ownership lost. Threads should look."""
        return self._cancelled

    def heartbeat(self, details: object = None) -> None:
        """Say that the attempt is alive; the next attempt finds `details`, as they are now, in `last_heartbeat`.

        Details that cannot be encoded, or take more than 64 KiB (less with a server for small messages), are left out
        with one warning: the last ones that could be kept are. May be called from any thread.
        """
        if self._beat is not None:
            self._beat()
        if details is None or self._cancelled:
            return
        try:
            data = encode_plain(details, "the details of a heartbeat")
        except Exception as error:  # noqa: BLE001 - the boundary: encoding runs code of a user, and is no affair of the attempt
            self._leave_out(shown(error))
            return
        if len(data) > self._most_details:
            self._leave_out(f"{len(data):,} bytes; keep to {self._most_details:,}")
            return
        self._details = data
        if self.tell is not None:
            self.tell(HEARTBEAT, data)

    def emit(self, value: object) -> None:
        """Tell whoever watches the instance; it is not recorded. Raises PayloadError for what cannot be encoded."""
        data = encode_plain(value, "what an activity emits")
        if self.tell is not None and not self._cancelled:
            self.tell(EMITTED, data)

    def state(self, kind: type[S]) -> S:
        """What the app's `lifespan` yielded; raises ConfigurationError when it is not of this type."""
        found = self._state
        if isinstance(found, kind):
            return found
        raise ConfigurationError(
            f"the lifespan of the app yielded {class_name(type(found))}, not {class_name(kind)}; "
            "give App(lifespan=…) an async context manager that yields it"
        )

    def watch(self, beat: Callable[[], None] | None) -> None:
        """Call `beat` at each heartbeat (the engine's silence limit), nobody from now on with None."""
        self._beat = beat

    def details(self) -> bytes:
        """The payload of the last details that a heartbeat gave, empty when none did."""
        return self._details

    def cancel(self) -> None:
        """Raise the flag that threads look at."""
        self._cancelled = True

    def _leave_out(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                "%r: the details of a heartbeat are left out: %s",
                self,
                why,
            )
