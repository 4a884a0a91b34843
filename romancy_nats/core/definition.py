"""What a user defines: activities, compensations and workflows, with their types. Nothing here runs them."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from types import FrameType
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Protocol,
    TypeVar,
    cast,
    get_origin,
    overload,
)

from romancy_nats.core.codecs import Codecs
from romancy_nats.core.current import current_workflow
from romancy_nats.core.decorating import (
    check_activity_function,
    check_compensation,
    check_options,
    check_workflow_function,
    is_method_of_same,
)
from romancy_nats.core.error_text import class_key
from romancy_nats.core.ids import check_id, check_name
from romancy_nats.core.parameters import Parameters
from romancy_nats.core.payload import ValueCodec
from romancy_nats.core.retry import Duration, ErrorClasses, RetryPolicy, checked_limit, error_classes
from romancy_nats.core.start_options import OnConflict, StartOptions
from romancy_nats.errors import ConfigurationError, WorkflowRuleError

if TYPE_CHECKING:
    from typing import Self

    from romancy_nats.core.context import WorkflowContext

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
P2 = ParamSpec("P2")

_ACTIVITY_OPTIONS = ("name", "compensation", "retry", "timeout", "heartbeat", "errors", "max_threads")

registered_errors: dict[str, type[BaseException]] = {}
"""Every class named in an `errors=[…]`: a client rebuilds the cause of a failure from these."""


class Activity(Generic[P, R]):
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
        self.fn = fn
        self.name = check_name(_name_of(fn) if name is None else name, "the name of an activity")
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
        self.__doc__ = fn.__doc__
        self.__wrapped__ = fn
        self._codecs: Codecs[R] = Codecs(fn, _local_names(fn))

    @property
    def parameters(self) -> Parameters:
        """The codec of the arguments."""
        return self._codecs.parameters

    @property
    def result(self) -> ValueCodec[R]:
        """The codec of the result."""
        return self._codecs.result

    def options(
        self,
        *,
        id: str | None = None,
        timeout: Duration | None = None,
        retry: RetryPolicy | None = None,
        heartbeat: Duration | None = None,
    ) -> Self:
        """The same activity with other options for one call; `id` becomes its `activity_id` exactly."""
        other = _copy(self)
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
        if isinstance(given, (Workflow, type)) or not callable(given):
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
        other = _copy(self)
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
        context = current_workflow()
        if context is not None:
            return context.run(self, *args, **kwargs)
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
        if current_workflow() is not None:
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
        if isinstance(fn, (Activity, Workflow)):
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


def _make(fn: Any, **options: Any) -> Activity[..., Any]:
    check_activity_function(fn)
    if is_async_callable(fn):
        return AsyncActivity[..., Any](fn, **options)
    return SyncActivity[..., Any](fn, **options)


class Workflow(Generic[P, R]):
    """A workflow: an `async def` whose first parameter is the context. Calling it directly is a plain call."""

    def __init__(
        self,
        fn: Callable[Concatenate[WorkflowContext, P], Coroutine[Any, Any, R]],
        *,
        name: str | None = None,
        max_concurrency: int | None = None,
    ) -> None:
        from romancy_nats.core.context import WorkflowContext

        if isinstance(fn, (Activity, Workflow)):
            raise ConfigurationError(f"{fn!r} is decorated already: a function is one activity or workflow")
        check_workflow_function(fn, WorkflowContext)
        most: Any = max_concurrency
        if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 1):
            raise ConfigurationError(
                f"@workflow(max_concurrency=…) is a whole number, 1 or more, or None for no limit, not {most!r}"
            )
        self.fn = fn
        self.name = check_name(_name_of(fn) if name is None else name)
        self.max_concurrency = max_concurrency
        self.start_options = StartOptions()
        self.code = _code_version(fn)
        self.__doc__ = fn.__doc__
        self.__wrapped__ = fn
        self._codecs: Codecs[R] = Codecs(fn, _local_names(fn), skip_first=True)

    @property
    def parameters(self) -> Parameters:
        """The codec of the arguments after the context."""
        return self._codecs.parameters

    @property
    def result(self) -> ValueCodec[R]:
        """The codec of the result."""
        return self._codecs.result

    def options(
        self,
        *,
        id: str | None = None,
        timeout: Duration | None = None,
        on_conflict: OnConflict = "join",
        start_delay: Duration | None = None,
        start_at: datetime | None = None,
        attributes: Mapping[str, Any] | None = None,
        memo: Mapping[str, Any] | None = None,
        retention: Duration | None = None,
    ) -> Workflow[P, R]:
        """The same workflow with options for one start.

        It begins `start_delay` after the server has the start, or at `start_at` (aware), and is `queued` until then.
        `attributes` and `memo` (JSON) are kept in its record, which is kept for `retention` once it has ended.
        """
        other = _copy(self)
        other.start_options = StartOptions.checked(
            id=id,
            timeout=timeout,
            on_conflict=on_conflict,
            start_delay=start_delay,
            start_at=start_at,
            attributes=attributes,
            memo=memo,
            retention=retention,
        )
        return other

    def __call__(self, ctx: WorkflowContext, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Call the function directly, without a record."""
        return self.fn(ctx, *args, **kwargs)

    def __repr__(self) -> str:
        return f"<workflow {self.name}>"


class WorkflowDecorator(Protocol):
    """What `@workflow(...)` with options returns."""

    def __call__(
        self, fn: Callable[Concatenate[WorkflowContext, P], Coroutine[Any, Any, R]], /
    ) -> Workflow[P, R]: ...


@overload
def workflow(fn: Callable[Concatenate[WorkflowContext, P], Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...
@overload
def workflow(*, name: str | None = None, max_concurrency: int | None = None) -> WorkflowDecorator: ...
def workflow(fn: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make an `async def` a workflow.

    `max_concurrency` bounds how many instances are at work at once over all workers (those at rest do not count).
    """
    check_options("@workflow", options, ("name", "max_concurrency"))
    if fn is not None:
        return Workflow[..., Any](fn)

    def decorate(fn: Callable[..., Any]) -> Workflow[..., Any]:
        return Workflow[..., Any](fn, **options)

    return decorate


def _name_of(fn: Any) -> str:
    """The name of a function; of an object that wraps one, the name of that one, or else of its class."""
    while isinstance(fn, functools.partial):
        fn = cast("Any", fn).func
    name = getattr(fn, "__name__", None)
    return name if isinstance(name, str) else type(fn).__name__


def _local_names(fn: Callable[..., object]) -> dict[str, object]:
    """The classes in the scope around a nested function: its annotations may name them, and nobody else can."""
    if "<locals>" not in getattr(fn, "__qualname__", ""):
        return {}
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    if frame is None:
        return {}
    return {
        name: value for name, value in frame.f_locals.items() if isinstance(value, type) or get_origin(value)
    }


def _copy(original: S) -> S:
    other = object.__new__(type(original))
    other.__dict__.update(original.__dict__)
    return other


def _code_version(fn: Callable[..., object]) -> str:
    try:
        text = inspect.getsource(fn).encode()
    except (OSError, TypeError):
        code = getattr(fn, "__code__", None)
        text = code.co_code if code is not None else repr(fn).encode()
    return hashlib.sha256(text).hexdigest()[:12]
