"""Workflows: what a user defines of them, with their types, and the options of one start. Nothing here runs them."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from romancy_nats.core.codecs import Codecs
from romancy_nats.core.context import WorkflowContext
from romancy_nats.core.decorating import check_options, check_workflow_function
from romancy_nats.core.ids import check_name
from romancy_nats.core.retry import Duration
from romancy_nats.core.start_options import OnConflict, StartOptions
from romancy_nats.core.user_function import UserFunction, name_of, names_around
from romancy_nats.errors import ConfigurationError

P = ParamSpec("P")
R = TypeVar("R")


class Workflow(UserFunction[R], Generic[P, R]):
    """A workflow: an `async def` whose first parameter is the context. Calling it directly is a plain call."""

    def __init__(
        self,
        fn: Callable[Concatenate[WorkflowContext, P], Coroutine[Any, Any, R]],
        *,
        name: str | None = None,
        max_concurrency: int | None = None,
    ) -> None:
        if isinstance(fn, UserFunction):
            raise ConfigurationError(f"{fn!r} is decorated already: a function is one activity or workflow")
        check_workflow_function(fn, WorkflowContext)
        most: Any = max_concurrency
        if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 1):
            raise ConfigurationError(
                f"@workflow(max_concurrency=…) is a whole number, 1 or more, or None for no limit, not {most!r}"
            )
        checked = check_name(name_of(fn) if name is None else name)
        super().__init__(fn, checked, Codecs[R](fn, names_around(fn), skip_first=True))
        self.fn = fn
        self.max_concurrency = max_concurrency
        self.start_options = StartOptions()
        self.code = _code_version(fn)

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
        other = self._copy()
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


def _code_version(fn: Callable[..., object]) -> str:
    try:
        text = inspect.getsource(fn).encode()
    except (OSError, TypeError):
        code = getattr(fn, "__code__", None)
        text = code.co_code if code is not None else repr(fn).encode()
    return hashlib.sha256(text).hexdigest()[:12]
