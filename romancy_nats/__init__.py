"""Durable workflows on NATS JetStream: a workflow is a fold over its history, NATS is the only store."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from romancy_nats.app import App
from romancy_nats.client.client import Client
from romancy_nats.client.handle import WorkflowHandle
from romancy_nats.client.info import CompensationInfo, InstanceInfo
from romancy_nats.client.watch import WatchItem
from romancy_nats.core.activity import Activity, activity, compensation
from romancy_nats.core.context import WorkflowContext, current_workflow
from romancy_nats.core.definition import Workflow, workflow
from romancy_nats.core.described import PendingActivityInfo
from romancy_nats.core.received import ReceivedEvent, ReceivedMessage
from romancy_nats.core.record import InstanceStatus
from romancy_nats.core.retry import RetryPolicy
from romancy_nats.errors import (
    ActivityError,
    ActivityTimeoutError,
    AmbiguousInstanceError,
    ConfigurationError,
    ConnectionLostError,
    DeterminismError,
    DuplicateIdError,
    EventTimeoutError,
    InstanceConflictError,
    InstanceEndedError,
    InstanceNotFoundError,
    InvalidNameError,
    JetStreamDisabledError,
    MessageTimeoutError,
    PayloadError,
    PayloadTooLargeError,
    PermissionDeniedError,
    QueryError,
    ResultTimeoutError,
    RetentionError,
    RetryExhaustedError,
    RomancyError,
    ServerBinaryMissingError,
    ServerError,
    ServerStartError,
    ServerTooOldError,
    ServerUnavailableError,
    StartRejectedError,
    StepTooLongError,
    StorageError,
    StreamMissingError,
    TerminalError,
    UpdateFailedError,
    UpdateRejectedError,
    WorkflowCancelledError,
    WorkflowError,
    WorkflowFailedError,
    WorkflowIOError,
    WorkflowRuleError,
    WorkflowStalledError,
    WorkflowTerminatedError,
    WorkflowTimeoutError,
)
from romancy_nats.runtime.activity_context import ActivityContext, activity_context
from romancy_nats.settings import Settings
from romancy_nats.worker import Worker

try:
    __version__ = version("romancy-nats")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0"

__all__ = [
    "Activity",
    "ActivityContext",
    "ActivityError",
    "ActivityTimeoutError",
    "AmbiguousInstanceError",
    "App",
    "Client",
    "CompensationInfo",
    "ConfigurationError",
    "ConnectionLostError",
    "DeterminismError",
    "DuplicateIdError",
    "EventTimeoutError",
    "InstanceConflictError",
    "InstanceEndedError",
    "InstanceInfo",
    "InstanceNotFoundError",
    "InstanceStatus",
    "InvalidNameError",
    "JetStreamDisabledError",
    "MessageTimeoutError",
    "PayloadError",
    "PayloadTooLargeError",
    "PendingActivityInfo",
    "PermissionDeniedError",
    "QueryError",
    "ReceivedEvent",
    "ReceivedMessage",
    "ResultTimeoutError",
    "RetentionError",
    "RetryExhaustedError",
    "RetryPolicy",
    "RomancyError",
    "ServerBinaryMissingError",
    "ServerError",
    "ServerStartError",
    "ServerTooOldError",
    "ServerUnavailableError",
    "Settings",
    "StartRejectedError",
    "StepTooLongError",
    "StorageError",
    "StreamMissingError",
    "TerminalError",
    "UpdateFailedError",
    "UpdateRejectedError",
    "WatchItem",
    "Worker",
    "Workflow",
    "WorkflowCancelledError",
    "WorkflowContext",
    "WorkflowError",
    "WorkflowFailedError",
    "WorkflowHandle",
    "WorkflowIOError",
    "WorkflowRuleError",
    "WorkflowStalledError",
    "WorkflowTerminatedError",
    "WorkflowTimeoutError",
    "activity",
    "activity_context",
    "compensation",
    "current_workflow",
    "workflow",
]
