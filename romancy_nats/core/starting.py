"""A start message: its headers and body, read and written. Bytes only; whoever sends or pulls it is elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from romancy_nats.core.definition import Workflow
from romancy_nats.core.headers import (
    CONFLICT,
    CONTENT_TYPE,
    MESSAGE_ID,
    NOTIFY,
    REPLY_TO,
    TIMEOUT,
    TOKEN,
    TRACE,
    named_id,
)
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.limits import parse_body
from romancy_nats.core.parameters import fingerprint
from romancy_nats.errors import PayloadError, RomancyError, StartRejectedError

CANONICAL = "application/vnd.romancy.input"
"""The canonical arguments, as this package encodes them: nothing to normalise."""


@dataclass(slots=True, frozen=True)
class StartRequest:
    """A start that can be carried out. `input` is canonical, so equal calls have equal fingerprints."""

    key: InstanceKey
    input: bytes
    fingerprint: str
    timeout: float = 0.0
    reply_to: str = ""
    notify: str = ""
    trace: str = ""
    on_conflict: str = "join"


def read_start(
    workflow: Workflow[..., Any], headers: Mapping[str, str], body: bytes, fallback_id: str, max_message: int
) -> StartRequest:
    """Read a start message of any origin; raises StartRejectedError with the reason (cause: what was wrong)."""
    try:
        key = InstanceKey(workflow.name, named_id(headers) or fallback_id)
        input = _canonical(workflow, headers.get(CONTENT_TYPE), body, max_message)
        timeout = _seconds(headers.get(TIMEOUT))
    except RomancyError as error:
        raise StartRejectedError(str(error), workflow=workflow.name) from error
    return StartRequest(
        key,
        input,
        fingerprint(input),
        timeout,
        headers.get(REPLY_TO, ""),
        headers.get(NOTIFY, ""),
        headers.get(TRACE, ""),
        headers.get(CONFLICT, "join"),
    )


def _canonical(
    workflow: Workflow[..., Any], content_type: str | None, body: bytes, max_message: int
) -> bytes:
    if content_type == CANONICAL:
        return workflow.parameters.canonical(body, max_bytes=max_message)
    plain: object = parse_body(body, content_type, max_bytes=max_message) if body else {}
    return workflow.parameters.from_plain(plain)


def _seconds(text: str | None) -> float:
    if not text:
        return 0.0
    try:
        value = float(text)
    except ValueError as error:
        raise PayloadError(f"header {TIMEOUT} is a number of seconds, not {text!r}") from error
    if not 0 < value < 1e9:
        raise PayloadError(f"header {TIMEOUT} is a positive number of seconds, not {text!r}")
    return value


def write_start(
    workflow: Workflow[..., Any],
    key: InstanceKey,
    input: bytes,
    nonce: str,
    *,
    notify: str = "",
    trace: str = "",
) -> dict[str, str]:
    """The headers of a start by a typed client; the body is the canonical input.

    Equal starts have one message id, unless each of them counts: `nonce` tells those apart.
    """
    options = workflow.start_options
    headers = {
        TOKEN: key.id_token,
        CONTENT_TYPE: CANONICAL,
        MESSAGE_ID: f"{key.token}:{fingerprint(input)}",
    }
    if notify:
        headers[NOTIFY] = notify
    if trace:
        headers[TRACE] = trace
    if options.timeout is not None:
        headers[TIMEOUT] = repr(options.timeout)
    if options.on_conflict != "join":
        headers[CONFLICT] = options.on_conflict
        headers[MESSAGE_ID] += f":{nonce}"
    return headers
