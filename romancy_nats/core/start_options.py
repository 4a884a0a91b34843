"""What one start of a workflow may ask for besides its arguments: checked here, and spelled as headers. No codec."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple, cast, get_args

from romancy_nats.core.headers import ATTRIBUTES, CONFLICT, MEMO, RETENTION, START_AT, START_DELAY, TIMEOUT
from romancy_nats.core.ids import check_id
from romancy_nats.core.limits import parse_body
from romancy_nats.core.retry import Duration
from romancy_nats.errors import ConfigurationError, PayloadError

OnConflict = Literal["join", "fail", "restart_ended"]
_CONFLICTS = get_args(OnConflict)
RESTART_REJECTED = "restart_rejected"
"""What the start of a redriven dead letter says: it runs if its id was rejected, else it joins. Never a second run."""
_MICROSECONDS = 1_000_000
_LONGEST_SECONDS = 1e9
_LATEST = datetime(2100, 1, 1, tzinfo=UTC)
_MOST = 16_000
"""Characters of attributes or a memo: they are in the record, which is written at every rest."""


class _Span(NamedTuple):
    """What a duration of a start may be, in seconds: the same for a client's options and a bare start's headers."""

    least: float
    above: bool = False
    """Whether it has to be more than the least."""

    def refusal(self, seconds: float, what: str) -> str:
        """Why this is no such duration, "" when it is one."""
        enough = seconds > self.least if self.above else seconds >= self.least
        if enough and seconds <= _LONGEST_SECONDS:
            return ""
        low = f"more than {self.least:g}" if self.above else f"{self.least:g} or more"
        longest = f"at most {_LONGEST_SECONDS:,.0f} (about 31 years)"
        return f"{what} is a number of seconds, {low} and {longest}, not {seconds:,g}"


_SPANS = {TIMEOUT: _Span(0, above=True), START_DELAY: _Span(0), RETENTION: _Span(1)}


def _nothing() -> dict[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class StartOptions:
    """How one start of a workflow differs from the usual. Times are in seconds, `start_at` in µs since the epoch."""

    id: str | None = None
    timeout: float | None = None
    on_conflict: OnConflict | Literal["restart_rejected"] = "join"
    start_delay: float = 0.0
    start_at: int = 0
    attributes: Mapping[str, Any] = field(default_factory=_nothing)
    memo: Mapping[str, Any] = field(default_factory=_nothing)
    retention: float | None = None

    @staticmethod
    def checked(
        *,
        id: str | None = None,
        timeout: Duration | None = None,
        on_conflict: OnConflict = "join",
        start_delay: Duration | None = None,
        start_at: datetime | None = None,
        attributes: Mapping[str, Any] | None = None,
        memo: Mapping[str, Any] | None = None,
        retention: Duration | None = None,
    ) -> StartOptions:
        """The options as a user gives them; raises ConfigurationError, InvalidNameError, PayloadError."""
        if start_delay is not None and start_at is not None:
            raise ConfigurationError("a start has a start_delay or a start_at, not both")
        if on_conflict not in _CONFLICTS:
            raise ConfigurationError(f"on_conflict is one of {', '.join(_CONFLICTS)}, not {on_conflict!r}")
        return StartOptions(
            None if id is None else check_id(id),
            _checked(timeout, TIMEOUT, "timeout"),
            on_conflict,
            _checked(start_delay, START_DELAY, "start_delay") or 0.0,
            0 if start_at is None else _begin(start_at),
            _plain(attributes, "attributes"),
            _plain(memo, "a memo"),
            _checked(retention, RETENTION, "retention"),
        )

    def headers(self) -> dict[str, str]:
        """What a start message says of them; the id is not among them."""
        said = {
            TIMEOUT: "" if self.timeout is None else repr(self.timeout),
            CONFLICT: "" if self.on_conflict == "join" else self.on_conflict,
            START_DELAY: repr(self.start_delay) if self.start_delay else "",
            START_AT: str(self.start_at) if self.start_at else "",
            ATTRIBUTES: json.dumps(self.attributes) if self.attributes else "",
            MEMO: json.dumps(self.memo) if self.memo else "",
            RETENTION: "" if self.retention is None else repr(self.retention),
        }
        return {name: text for name, text in said.items() if text}

    def begins(self, stored: int) -> int:
        """When the workflow is to begin (µs), for a start stored at that time by the server's clock; 0 for at once."""
        return self.start_at or (stored + round(self.start_delay * _MICROSECONDS) if self.start_delay else 0)


