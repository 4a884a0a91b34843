"""What the kinds of messages to instances mean to both sides."""

from __future__ import annotations

from romancy_nats.core.record import InstanceStatus

ENDING_KINDS = {"cancel": InstanceStatus.CANCELLED, "terminate": InstanceStatus.TERMINATED}
"""The status of an instance that such a message ended before a worker claimed it."""
