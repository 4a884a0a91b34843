"""What cannot be stored is refused when an App is made, by function and parameter, before anything is called."""

from __future__ import annotations

import socket
import sys
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from romancy_nats import App, ConfigurationError, WorkflowContext, activity, compensation, workflow


class Old(typing.TypedDict):
    a: int


@dataclass
class Holder:
    old: Old


@activity
async def takes_socket(connection: socket.socket) -> None: ...


@activity
async def gives_socket() -> socket.socket:
    raise NotImplementedError


@compensation
async def undo(connection: socket.socket) -> None: ...


@activity(compensation=undo)
async def compensated(connection: int) -> None: ...


def inner(ctx: WorkflowContext) -> Any:
    return ctx.run(takes_socket)  # type: ignore[call-arg]


async def by_parameter(ctx: WorkflowContext, connection: socket.socket) -> None: ...
async def by_result(ctx: WorkflowContext) -> socket.socket:
    raise NotImplementedError


async def by_list(ctx: WorkflowContext, *, many: dict[str, list[socket.socket]]) -> None: ...
async def by_more(ctx: WorkflowContext, **more: socket.socket) -> None: ...
async def by_function(ctx: WorkflowContext, call: Callable[[], int] | None) -> None: ...
async def by_name(ctx: WorkflowContext, it: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821
async def by_no_type(ctx: WorkflowContext, it: 3) -> None: ...  # type: ignore[valid-type]
async def by_old(ctx: WorkflowContext, it: Holder) -> None: ...


async def by_activity(ctx: WorkflowContext) -> None:
    await ctx.run(takes_socket)  # type: ignore[call-arg]


async def by_activity_result(ctx: WorkflowContext) -> None:
    await ctx.run(gives_socket)


async def by_compensation(ctx: WorkflowContext) -> None:
    await ctx.run(compensated, 1)


async def by_own_function(ctx: WorkflowContext) -> None:
    await inner(ctx)


async def by_lambda(ctx: WorkflowContext) -> None:
    await (lambda: ctx.run(takes_socket))()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (
            by_parameter,
            r"by_parameter\(\): argument 'connection': pydantic has no schema for .*use plain types",
        ),
        (by_result, r"by_result\(\): the result: pydantic has no schema"),
        (by_list, r"by_list\(\): argument 'many'"),
        (by_more, r"by_more\(\): argument 'more'"),
        (by_function, r"by_function\(\): argument 'call': .*cannot be stored; pass plain values"),
        (by_name, r"by_name: the annotation of 'it', 'Missing', cannot be resolved"),
        (by_no_type, r"by_no_type\(\): argument 'it': pydantic has no schema for 3;"),
        (by_activity, r"takes_socket\(\): argument 'connection'"),
        (by_activity_result, r"gives_socket\(\): the result"),
        (by_compensation, r"undo\(\): argument 'connection'"),
        (by_own_function, r"takes_socket\(\): argument 'connection'"),
        (by_lambda, r"takes_socket\(\): argument 'connection'"),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_it_is_refused_by_name(function: Any, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        App("app", workflows=[workflow(function)])


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="pydantic takes typing.TypedDict from there on")
def test_an_old_typed_dict_in_a_class_says_what_to_write() -> None:
    with pytest.raises(ConfigurationError, match=r"by_old\(\): argument 'it': .*typing_extensions.TypedDict"):
        App("app", workflows=[workflow(by_old)])


def test_all_is_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        App("app", workflows=[workflow(by_parameter), workflow(by_activity), workflow(by_result)])
    assert len(str(caught.value).splitlines()) == 3


def test_a_closure_and_what_is_defined_later() -> None:
    @activity
    async def local(it: socket.socket) -> None: ...

    @workflow
    async def closing(ctx: WorkflowContext, later: Later) -> None:
        await ctx.run(local)  # type: ignore[call-arg]

    with pytest.raises(ConfigurationError, match=r"local\(\): argument 'it'"):
        App("app", workflows=[closing])

    @workflow
    async def waiting(ctx: WorkflowContext, later: Later) -> Later:
        return later

    App("app", workflows=[waiting])


@dataclass
class Later:
    a: int
