"""Finds the owner of an answer: one inbox, one wildcard subscription, a counter as token.

Knows no server and does no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from romancy_nats.errors import PermissionDeniedError
from romancy_nats.jetstream.replies import Reply

Done = Callable[[Reply | None], None]
"""Called once with the answer, or with None: unanswered, which is unknown (L3)."""

Defer = Callable[[Done, Reply | None], object]
"""Runs it soon: keeps an error in one callback away from the others."""


class Mux:
    """The open requests of one connection, and the inboxes that hear more than one message."""

    def __init__(self, inbox: str, defer: Defer) -> None:
        self._prefix = inbox + "."
        self._skip = len(self._prefix)
        self._defer = defer
        self._count = 0
        self._lost = 0
        self._open: dict[str, tuple[Done, float, int, str]] = {}
        self._lasting: dict[str, tuple[Done, str]] = {}

    @property
    def wildcard(self) -> str:
        """The subject to subscribe to."""
        return self._prefix + "*"

    @property
    def busy(self) -> bool:
        """Whether a request is open that has a deadline."""
        return bool(self._open)

    def open(self, subject: str, done: Done, deadline: float) -> str:
        """An inbox for the one answer of a request to `subject`."""
        self._count = number = self._count + 1
        token = str(number)
        self._open[token] = (done, deadline, number, subject)
        return self._prefix + token

    def last(self, subject: str, done: Done) -> str:
        """An inbox that stays until `forget`. It hears None after a reconnect: something may have been missed."""
        self._count += 1
        token = str(self._count)
        self._lasting[token] = (done, subject)
        return self._prefix + token

    def forget(self, inbox: str) -> None:
        """Nobody waits at this inbox any more."""
        token = inbox[self._skip :]
        self._open.pop(token, None)
        self._lasting.pop(token, None)

    def deliver(self, subject: str, data: bytes, headers: Mapping[str, str] | None) -> None:
        """Hand an answer to its owner; late ones are dropped."""
        token = subject[self._skip :]
        route = self._open.pop(token, None)
        if route is not None:
            route[0](Reply(data, headers))
        elif (lasting := self._lasting.get(token)) is not None:
            lasting[0](Reply(data, headers))

    def sweep(self, now: float) -> None:
        """Give up the requests whose deadline has passed."""
        late = [token for token, route in self._open.items() if route[1] <= now]
        for token in late:
            self._defer(self._open.pop(token)[0], None)

    def lose(self) -> None:
        """The connection is gone: what was asked so far can no longer be answered."""
        self._lost = self._count

    def give_up_lost(self) -> None:
        """There is a new connection: tell the owners of lost requests, so that they ask again."""
        lost = [token for token, route in self._open.items() if route[2] <= self._lost]
        for token in lost:
            self._defer(self._open.pop(token)[0], None)
        for done, _ in self._lasting.values():
            self._defer(done, None)

    def give_up_all(self) -> None:
        """There will be no other connection."""
        self.lose()
        self.give_up_lost()
        self._lasting.clear()

    def deny(self, subject: str, error: Callable[[str], PermissionDeniedError]) -> bool:
        """The server denied publishing to `subject`, which it names in lower case (nats-py folds it).

        Returns whether anybody waits for an answer, and so gets this one.
        """
        heard = False
        denied = [token for token, route in self._open.items() if route[3].lower() == subject]
        for token in denied:
            done, _, _, asked = self._open.pop(token)
            self._defer(done, Reply(b"", None, error(asked)))
            heard = True
        for done, asked in self._lasting.values():
            if asked.lower() == subject:
                self._defer(done, Reply(b"", None, error(asked)))
                heard = True
        return heard

    def deny_all(self, error: PermissionDeniedError) -> None:
        """The server denied the inbox itself: no answer can ever come."""
        for route in self._open.values():
            self._defer(route[0], Reply(b"", None, error))
        self._open.clear()
