"""What workflow functions name: the activities that an App can know of, and whether all their codecs can be built."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any, cast

from romancy_nats.core.activity import Activity
from romancy_nats.core.definition import Workflow
from romancy_nats.errors import PayloadError

Definition = Activity[..., Any] | Workflow[..., Any]


def misfit_definitions(workflows: Iterable[Workflow[..., Any]]) -> list[str]:
    """Why workflows, and activities that they name, cannot be called: function, parameter and what to write instead."""
    found: dict[str, None] = {}
    for definition in reachable(workflows):
        try:
            definition.parameters.check()
            definition.result.check()
        except PayloadError as error:
            found[f"{definition.fn.__module__}: {error}"] = None
    return list(found)


def reachable(workflows: Iterable[Workflow[..., Any]]) -> Iterator[Definition]:
    """The workflows, and the activities and compensations that they name: in globals and closures, in modules, and in
    functions of their own package that they call."""
    seen: set[int] = set()
    left: list[object] = list(workflows)
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, (Activity, Workflow)):
            definition = cast("Definition", value)
            yield definition
            if isinstance(definition, Workflow):
                left += _named(definition.fn)
            elif definition.compensation is not None:
                left.append(definition.compensation)
        elif isinstance(value, FunctionType):
            left += _named(value)


def _named(fn: Any) -> Iterator[object]:
    """The activities, workflows and functions of the same package that a function names."""
    while not isinstance(fn, FunctionType):
        fn = getattr(fn, "__func__", None) or getattr(fn, "__wrapped__", None)
        if fn is None:
            return
    package = fn.__module__.partition(".")[0]
    names = set(_names(fn.__code__))
    values = [fn.__globals__[name] for name in names if name in fn.__globals__]
    for cell in fn.__closure__ or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:  # not assigned yet
            continue
    for value in list(values):
        if isinstance(value, ModuleType) and value.__name__.partition(".")[0] == package:
            values += [vars(value)[name] for name in names if name in vars(value)]
    for value in values:
        if isinstance(value, (Activity, Workflow)):
            yield cast("object", value)
        elif isinstance(value, FunctionType) and value.__module__.partition(".")[0] == package:
            yield value


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
