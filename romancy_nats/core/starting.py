"""A start message: its headers and body, read and written. Bytes only; whoever sends or pulls it is elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from romancy_nats.core.definition import Workflow
from romancy_nats.core.error_text import shown
from romancy_nats.core.headers import (
    CONTENT_TYPE,
    MESSAGE_ID,
    NOTIFY,
    REPLY_TO,
    TOKEN,
    TRACE,
    named_id,
)
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.limits import fitting, parse_body
from romancy_nats.core.parameters import fingerprint
from romancy_nats.core.record import LONGEST_ERROR
from romancy_nats.core.start_options import StartOptions, read_options
from romancy_nats.errors import RomancyError, StartRejectedError

NO_OPTIONS = StartOptions()
_LONGEST_TRACE = 256
CANONICAL = "application/vnd.romancy.input"
"""The canonical arguments, as this package encodes them: nothing to normalise."""


@dataclass(slots=True, frozen=True)
class StartRequest:
    """A start that can be carried out. `input` is canonical, so equal calls have equal fingerprints."""

    key: InstanceKey
    input: bytes
    fingerprint: str
    options: StartOptions = NO_OPTIONS
    reply_to: str = ""
    notify: str = ""
    trace: str = ""


def read_start(
    workflow: Workflow[..., Any], headers: Mapping[str, str], body: bytes, fallback_id: str, max_message: int
) -> StartRequest:
    """Read a start message of any origin; raises StartRejectedError with the reason (cause: what was wrong)."""
    try:
        key = InstanceKey(workflow.name, named_id(headers) or fallback_id)
        input = _canonical(workflow, headers.get(CONTENT_TYPE), body, max_message)
        options = read_options(headers)
    except RomancyError as error:
        raise StartRejectedError(str(error), workflow=workflow.name) from error
    except BaseException as error:
        # A validator of a user's model may raise anything; tried again it would raise that again.
        text = f"the input could not be validated: {shown(error, LONGEST_ERROR // 2)}"
        raise StartRejectedError(text, workflow=workflow.name) from error
    return StartRequest(
        key,
        input,
        fingerprint(input),
        options,
        headers.get(REPLY_TO, ""),
        headers.get(NOTIFY, ""),
        _trace(headers),
    )


def _canonical(
    workflow: Workflow[..., Any], content_type: str | None, body: bytes, max_message: int
) -> bytes:
    if content_type == CANONICAL:
        return _fitting(workflow, workflow.parameters.canonical(body, max_bytes=max_message), max_message)
    plain: object = parse_body(body, content_type, max_bytes=max_message) if body else {}
    return _fitting(workflow, workflow.parameters.from_plain(plain), max_message)


def _trace(headers: Mapping[str, str]) -> str:
    """The trace that the start belongs to; what is longer than any is none."""
    text = headers.get(TRACE, "")
    return text if len(text) <= _LONGEST_TRACE else ""


def _fitting(workflow: Workflow[..., Any], input: bytes, max_message: int) -> bytes:
    # Defaults are filled in, so that it may be larger than what was sent.
    return fitting(input, f"the input of {workflow.name!r}", max_message)


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
    headers |= options.headers()
    if options.on_conflict != "join":
        headers[MESSAGE_ID] += f":{nonce}"
    return headers
