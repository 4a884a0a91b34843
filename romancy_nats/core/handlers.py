"""Queries and updates: the handlers that workflow code registered, and the updates that wait for one."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from romancy_nats.core.answers import Answers
from romancy_nats.core.conversions import Conversions
from romancy_nats.core.error_text import is_one_of, shown
from romancy_nats.core.events import Command, UpdateAnswered, UpdateRequested
from romancy_nats.core.eviction import refuse_call
from romancy_nats.core.failure import Failure
from romancy_nats.core.ids import check_text
from romancy_nats.core.loop import DeterministicLoop, current_loop
from romancy_nats.core.parameters import NO_ARGUMENTS, Call, Parameters
from romancy_nats.core.plain import decode_plain
from romancy_nats.core.record import LONGEST_ERROR
from romancy_nats.core.tasks import RecurredElsewhere
from romancy_nats.errors import ConfigurationError, PayloadError, QueryError, RomancyError

_ENVELOPE_BYTES = 200


@dataclass(slots=True)
class Handler:
    """A function that callers outside may reach by name."""

    fn: Callable[..., Any]
    parameters: Parameters
    validate: Callable[..., object] | None = None


class Handlers:
    """Queries answer at once and change nothing; updates run as tasks of the workflow and are recorded."""

    def __init__(
        self,
        emit: Callable[[Command], None],
        spawn: Callable[[Any], asyncio.Task[Any]],
        encode_value: Callable[[object, str], bytes],
        encode_failure: Callable[[BaseException], bytes],
        conversions: Conversions,
        unwinds: Callable[[], bool],
    ) -> None:
        """`unwinds`: whether the body of the workflow has ended, and what is left of its tasks is cancelled."""
        self._emit = emit
        self._spawn = spawn
        self._encode_value = encode_value
        self._encode_failure = encode_failure
        self._conversions = conversions
        self._unwinds = unwinds
        self._queries: dict[str, Handler] = {}
        self._updates: dict[str, Handler] = {}
        self._early: list[UpdateRequested] = []
        self.running: dict[str, UpdateRequested] = {}
        self.inboxes: dict[str, str] = {}
        """Where the callers of updates wait."""
        self.answered = Answers()
        self.left: dict[str, None] = {}
        """The updates that the next generation has."""

    def close(self) -> None:
        """The code is evicted: nothing is to refer to whom it belonged."""
        self._emit = self._spawn = self._encode_value = self._encode_failure = self._unwinds = refuse_call
        self._queries.clear()
        self._updates.clear()

    def on_query(self, name: str, fn: Callable[..., Any]) -> None:
        """Answer queries of this name with `fn`."""
        check_text(name, "the name of a query")
        _check_function(fn, f"ctx.on_query({name!r}, …)")
        self._queries[name] = Handler(fn, Parameters(fn))

    def on_update(self, name: str, fn: Callable[..., Any], validate: Callable[..., object] | None) -> None:
        """Carry out updates of this name with `fn`; those that came too early begin now, in order."""
        check_text(name, "the name of an update")
        _check_function(fn, f"ctx.on_update({name!r}, …)")
        _check_function(validate or fn, f"ctx.on_update({name!r}, …, validate=…)")
        if inspect.iscoroutinefunction(validate):
            raise ConfigurationError(f"the validator of update {name!r} is a plain function: it only looks")
        self._updates[name] = Handler(fn, Parameters(fn), validate)
        early, self._early = self._early, []
        for request in early:
            self.update(request)

    def query(self, name: str, body: object) -> bytes:
        """The answer to a query, encoded; raises QueryError."""
        handler = self._queries.get(name)
        if handler is None:
            known = ", ".join(sorted(self._queries)) or "none yet"
            raise QueryError(f"the workflow answers no query {name!r} (it knows: {known})")
        try:
            args, kwargs = handler.parameters.decode(handler.parameters.from_plain(body))
            answer = handler.fn(*args, **kwargs)
            if inspect.iscoroutine(answer):
                answer = _at_once(answer, name)
            return self._encode_value(answer, f"the answer of query {name!r}")
        except QueryError:
            raise
        except BaseException as error:
            raise QueryError(f"query {name!r} failed: {shown(error, LONGEST_ERROR)}") from error

    def update(self, request: UpdateRequested) -> None:
        """An update arrived: begin it, or keep it until its handler is there."""
        self.running[request.id] = request
        if request.reply_to:
            self.inboxes[request.id] = request.reply_to
        handler = self._updates.get(request.name)
        if handler is None:
            self._early.append(request)
            return
        self._spawn(self._carry_out(handler, request))

    async def _carry_out(self, handler: Handler, request: UpdateRequested) -> None:
        try:
            args, kwargs = self._arguments(handler.parameters, request)
            if handler.validate is not None:
                handler.validate(*args, **kwargs)
        except BaseException as error:
            if self._is_interrupted(error):
                raise
            self._answer(UpdateAnswered(request.id, failure=self._encode_failure(error), rejected=True))
            return
        what = f"the result of update {request.name!r}"
        try:
            result = handler.fn(*args, **kwargs)
            if inspect.isawaitable(result):
                result = await result
            answered = UpdateAnswered(request.id, result=self._encode_value(result, what))
        except BaseException as error:
            if self._is_interrupted(error):
                raise
            answered = UpdateAnswered(request.id, failure=self._encode_failure(error))
        self._answer(answered)

    def _arguments(self, parameters: Parameters, request: UpdateRequested) -> Call:
        """The arguments of an update: as they were recorded when it was carried out first, or made of its body."""
        recorded = self._conversions.recorded(request)
        if recorded is not None:
            try:
                call = parameters.decode(recorded)
            except PayloadError:
                """The handler takes something else by now: it converts the body itself."""
            else:
                self._conversions.made(request, recorded)
                return call
        data = parameters.from_plain(decode_plain(request.input))
        call = parameters.decode(data)
        if data != NO_ARGUMENTS:
            self._conversions.made(request, data)
        return call

    def _is_interrupted(self, error: BaseException) -> bool:
        """Whether a handler did not end by itself: its workflow ended, its code is evicted or freed, or it recurred."""
        loop = current_loop()
        if (
            not isinstance(loop, DeterministicLoop)
            or not loop.in_step
            or is_one_of(error, (RecurredElsewhere,))
        ):
            return True
        return is_one_of(error, (asyncio.CancelledError,)) and self._unwinds()

    def _answer(self, answered: UpdateAnswered) -> None:
        if self.running.pop(answered.id, None) is not None:
            self.answered.add(answered)
            self._emit(answered)

    def waiting(self, most: int) -> list[UpdateRequested]:
        """The updates that wait for their handler, oldest first, as many as fit into `most` bytes."""
        kept: list[UpdateRequested] = []
        for request in self._early:
            most -= len(request.input) + len(request.name) + len(request.id) + _ENVELOPE_BYTES
            if most < 0:
                break
            kept.append(request)
        return kept

    def carried_over(self, requests: Iterable[UpdateRequested]) -> None:
        """The next generation has these: they are neither answered nor rejected in this one."""
        for request in requests:
            self._early.remove(request)
            del self.running[request.id]
            self.inboxes.pop(request.id, None)
            self.left[request.id] = None

    def reject_all(self) -> None:
        """The instance ends: nobody will carry out what is left."""
        if not self.running:
            return
        failure = Failure.of(RomancyError("the instance ended before the update was carried out")).encode()
        for id in list(self.running):
            self._answer(UpdateAnswered(id, failure=failure, rejected=True))
        self._early.clear()


def _check_function(fn: object, call: str) -> None:
    if not callable(fn):
        raise ConfigurationError(f"{call} takes a function, not {type(fn).__name__}")


def _at_once(coroutine: Any, name: str) -> Any:
    """A query handler may be `async def`, but it has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    raise QueryError(f"query {name!r} waits for something; a query only looks")