def read_options(headers: Mapping[str, str]) -> StartOptions:
    """The options in the headers of a start of any origin; raises PayloadError."""
    conflict = headers.get(CONFLICT) or "join"
    if conflict not in (*_CONFLICTS, RESTART_REJECTED):
        raise PayloadError(f"header {CONFLICT} is one of {', '.join(_CONFLICTS)}, not {conflict!r}")
    return StartOptions(
        timeout=_seconds(headers, TIMEOUT),
        on_conflict=cast("OnConflict | Literal['restart_rejected']", conflict),
        start_delay=_seconds(headers, START_DELAY) or 0.0,
        start_at=_moment(headers.get(START_AT, "")),
        attributes=_object(headers, ATTRIBUTES),
        memo=_object(headers, MEMO),
        retention=_seconds(headers, RETENTION),
    )


def _checked(given: Any, header: str, what: str) -> float | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float | timedelta):
        raise ConfigurationError(f"{what} is a number of seconds or a timedelta, not {_shown(given)}")
    try:
        found = given.total_seconds() if isinstance(given, timedelta) else float(given)
    except OverflowError:
        found = math.inf
    if refusal := _SPANS[header].refusal(found, what):
        raise ConfigurationError(refusal)
    return found


def _begin(start_at: Any) -> int:
    if not isinstance(start_at, datetime) or start_at.tzinfo is None or start_at.utcoffset() is None:
        raise ConfigurationError(
            f"start_at is an aware datetime, not {_shown(start_at)}; give it a time zone, "
            "for example datetime.now(UTC) + timedelta(days=1)"
        )
    if refusal := _too_late(start_at):
        raise ConfigurationError(f"start_at {refusal}")
    return max(0, round(start_at.timestamp() * _MICROSECONDS))


def _too_late(moment: datetime) -> str:
    # Compared by seconds: a datetime at the edge of the calendar has no other time zone to be compared in.
    late = moment.timestamp() >= _LATEST.timestamp()
    return f"is before {_LATEST:%Y-%m-%d}, not {moment.isoformat()}" if late else ""


def _plain(given: Mapping[str, Any] | None, what: str) -> dict[str, Any]:
    if given is None:
        return {}
    try:
        fields = dict(given)
        if not all(isinstance(name, str) for name in fields):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError("a name is text")
        text = json.dumps(fields, allow_nan=False)
        json.dumps(fields, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise PayloadError(f"{what}: names and JSON values, nothing else ({error})") from error
    if len(text) > _MOST:
        raise PayloadError(f"{what}: {len(text):,} characters of JSON; keep to {_MOST:,}")
    return cast("dict[str, Any]", json.loads(text))


def _seconds(headers: Mapping[str, str], name: str) -> float | None:
    text = headers.get(name)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise PayloadError(f"header {name} is a number of seconds, not {text!r}") from error
    if refusal := _SPANS[name].refusal(value, f"header {name}"):
        raise PayloadError(refusal)
    return value


def _moment(text: str) -> int:
    """µs since the epoch: as such, or as ISO 8601 with a time zone."""
    if not text:
        return 0
    try:
        if text.isdecimal():
            when = datetime.fromtimestamp(int(text) / _MICROSECONDS, UTC)
        else:
            when = datetime.fromisoformat(text)
            if when.tzinfo is None:
                raise PayloadError(f"header {START_AT} lacks a time zone: {text!r}")
        micros = max(0, int(text) if text.isdecimal() else round(when.timestamp() * _MICROSECONDS))
    except (ValueError, OverflowError, OSError) as error:
        if isinstance(error, PayloadError):
            raise
        raise PayloadError(f"header {START_AT} is a moment in ISO 8601, not {text!r}") from error
    if refusal := _too_late(when):
        raise PayloadError(f"header {START_AT} {refusal}")
    return micros


def _object(headers: Mapping[str, str], name: str) -> Mapping[str, Any]:
    text = headers.get(name)
    if not text:
        return {}
    found = parse_body(text.encode(), "application/json")
    if not isinstance(found, dict):
        raise PayloadError(f"header {name} is a JSON object")
    return _plain(cast("dict[str, Any]", found), f"header {name}")


def _shown(given: object) -> str:
    try:
        return f"{given!r:.200}"
    except Exception:  # noqa: BLE001 - the boundary: `__repr__` is code of a user
        return f"an object of class {type(given).__name__}"
