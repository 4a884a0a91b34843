"""Which instances a list shows: by status, age and attributes. Reads no clock: the time comes in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from romancy_nats.core.record import InstanceStatus
from romancy_nats.errors import ConfigurationError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_AGO = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*([smhdw])")

Statuses = InstanceStatus | str | Iterable[InstanceStatus | str]
Moment = datetime | timedelta | str
"""A time; a span is so long ago; text is ISO 8601, or a span like "90s", "30m", "2h", "3d", "1w"."""


class InvalidFilterError(ConfigurationError, ValueError):
    """A filter of `list` or `count` that says nothing; the text says what it may be."""


@dataclass(slots=True, frozen=True)
class Selection:
    """A filter. An instance is taken if its status is one of `statuses` (any, if there are none), it was created in
    [`since`, `until`), and it has all the `attributes`."""

    statuses: frozenset[InstanceStatus] = frozenset()
    since: datetime | None = None
    until: datetime | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @staticmethod
    def of(
        now: datetime,
        status: Statuses | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> Selection:
        """The filter of these words; raises InvalidFilterError."""
        selection = Selection(
            _statuses(status),
            _moment("since", since, now),
            _moment("until", until, now),
            dict(attributes or {}),
        )
        if selection.since and selection.until and selection.since >= selection.until:
            raise InvalidFilterError(
                f"since ({selection.since.isoformat()}) is not before until ({selection.until.isoformat()})"
            )
        return selection

    def takes(
        self, status: InstanceStatus, created_at: datetime | None, attributes: Mapping[str, Any] | None
    ) -> bool:
        """Whether an instance with these is in the list. One whose creation is not known is in no span of time."""
        if self.statuses and status not in self.statuses:
            return False
        if self.since is not None and (created_at is None or created_at < self.since):
            return False
        if self.until is not None and (created_at is None or created_at >= self.until):
            return False
        known = attributes or {}
        return all(name in known and known[name] == value for name, value in self.attributes.items())


def _statuses(status: Statuses | None) -> frozenset[InstanceStatus]:
    if status is None:
        return frozenset()
    several = [status] if isinstance(status, str) else list(status)
    try:
        return frozenset(map(InstanceStatus, several))
    except ValueError as error:
        raise InvalidFilterError(f"{error}; there is {', '.join(InstanceStatus)}") from error


def _moment(name: str, given: Moment | None, now: datetime) -> datetime | None:
    try:
        match given:
            case None:
                return None
            case datetime():
                # Without a zone it is the time of whoever says it.
                return given if given.tzinfo is not None else given.astimezone()
            case timedelta():
                return now - given
            case _:
                return _read(given.strip(), now)
    except (ValueError, OverflowError, OSError, AttributeError, TypeError) as error:
        raise InvalidFilterError(
            f"{name}: {given!r} is no time; say it like 2026-01-31, 2026-01-31T12:00:00+01:00, or how long ago: "
            "90s, 30m, 2h, 3d, 1w"
        ) from error


def _read(text: str, now: datetime) -> datetime:
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return now - timedelta(seconds=float(ago[1]) * _UNITS[ago[2]])
    found = datetime.fromisoformat(text)
    return found if found.tzinfo is not None else found.astimezone()
