"""What decorators refuse, and what they advise instead: functions and options that make no activity or workflow."""

from __future__ import annotations

import difflib
import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping
from inspect import Parameter
from typing import Any

from romancy_nats.core.annotations import resolve, signature
from romancy_nats.errors import ConfigurationError, PayloadError

_POLICY = "retry=RetryPolicy(max_attempts=…)"
_MEANT = {
    "retries": "retry=RetryPolicy(max_attempts=…), which counts the first attempt, too",
    "max_retries": "retry=RetryPolicy(max_attempts=…), which counts the first attempt, too",
    "attempts": _POLICY,
    "max_attempts": _POLICY,
    "tries": _POLICY,
    "retry_policy": "retry=RetryPolicy(…)",
    "backoff": "retry=RetryPolicy(initial_interval=…, backoff_coefficient=…)",
    "delay": "retry=RetryPolicy(initial_interval=…)",
    "start_to_close_timeout": "timeout=…, for one attempt",
    "heartbeat_timeout": "heartbeat=…",
    "compensate": "compensation=…",
    "undo": "compensation=…",
    "rollback": "compensation=…",
    "threads": "max_threads=…",
    "concurrency": "max_threads=… for an activity, max_concurrency=… for a workflow",
    "id": "options(id=…), where it is called or started",
    "retry": "it at the activities, @activity(retry=RetryPolicy(…)), or App(default_retry=…) for all of them",
    "activities": "no list of activities: each is known by the workflow that calls it",
}
"""What is written by people who know another library, and what it is called here."""
_OF_A_START = {"timeout", "attributes", "memo", "retention", "start_delay", "start_at", "on_conflict"}


def check_options(what: str, given: Collection[str], known: Collection[str]) -> None:
    """Raises ConfigurationError for an option that is none, with what may have been meant."""
    for name in given:
        if name in known:
            continue
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        if what == "@workflow" and name in _OF_A_START:
            meant = f"; it belongs to a start: write workflow.options({name}=…) where you start it"
        elif name in _MEANT:
            meant = f"; write {_MEANT[name]}"
        elif close:
            meant = f"; did you mean {close[0]}=…?"
        else:
            meant = ""
        raise ConfigurationError(f"{what} has no option {name!r}{meant}. It has: {', '.join(known)}")


def shown(fn: object) -> str:
    """A function as the user knows it."""
    return repr(getattr(fn, "__qualname__", None) or getattr(fn, "__name__", None) or fn)


def check_activity_function(fn: Any) -> None:
    """Raises ConfigurationError for what cannot be an activity."""
    if isinstance(fn, type):
        raise ConfigurationError(f"{shown(fn)} is a class; @activity and @compensation decorate functions")
    if not callable(fn):
        raise ConfigurationError(f"@activity and @compensation decorate functions, not {fn!r}")
    if inspect.isasyncgenfunction(fn) or inspect.isgeneratorfunction(fn):
        raise ConfigurationError(f"{shown(fn)} is a generator; an activity returns one value")


def check_workflow_function(fn: Any, context: type) -> None:
    """Raises ConfigurationError for what cannot be a workflow. `context` is the class of its first parameter."""
    name = getattr(fn, "__name__", "f")
    advice = f"write `async def {name}(ctx: WorkflowContext, …)`"
    if isinstance(fn, type):
        raise ConfigurationError(f"{shown(fn)} is a class; @workflow decorates a function: {advice}")
    if inspect.isasyncgenfunction(fn):
        raise ConfigurationError(f"{shown(fn)} yields; a workflow returns one value: {advice}")
    if not inspect.iscoroutinefunction(fn):
        raise ConfigurationError(f"a workflow is an `async def`; {shown(fn)} is not: {advice}")
    parameters = list(signature(fn).parameters.values())
    if not parameters:
        raise ConfigurationError(f"workflow {shown(fn)} does not take the context: {advice}")
    first = parameters[0]
    if first.name in ("self", "cls") and _in_class(fn):
        raise ConfigurationError(
            f"{shown(fn)} is a method; a workflow is a function, whose state is in its history: {advice} "
            "outside of the class"
        )
    if first.kind not in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD):
        raise ConfigurationError(
            f"workflow {shown(fn)} must take the context as its first positional parameter, not as "
            f"`{first}`: {advice}"
        )
    try:
        annotation = resolve(fn, repr(first.name), first.annotation, {})
    except PayloadError:
        return  # a name that is known to type checkers only
    if not _may_be(annotation, context):
        raise ConfigurationError(
            f"the first parameter of workflow {shown(fn)} is {str(first)!r}, but it gets the context: {advice}"
        )


def _in_class(fn: object) -> bool:
    return "." in str(getattr(fn, "__qualname__", "")).rpartition("<locals>.")[2]


def _may_be(annotation: Any, wanted: type) -> bool:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _may_be(typing.get_args(annotation)[0], wanted)
    if origin in (typing.Union, types.UnionType):
        return any(_may_be(one, wanted) for one in typing.get_args(annotation))
    kind = origin or annotation
    if kind is Any or not isinstance(kind, type) or getattr(kind, "_is_protocol", False):
        return True  # Any, a type variable, a protocol
    return issubclass(wanted, kind) or issubclass(kind, wanted)


def check_compensation(activity: str, fn: Callable[..., object], undo: Callable[..., object]) -> None:
    """Raises ConfigurationError when a compensation needs a parameter that its activity does not have.

    It gets the arguments of the activity by name, as far as it takes them, and `result`.
    """
    try:
        taken, given = signature(undo).parameters, signature(fn).parameters
    except (TypeError, ValueError):
        return  # a builtin that does not say what it takes
    if any(one.kind is Parameter.VAR_KEYWORD for one in given.values()):
        return
    for name, parameter in taken.items():
        packed = parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
        if packed or parameter.default is not Parameter.empty or name in given or name == "result":
            continue
        raise ConfigurationError(
            f"activity {activity!r}: its compensation {shown(undo)} takes {name!r}, which the activity does not; "
            f"it may take {_names(given)}. Rename the parameter, or give it a default"
        )


def _names(given: Mapping[str, Parameter]) -> str:
    return ", ".join([name for name in given if name not in ("self", "result")] + ["result"])


def is_method_of_same(fn: Callable[..., object], undo: Callable[..., object]) -> bool:
    """Whether a compensation is an unbound method beside the activity that it undoes, so that one object binds both."""
    here, there = (str(getattr(one, "__qualname__", "")).rpartition(".")[0] for one in (fn, undo))
    return isinstance(undo, types.FunctionType) and _in_class(undo) and here == there
