"""Values whose reader knows no types: data of messages, answers of queries, emitted values. Bytes <-> plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import PydanticSerializationError, to_jsonable_python

from romancy_nats.core.headers import CONTENT_TYPE
from romancy_nats.core.limits import MAX_VALUE, fitting, parse_body, scan_msgpack
from romancy_nats.core.msgpack_types import EXT_CODES
from romancy_nats.core.payload import ValueCodec
from romancy_nats.errors import PayloadError

VALUE = "application/vnd.romancy.value"
"""A value as this package encodes it; anything else is JSON or plain msgpack."""

_any: ValueCodec[Any] = ValueCodec(Any)


def encode_plain(value: object, what: str = "the value", most: int = MAX_VALUE) -> bytes:
    """The bytes of a value, models and dataclasses as their fields; raises PayloadError."""
    try:
        data = _any.encode(value)
    except PayloadError as refusal:
        try:
            data = _any.encode(to_jsonable_python(value))
        except (PydanticSerializationError, PayloadError, ValueError, RecursionError) as error:
            raise PayloadError(f"{what}: {refusal}") from error
    return fitting(data, what, most)


def as_plain(value: object, what: str, most: int = MAX_VALUE) -> Any:
    """What its reader will see of a value; raises PayloadError."""
    return decode_plain(encode_plain(value, what, most))


def decode_plain(data: bytes) -> Any:
    """The value of such bytes, None of none; raises PayloadError."""
    return _any.decode(data) if data else None


def read_plain(headers: Mapping[str, str], body: bytes) -> bytes:
    """The bytes of a value that came in a message from anywhere; raises PayloadError when it cannot be read."""
    kind = headers.get(CONTENT_TYPE)
    if not body:
        return b""
    if kind == VALUE:
        scan_msgpack(body, EXT_CODES)
        _any.decode(body)
        return body
    return _any.encode(parse_body(body, kind))
