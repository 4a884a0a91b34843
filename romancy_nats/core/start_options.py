"""What one start of a workflow may ask for besides its arguments: checked here, and spelled as headers. No codec."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, cast

from romancy_nats.core.headers import ATTRIBUTES, CONFLICT, MEMO, RETENTION, START_AT, START_DELAY, TIMEOUT
from romancy_nats.core.ids import check_id
from romancy_nats.core.limits import parse_body
from romancy_nats.core.retry import Duration, seconds
from romancy_nats.errors import ConfigurationError, PayloadError

OnConflict = Literal["join", "fail", "restart_ended"]
_MICROSECONDS = 1_000_000
_LONGEST = 1e9
_MOST = 16_000
"""Characters of attributes or a memo: they are in the record, which is written at every rest."""


def _nothing() -> dict[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class StartOptions:
    """How one start of a workflow differs from the usual. Times are in seconds, `start_at` in µs since the epoch."""

    id: str | None = None
    timeout: float | None = None
    on_conflict: OnConflict = "join"
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
        if start_at is not None and start_at.tzinfo is None:
            raise ConfigurationError("start_at is an aware datetime: give it a time zone")
        return StartOptions(
            None if id is None else check_id(id),
            None if timeout is None else seconds(timeout),
            on_conflict,
            0.0 if start_delay is None else max(0.0, seconds(start_delay)),
            0 if start_at is None else round(start_at.timestamp() * _MICROSECONDS),
            _plain(attributes, "attributes"),
            _plain(memo, "a memo"),
            None if retention is None else seconds(retention),
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
    conflict = headers.get(CONFLICT, "join")
    return StartOptions(
        timeout=_seconds(headers, TIMEOUT),
        on_conflict=cast("OnConflict", conflict),
        start_delay=_seconds(headers, START_DELAY) or 0.0,
        start_at=_moment(headers.get(START_AT, "")),
        attributes=_object(headers, ATTRIBUTES),
        memo=_object(headers, MEMO),
        retention=_seconds(headers, RETENTION),
    )


def _plain(given: Mapping[str, Any] | None, what: str) -> dict[str, Any]:
    if not given:
        return {}
    try:
        text = json.dumps(dict(given), allow_nan=False)
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
    if not 0 < value < _LONGEST:
        raise PayloadError(f"header {name} is a positive number of seconds, not {text!r}")
    return value


def _moment(text: str) -> int:
    """µs since the epoch: as such, or as ISO 8601 with a time zone."""
    if not text:
        return 0
    try:
        if text.isdecimal():
            return min(int(text), 10**18)
        when = datetime.fromisoformat(text)
        if when.tzinfo is None:
            raise PayloadError(f"header {START_AT} lacks a time zone: {text!r}")
        return max(0, round(when.timestamp() * _MICROSECONDS))
    except (ValueError, OverflowError) as error:
        raise PayloadError(f"header {START_AT} is a moment in ISO 8601, not {text!r}") from error


def _object(headers: Mapping[str, str], name: str) -> Mapping[str, Any]:
    text = headers.get(name)
    if not text:
        return {}
    found = parse_body(text.encode(), "application/json")
    if not isinstance(found, dict):
        raise PayloadError(f"header {name} is a JSON object")
    return _plain(cast("dict[str, Any]", found), f"header {name}")
