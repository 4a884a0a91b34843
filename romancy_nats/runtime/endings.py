"""One log entry for the end of an instance, written by the worker that brought it to rest."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from romancy_nats.core.events import WorkflowFailed
from romancy_nats.core.failure import Failure
from romancy_nats.core.headers import one_line
from romancy_nats.core.record import InstanceStatus
from romancy_nats.core.shown import traceback_text

if TYPE_CHECKING:
    from romancy_nats.runtime.instance import Instance

_log = logging.getLogger("romancy.worker")


def log_end(instance: Instance) -> None:
    """Say how the instance ended: a failure with its traceback, a cancel with its reason. Nothing while it goes on."""
    record, ending = instance.record, instance.execution.state.ending
    if not record.status.ended:
        return
    if isinstance(ending, WorkflowFailed):
        failure = Failure.decode(ending.failure)
        named = one_line(f"{failure.error_type}: {failure.message}")
        extra = {"error_type": failure.error_type}
        _log.warning(
            "%r failed: %s\n%s",
            instance.key,
            named,
            traceback_text(failure, instance.execution.last_failure),
            extra=extra,
        )
    elif record.status is InstanceStatus.COMPLETED:
        _log.debug("%r is completed", instance.key)
    else:
        _log.info("%r is %s: %s", instance.key, record.status, one_line(record.error) or "no reason given")
