"""The activities behind `ctx.send_event` and `ctx.send_to`: recorded like any other; the worker lends the functions."""

from __future__ import annotations

from typing import Any

from romancy_nats.core.activity import AsyncActivity
from romancy_nats.core.retry import RetryPolicy
from romancy_nats.errors import (
    ConfigurationError,
    InstanceEndedError,
    InstanceNotFoundError,
    InvalidNameError,
    PayloadError,
)

_FINAL = (InstanceNotFoundError, InstanceEndedError, InvalidNameError, PayloadError)
UNTIL_SENT = RetryPolicy(max_attempts=0, max_interval=10.0, non_retryable=_FINAL)


async def _send_event(type: str, data: Any, key: str | None) -> None:
    raise ConfigurationError("events are sent by a worker; call ctx.send_event in a workflow")


async def _send_to(workflow: str, id: str, channel: str, data: Any, order: int = 0) -> None:
    raise ConfigurationError("messages are sent by a worker; call ctx.send_to in a workflow")


send_event: AsyncActivity[[str, Any, str | None], None] = AsyncActivity(
    _send_event, name="romancy.send_event", retry=UNTIL_SENT, errors=_FINAL
)
send_to: AsyncActivity[[str, str, str, Any, int], None] = AsyncActivity(
    _send_to, name="romancy.send_to", retry=UNTIL_SENT, errors=_FINAL
)
