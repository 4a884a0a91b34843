"""Activities and compensations: what a user defines of them, with their types. Nothing here runs them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from romancy_nats.core.codecs import Codecs
from romancy_nats.core.current import running_workflow
from romancy_nats.core.decorating import (
    check_activity_function,
    check_compensation,
    check_options,
    is_method_of_same,
)
from romancy_nats.core.error_text import class_key
from romancy_nats.core.ids import check_id, check_name
from romancy_nats.core.retry import Duration, ErrorClasses, RetryPolicy, checked_limit, error_classes
from romancy_nats.core.user_function import UserFunction, name_of, names_around
from romancy_nats.errors import ConfigurationError, WorkflowRuleError

if TYPE_CHECKING:
    from typing import Self

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
P2 = ParamSpec("P2")

_ACTIVITY_OPTIONS = ("name", "compensation", "retry", "timeout", "heartbeat", "errors", "max_threads")

registered_errors: dict[str, type[BaseException]] = {}
"""Every class named in an `errors=[…]`: a client rebuilds the cause of a failure from these."""


class Activity(UserFunction[R], Generic[P, R]):
    """A function whose result is recorded: `ctx.run(it, …)` in workflow code runs it once and replays its result.

    Outside workflow code (in activities, steps, tests, scripts) calling it is a plain call of the function.
    """

    def __init__(
        self,
        fn: Callable[..., object],
        *,
        name: str | None = None,
        compensation: Callable[..., object] | None = None,
        retry: RetryPolicy | None = None,
        timeout: Duration | None = None,
        heartbeat: Duration | None = None,
        errors: ErrorClasses = (),
        max_threads: int | None = None,
    ) -> None:
        checked = check_name(name_of(fn) if name is None else name, "the name of an activity")
        super().__init__(fn, checked, Codecs[R](fn, names_around(fn)))
        self.fn = fn
        self.is_async = is_async_callable(fn)
        self.compensation = None if compensation is None else self._checked_compensation(compensation)
        self.retry = self._checked_retry(retry)
        self.timeout = self._checked_limit("timeout", timeout)
        self.heartbeat = self._checked_limit("heartbeat", heartbeat)
        self.max_threads = self._checked_threads(max_threads)
        self.errors = {
            class_key(cls): cls for cls in error_classes(errors, f"activity {self.name!r}: errors")
        }
        registered_errors.update(self.errors)
        self.id: str | None = None

    def options(
        self,
        *,
        id: str | None = None,
        timeout: Duration | None = None,
        retry: RetryPolicy | None = None,
        heartbeat: Duration | None = None,
    ) -> Self:
        """The same activity with other options for one call; `id` becomes its `activity_id` exactly."""
        other = self._copy()
        if id is not None:
            other.id = check_id(id, "an activity id")
        if timeout is not None:
            other.timeout = self._checked_limit("timeout", timeout)
        if retry is not None:
            other.retry = self._checked_retry(retry)
        if heartbeat is not None:
            other.heartbeat = self._checked_limit("heartbeat", heartbeat)
        return other

    def _checked_compensation(self, given: Any) -> Activity[..., Any]:
        if not _may_be_activity(given):
            raise ConfigurationError(f"activity {self.name!r}: compensation is a function, not {given!r}")
        undo = as_activity(given)
        check_compensation(self.name, self.fn, undo.fn)
        return undo

    def _checked_limit(self, name: str, given: Duration | None) -> float | None:
        return checked_limit(given, f"activity {self.name!r}: {name}")

    def _checked_retry(self, given: RetryPolicy | None) -> RetryPolicy | None:
        if given is not None and not isinstance(given, RetryPolicy):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"activity {self.name!r}: retry is a RetryPolicy, not {given!r}")
        return given

    def _checked_threads(self, given: Any) -> int | None:
        if given is not None and (not isinstance(given, int) or isinstance(given, bool) or given < 1):
            raise ConfigurationError(
                f"activity {self.name!r}: max_threads is a whole number, 1 or more, not {given!r}"
            )
        return given

    def _bound(self, owner: object) -> Self:
        other = self._copy()
        other.fn = self.fn.__get__(owner)
        if (undo := self.compensation) is not None and is_method_of_same(self.fn, undo.fn):
            other.compensation = undo._bound(owner)
        other._codecs = self._codecs.bound
        return other

    def __repr__(self) -> str:
        return f"<activity {self.name}>"


class AsyncActivity(Activity[P, R]):
    """An activity made from an `async def`."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """In workflow code the same as `ctx.run(it, …)`; everywhere else a plain call, without a record.

        A query handler may not call activities: QueryError there.
        """
        workflow = running_workflow()
        if workflow is not None:
            return workflow.run(self, *args, **kwargs)
        return cast("Coroutine[Any, Any, R]", self.fn(*args, **kwargs))

    @overload
    def __get__(self, owner: None, cls: type) -> AsyncActivity[P, R]: ...
    @overload
    def __get__(self: AsyncActivity[Concatenate[S, P2], R], owner: S, cls: type) -> AsyncActivity[P2, R]: ...
    def __get__(self, owner: Any, cls: type) -> Any:
        """A method that is an activity, bound to its object."""
        return self if owner is None else self._bound(owner)


class SyncActivity(Activity[P, R]):
    """An activity made from a plain function; it runs in a thread."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """A plain call of the function, without a record.

        Raises WorkflowRuleError in workflow code, which the call would block: `await ctx.run(it, …)` there.
        """
        if running_workflow() is not None:
            raise WorkflowRuleError(
                f"{self.name} is a plain function, which runs in a thread; workflow code may not call it directly: "
                f"await ctx.run({self.name}, …)"
            )
        return cast("R", self.fn(*args, **kwargs))

    @overload
    def __get__(self, owner: None, cls: type) -> SyncActivity[P, R]: ...
    @overload
    def __get__(self: SyncActivity[Concatenate[S, P2], R], owner: S, cls: type) -> SyncActivity[P2, R]: ...
    def __get__(self, owner: Any, cls: type) -> Any:
        """A method that is an activity, bound to its object."""
        return self if owner is None else self._bound(owner)


class ActivityDecorator(Protocol):
    """What `@activity(...)` with options returns."""

    @overload
    def __call__(  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
        self, fn: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncActivity[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> SyncActivity[P, R]: ...


@overload
def activity(  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
    fn: Callable[P, Coroutine[Any, Any, R]], /
) -> AsyncActivity[P, R]: ...
@overload
def activity(fn: Callable[P, R], /) -> SyncActivity[P, R]: ...
@overload
def activity(
    *,
    name: str | None = None,
    compensation: Callable[..., object] | None = None,
    retry: RetryPolicy | None = None,
    timeout: Duration | None = None,
    heartbeat: Duration | None = None,
    errors: ErrorClasses = (),
    max_threads: int | None = None,
) -> ActivityDecorator: ...
def activity(fn: Callable[..., object] | None = None, /, **options: Any) -> Any:
    """Make a function an activity: its result is recorded, and replay returns the record.

    `compensation` undoes it in a saga; `timeout` bounds one attempt and `heartbeat` its longest silence (seconds or
    timedelta), both from the moment at which the attempt runs, not while it waits for a thread; `errors` names the
    exception classes that come back to the workflow as themselves; `max_threads` bounds how many calls of a plain
    function run at once on one worker, those among them that were given up and have not ended yet.

    A plain function runs in a thread. What is returned decides: an awaitable is awaited on the loop of the worker,
    so a plain decorator around an `async def`, or an object with an async `__call__`, may be an activity, too.
    """
    check_options("@activity", options, _ACTIVITY_OPTIONS)
    return _decorated(fn, options)


class CompensationDecorator(ActivityDecorator, Protocol):
    """What `@compensation(...)` with options returns."""


@overload
def compensation(  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
    fn: Callable[P, Coroutine[Any, Any, R]], /
) -> AsyncActivity[P, R]: ...
@overload
def compensation(fn: Callable[P, R], /) -> SyncActivity[P, R]: ...
@overload
def compensation(
    *,
    name: str | None = None,
    retry: RetryPolicy | None = None,
    timeout: Duration | None = None,
    heartbeat: Duration | None = None,
    errors: ErrorClasses = (),
    max_threads: int | None = None,
) -> CompensationDecorator: ...
def compensation(fn: Callable[..., object] | None = None, /, **options: Any) -> Any:
    """Make a function a compensation: it is called with the arguments (and `result`) of what it undoes."""
    check_options("@compensation", options, [one for one in _ACTIVITY_OPTIONS if one != "compensation"])
    return _decorated(fn, options)


def _decorated(fn: Callable[..., object] | None, options: dict[str, Any]) -> Any:
    def decorate(fn: Any) -> Activity[..., Any]:
        if isinstance(fn, UserFunction):
            raise ConfigurationError(f"{fn!r} is decorated already: a function is one activity or workflow")
        return _make(fn, **options)

    return decorate if fn is None else decorate(fn)


def is_async_callable(fn: Any) -> bool:
    """Whether calling it only makes a coroutine, so that it may be called on the loop of a worker.

    True for an `async def`, a `functools.partial` or a bound method of one, and an object whose class has an async
    `__call__`. Anything else runs in a thread; if it returns an awaitable after all, that is awaited on the loop.
    """
    call: object = type(fn).__call__ if callable(fn) else None
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(call)


def as_activity(fn: Any) -> Activity[..., Any]:
    """The activity itself, or one made from a plain function."""
    return cast("Activity[..., Any]", fn) if isinstance(fn, Activity) else _make(fn)


def _may_be_activity(given: object) -> bool:
    """Whether it is an activity, or a function that may become one: no workflow, no class."""
    if isinstance(given, (UserFunction, type)):
        return isinstance(given, Activity)
    return callable(given)


def _make(fn: Any, **options: Any) -> Activity[..., Any]:
    check_activity_function(fn)
    if is_async_callable(fn):
        return AsyncActivity[..., Any](fn, **options)
    return SyncActivity[..., Any](fn, **options)
