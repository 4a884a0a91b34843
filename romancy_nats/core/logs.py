"""What each log record of this package carries beside its text: worker, workflow, instance. Configures no handler.

A record has the attributes `worker`, `workflow`, `instance_id`, `activity_id` and `attempt`, empty (0) where they do
not apply, so that a format may name them: `%(worker)s`.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from romancy_nats.core.current import running_workflow
from romancy_nats.core.ids import InstanceKey

LOGGERS = (
    "romancy.activity",
    "romancy.cli",
    "romancy.client",
    "romancy.connection",
    "romancy.failure",
    "romancy.ledger",
    "romancy.provision",
    "romancy.pull",
    "romancy.wire",
    "romancy.worker",
    "romancy.workflow",
)
"""Every logger of this package. A filter of a parent is not asked about its children's records, so each has one."""

FIELDS: Mapping[str, object] = {
    "worker": "",
    "workflow": "",
    "instance_id": "",
    "activity_id": "",
    "attempt": 0,
}
"""The attributes that a record gets, and what they are where nothing is known."""


class _Label:
    """The name of one worker, which it gets once it has a lease."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


_worker: ContextVar[_Label | None] = ContextVar("romancy_worker", default=None)


@contextmanager
def labelled(text: str) -> Generator[None]:
    """In this block, and in every task begun in it, records say that they are of this worker."""
    before = _worker.get()
    _worker.set(_Label(text))
    try:
        yield
    finally:
        # Not by a token: a block of a web application may be left in another context than it was entered in.
        _worker.set(before)


def rename_worker(text: str) -> None:
    """The worker of the present block is called so from now on."""
    label = _worker.get()
    if label is not None:
        label.text = text


def worker_label() -> str:
    """The worker that the present asyncio context belongs to; "" for none."""
    label = _worker.get()
    return "" if label is None else label.text


class _Fields(logging.Filter):
    """Adds the fields that a record lacks; lets every record pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        known = record.__dict__
        if (workflow := running_workflow()) is not None:
            # Workflow code runs in a context of its own, which knows nothing of the worker.
            known.setdefault("worker", workflow.worker_id)
            known.setdefault("workflow", workflow.workflow_name)
            known.setdefault("instance_id", workflow.instance_id)
        known.setdefault("worker", worker_label())
        if isinstance(record.args, tuple):
            # A text that names an instance is about that instance.
            for argument in record.args:
                if isinstance(argument, InstanceKey):
                    known.setdefault("workflow", argument.workflow)
                    known.setdefault("instance_id", argument.id)
                    break
        for name, nothing in FIELDS.items():
            known.setdefault(name, nothing)
        return True


_FIELDS = _Fields()
for _name in LOGGERS:
    logging.getLogger(_name).addFilter(_FIELDS)
