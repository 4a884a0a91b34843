"""What comes back over the wire: answers to requests, and messages of subscriptions. Plain data, no I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType

from romancy_nats.errors import PermissionDeniedError

NO_HEADERS: Mapping[str, str] = MappingProxyType({})

NO_RESPONDERS = 503
DENIED = 403


class Reply:
    """An answer. Nobody listening, and a publish that the server denied, are answers too: see `status`."""

    __slots__ = ("data", "denied", "headers")

    def __init__(
        self,
        data: bytes,
        headers: Mapping[str, str] | None = None,
        denied: PermissionDeniedError | None = None,
    ) -> None:
        self.data = data
        self.headers = NO_HEADERS if headers is None else headers
        self.denied = denied

    @property
    def status(self) -> int:
        """The status line of the server, 0 when there is none. 503: nobody listens. 403: denied, see `denied`."""
        if self.denied is not None:
            return DENIED
        return int(self.headers.get("Status", "0"))

    @property
    def no_responders(self) -> bool:
        """Nobody listens there: no such stream or consumer, or no leader for it just now. Nothing was done."""
        return not self.data and self.headers.get("Status") == "503"

    @property
    def description(self) -> str:
        """The server's words for the status."""
        return self.headers.get("Description", "")

    def json(self) -> dict[str, object]:
        """The body of an API answer."""
        found: dict[str, object] = json.loads(self.data)
        return found

    def __repr__(self) -> str:
        return f"<Reply status={self.status} bytes={len(self.data)}>"


class Msg:
    """A message of a subscription. `reply` is untrusted: answer only to inboxes."""

    __slots__ = ("data", "headers", "reply", "subject")

    def __init__(self, subject: str, reply: str, data: bytes, headers: Mapping[str, str] | None) -> None:
        self.subject = subject
        self.reply = reply
        self.data = data
        self.headers = NO_HEADERS if headers is None else headers

    @property
    def status(self) -> int:
        """The status line of the server, 0 when there is none."""
        return int(self.headers.get("Status", "0"))

    def __repr__(self) -> str:
        return f"<Msg {self.subject} bytes={len(self.data)}>"
