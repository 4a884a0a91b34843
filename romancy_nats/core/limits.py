"""Bodies from outside -> plain values, with limits that hold before anything is built. No annotation is looked at here.

The decoders themselves would take a mebibyte of empty maps (72 MiB of memory), duplicate keys (the last one wins) and
nesting that ends in a RecursionError later on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from functools import lru_cache
from typing import Any, NamedTuple

import msgpack

from romancy_nats.errors import PayloadError, PayloadTooLargeError

MAX_BYTES = 1024 * 1024
MAX_PAYLOAD = 1024 * 1024
"""Bytes of a message that a server takes when it is not configured otherwise."""
MAX_VALUE = 1_000_000
"""Bytes of the arguments of a call or of a result: what fits into a message of such a server with its envelope."""
MAX_DEPTH = 64
MAX_NODES = 100_000

_TIMESTAMP = 255  # ext -1, msgpack's own, as the byte it is on the wire
_STRING = re.compile(
    rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL
)  # always matches at a quote: no second try, linear time
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_JSON_START = frozenset(b'{["-0123456789tfn')

_FIXED = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8} | {
    0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8
}  # fmt: skip
_SIZED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_FIXED_EXT = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_SIZED_EXT = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_ARRAYS = {0xDC: 2, 0xDD: 4}
_MAPS = {0xDE: 2, 0xDF: 4}


class Limits(NamedTuple):
    """Bytes of what goes into one message of a server.

    `value` is one payload, `commit` a commit with the names and ids around its values, `failure` an error.
    """

    value: int = MAX_VALUE
    commit: int = MAX_VALUE + 40_000
    failure: int = 128 * 1024

    @staticmethod
    @lru_cache(maxsize=8)
    def of(max_payload: int) -> Limits:
        """What a server for messages of at most `max_payload` bytes leaves; a larger one gives no more than usual."""
        envelope = min(MAX_PAYLOAD - MAX_VALUE, max_payload // 4)
        value = min(MAX_VALUE, max_payload - envelope)
        return Limits(value, value + envelope * 4 // 5, min(128 * 1024, value // 4))


def fitting(data: bytes, what: str, most: int = MAX_VALUE) -> bytes:
    """The bytes themselves; raises PayloadTooLargeError, which names what they are."""
    if len(data) > most:
        raise PayloadTooLargeError(what, len(data), most)
    return data


def shortened(text: str, most: int) -> str:
    """The text in at most `most` bytes of UTF-8; what UTF-8 cannot spell is escaped.

    A plain `str` comes back, whatever class of a user went in.
    """
    plain = "".join((text,))
    if plain.isascii():
        return plain if len(plain) <= most else plain[: most - 3] + "..."
    data = plain[: most + 1].encode("utf-8", "backslashreplace")
    if len(data) <= most and len(plain) <= most:
        return data.decode()
    return data[: most - 3].decode("utf-8", "ignore") + "..."


def parse_body(data: bytes, content_type: str | None = None, *, max_bytes: int = MAX_BYTES) -> object:
    """The plain value of a body, JSON or msgpack by content type, else by its first byte; an empty body is None.

    Raises PayloadError with the reason: too large, too deep, too many values, duplicate keys, not readable.
    """
    if len(data) > max_bytes:
        raise PayloadTooLargeError("the message", len(data), max_bytes)
    if not data.strip():
        return None
    try:
        return _parse_json(data) if _is_json(data, content_type) else _parse_msgpack(data, max_bytes)
    except PayloadError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        # the error's own text may quote the body, which does not belong into logs
        raise PayloadError(f"the message cannot be read: {_reason(error)}") from error


def scan_msgpack(data: bytes, ext_codes: Collection[int] = (), *, max_bytes: int = MAX_BYTES) -> None:
    """Raise PayloadError unless this is one whole msgpack value within the limits, of known ext codes only."""
    if len(data) > max_bytes:
        raise PayloadTooLargeError("the message", len(data), max_bytes)
    end = len(data)
    at = nodes = 0
    open_counts = [1]
    while open_counts:
        if not open_counts[-1]:
            open_counts.pop()
            continue
        open_counts[-1] -= 1
        nodes += 1
        if at >= end:
            raise PayloadError("the message cannot be read: it ends too early")
        at, children = _node(data, at, ext_codes)
        if nodes + children > MAX_NODES:
            raise PayloadError(f"the message has more than {MAX_NODES:,} values")
        if children:
            open_counts.append(children)
            if len(open_counts) > MAX_DEPTH + 1:
                raise PayloadError(f"the message is nested deeper than {MAX_DEPTH} levels")
    if at != end:
        raise PayloadError("the message cannot be read: its length is not that of its value")


def _node(data: bytes, at: int, ext_codes: Collection[int]) -> tuple[int, int]:
    """Where the next value begins, and how many children this one has."""
    lead = data[at]
    at += 1
    if lead <= 0x7F or lead >= 0xE0:
        return at, 0
    if lead <= 0x8F:
        return at, 2 * (lead & 0x0F)
    if lead <= 0x9F:
        return at, lead & 0x0F
    if lead <= 0xBF:
        return at + (lead & 0x1F), 0
    if lead in _FIXED:
        return at + _FIXED[lead], 0
    if lead in _SIZED:
        return at + _SIZED[lead] + _number(data, at, _SIZED[lead]), 0
    if lead in _ARRAYS:
        return at + _ARRAYS[lead], _number(data, at, _ARRAYS[lead])
    if lead in _MAPS:
        return at + _MAPS[lead], 2 * _number(data, at, _MAPS[lead])
    return _ext(data, at, lead, ext_codes), 0


def _ext(data: bytes, at: int, lead: int, ext_codes: Collection[int]) -> int:
    width = _SIZED_EXT.get(lead, 0)
    if not width and lead not in _FIXED_EXT:
        raise PayloadError("the message cannot be read: it is not msgpack")
    length = _number(data, at, width) if width else _FIXED_EXT[lead]
    at += width
    code = _number(data, at, 1)
    if code not in ext_codes:
        raise PayloadError(
            f"the message cannot be read: ext code {code if code < 128 else code - 256} is unknown"
        )
    return at + 1 + length


def _number(data: bytes, at: int, width: int) -> int:
    if at + width > len(data):
        raise PayloadError("the message cannot be read: it ends too early")
    return int.from_bytes(data[at : at + width], "big")


def _is_json(data: bytes, content_type: str | None) -> bool:
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind.endswith(("/json", "+json")):
        return True
    if kind.endswith(("/msgpack", "/x-msgpack", "/vnd.msgpack", "+msgpack")):
        return False
    return data.lstrip()[0] in _JSON_START


def _parse_msgpack(data: bytes, max_bytes: int) -> object:
    scan_msgpack(data, (_TIMESTAMP,), max_bytes=max_bytes)
    return msgpack.unpackb(
        data, strict_map_key=True, object_pairs_hook=_unique, ext_hook=_no_ext, timestamp=3, raw=False
    )


def _parse_json(data: bytes) -> object:
    bare, strings = _STRING.subn(b'""', data, count=MAX_NODES + 1)
    if strings > MAX_NODES or sum(map(bare.count, (b",", b":", b"[", b"{"))) > MAX_NODES:
        raise PayloadError(f"the message has more than {MAX_NODES:,} values")
    depth = 0
    for bracket in bare.translate(None, _NO_BRACKETS):
        depth += _STEPS[bracket]
        if depth > MAX_DEPTH:
            raise PayloadError(f"the message is nested deeper than {MAX_DEPTH} levels")
    return json.loads(
        data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
    )


def _unique(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise PayloadError("the message cannot be read: an object has the same key twice")
    if any(type(key) is not str for key in found):
        raise PayloadError("the message cannot be read: the keys of an object are strings")
    return found


def _no_ext(code: int, data: bytes) -> object:
    raise PayloadError(f"the message cannot be read: ext code {code} is unknown")


def _no_constant(name: str) -> object:
    raise PayloadError(f"the message cannot be read: JSON has no {name}")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise PayloadError("the message cannot be read: a number is too large")
    return value


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} (line {error.lineno}, column {error.colno})"
    if isinstance(error, UnicodeDecodeError):
        return "its text is not UTF-8"
    return type(error).__name__
