"""What a user may type on the objects of this package: these names, each described, and no others."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest

import romancy_nats
from romancy_nats import App, Client, Worker, Workflow, WorkflowContext, WorkflowHandle, workflow

NAMES: dict[type, set[str]] = {
    Client: {"connect", "start", "execute", "get", "list", "count", "send_event"},
    WorkflowHandle: {
        "id", "workflow", "result", "status", "describe", "history", "cancel", "terminate", "retry", "send", "query",
        "update", "watch",
    },
    App: {"run", "worker", "lifespan", "settings"},
    Worker: {"drain", "wait", "incarnation", "instances"},
}  # fmt: skip


def public(names: object) -> set[str]:
    return {name for name in dir(names) if not name.startswith("_")}


@pytest.mark.parametrize("cls", NAMES, ids=lambda cls: cls.__name__)
def test_a_public_class_has_these_names_and_no_others(cls: type) -> None:
    assert public(cls) == NAMES[cls]


@workflow
async def flow(ctx: WorkflowContext) -> None: ...


def test_an_app_has_what_it_was_made_of() -> None:
    made = public(App("shop", workflows=[flow])) - NAMES[App]
    assert made == {"name", "workflows", "default_retry", "inputs"}


def exported() -> Iterator[tuple[str, object]]:
    for name in romancy_nats.__all__:
        found: object = getattr(romancy_nats, name)
        yield name, found
        if inspect.isclass(found) and found.__module__.startswith("romancy_nats"):
            for member, value in vars(found).items():
                if not member.startswith("_") and (callable(value) or isinstance(value, property)):
                    yield f"{name}.{member}", value


def test_everything_public_is_described() -> None:
    assert [name for name, value in exported() if not inspect.getdoc(value)] == []


def test_a_handle_and_a_workflow_say_what_they_are() -> None:
    assert isinstance(flow, Workflow)
    handle = Client(None).get("order-17", flow)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    assert repr(handle) == "<handle of flow/order-17>"
    assert (handle.id, handle.workflow) == ("order-17", "flow")
