"""Events as CloudEvents 1.0: what one is, and its form as headers and body. Pure; no subject, no server."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from urllib.parse import quote, unquote

from pydantic_core import PydanticSerializationError, to_json

from romancy_nats.core.headers import CONTENT_TYPE
from romancy_nats.core.ids import InstanceKey, check_text, encode_token
from romancy_nats.core.limits import MAX_VALUE, parse_body
from romancy_nats.core.plain import decode_plain, encode_plain
from romancy_nats.errors import InvalidNameError, PayloadError

LONGEST_TYPE = 255
LONGEST_KEY = 1000
_LONGEST_SUBJECT = 3500
"""Of the 4,096 bytes that a line of the protocol may have; the rest is the namespace and our own words."""
JSON = "application/json"

_STRUCTURED = "application/cloudevents"
_BATCH = "application/cloudevents-batch"
_PREFIX = "ce-"
EVENT_TYPE = "ce-type"
_CORE = frozenset({"id", "source", "type", "specversion", "time", "subject", "datacontenttype", "dataschema"})
_DATA = frozenset({"data", "data_base64"})
_NAME = re.compile(r"[a-z0-9]{1,64}")
_ESCAPED = re.compile(r"\\(.)")
# Printable ASCII but for the space, the double quote and the percent sign: the rule of the HTTP and NATS bindings.
_PLAIN = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


@dataclass(slots=True, frozen=True)
class Event:
    """An event as CloudEvents 1.0 has it. `data` is a payload, `extensions` one or b"", `key` the `subject` or None."""

    id: str
    type: str
    source: str
    data: bytes
    key: str | None = None
    time: str = ""
    extensions: bytes = b""


def check_type(type: str) -> str:
    """Return the type of an event, or raise InvalidNameError: its dots part the tokens of a subject."""
    check_text(type, "an event type", LONGEST_TYPE)
    if not all(type.split(".")):
        raise InvalidNameError(f"the event type {type!r} has an empty part: dots stand between names only")
    return type


def check_key(key: str | None) -> str | None:
    """Return the key of an event, or raise InvalidNameError: None for no key, never the empty text."""
    if key == "":
        raise InvalidNameError("the key of an event is not empty; leave it out for an event without a key")
    return None if key is None else check_text(key, "the key of an event", LONGEST_KEY)


def check_wait(type: str, key: str | None, of: InstanceKey) -> None:
    """Raise InvalidNameError when no instance can wait for such an event: all of it stands in one subject."""
    check_type(type)
    check_key(key)
    spelled = len(of.token) + len(encode_token(type)) + len(encode_token(key or ""))
    if spelled > _LONGEST_SUBJECT:
        raise InvalidNameError(
            f"the event type {type!r:.50}, the key and the id of the instance have {spelled} characters when they are "
            f"spelled in a subject, at most {_LONGEST_SUBJECT} are possible: use shorter ones"
        )


# --- as we write them: binary mode


def write_event(event: Event) -> tuple[dict[str, str], bytes]:
    """Headers and body in binary mode. Raises PayloadError, InvalidNameError: nobody could read it."""
    check_type(event.type)
    check_key(event.key)
    attributes = {"specversion": "1.0", "id": event.id, "source": event.source, "type": event.type}
    if event.time:
        attributes["time"] = event.time
    if event.key is not None:
        attributes["subject"] = event.key
    extensions = cast("Mapping[str, object]", decode_plain(event.extensions) or {})
    attributes |= {check_extension(name): _canonical(name, value) for name, value in extensions.items()}
    headers = {_PREFIX + name: _escaped(value) for name, value in attributes.items()}
    headers[CONTENT_TYPE] = JSON
    return headers, _json(event.data)


def check_extension(name: str) -> str:
    """Return the name of an extension attribute, or raise PayloadError."""
    if not _NAME.fullmatch(name) or name in _CORE | _DATA:
        raise PayloadError(
            f"{name!r} is no name of an extension attribute: lower-case letters and digits, none of {sorted(_CORE)}"
        )
    return name


def _canonical(name: str, value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str() | int():
            return str(value)
        case bytes():
            return base64.b64encode(value).decode()
        case _:
            raise PayloadError(f"extension attribute {name!r}: text, integers, booleans and bytes only")


def _escaped(value: str) -> str:
    try:
        return quote(value, safe=_PLAIN)
    except UnicodeEncodeError as error:
        raise PayloadError(f"an attribute of an event must be text that UTF-8 can spell: {error}") from error


def _json(data: bytes) -> bytes:
    try:
        body = to_json(decode_plain(data), inf_nan_mode="constants")
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise PayloadError(f"the data of an event must be a JSON value: {error}") from error
    parse_body(body, JSON)  # what nobody can read (too deep, not a number) is not sent
    return body


# --- as others write them


def read_event(type: str, headers: Mapping[str, str], body: bytes, default_id: str) -> Event:
    """An event of any origin: structured, binary, or a body alone. `type` is what its subject says, and that counts:
    permissions go by subject.

    Raises PayloadError with the reason why nobody can read it.
    """
    named = {name.lower(): value for name, value in headers.items()}
    kind = named.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith(_BATCH):
        raise PayloadError("a batch of events; send them one by one")
    if kind.startswith(_STRUCTURED):
        return _structured(type, kind, body, default_id)
    attributes: dict[str, object] = {
        name.removeprefix(_PREFIX): unescaped(value)
        for name, value in named.items()
        if name.startswith(_PREFIX)
    }
    return _event(type, attributes, encode_plain(_value(kind, body)), default_id)


def _structured(type: str, kind: str, body: bytes, default_id: str) -> Event:
    if kind != _STRUCTURED + "+json":
        raise PayloadError(f"an event as {kind!r}; send it as JSON, or in binary mode")
    found = parse_body(body, JSON)
    if not isinstance(found, dict):
        raise PayloadError("a structured event is a JSON object")
    attributes = cast("dict[str, object]", found)
    data: object = attributes.get("data")
    if (encoded := attributes.get("data_base64")) is not None:
        data = _from_base64(encoded, str(attributes.get("datacontenttype") or ""))
    return _event(type, attributes, encode_plain(data), default_id)


def _from_base64(encoded: object, kind: str) -> object:
    try:
        raw = base64.b64decode(str(encoded), validate=True)
    except ValueError as error:
        raise PayloadError("its data_base64 is not base64") from error
    return _value(kind.partition(";")[0].strip().lower(), raw) if kind else raw


def _value(kind: str, body: bytes) -> object:
    if not kind or kind.endswith(("/json", "+json", "msgpack")):
        return parse_body(body, kind or None)
    if not kind.startswith("text/"):
        return body
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise PayloadError("its text is not UTF-8") from error


def _event(type: str, attributes: Mapping[str, object], data: bytes, default_id: str) -> Event:
    version = str(attributes.get("specversion") or "1.0")
    if not version.startswith("1."):
        raise PayloadError(f"CloudEvents {version[:20]!r}; this release reads 1.x")
    extensions = {
        name: value
        for name, value in attributes.items()
        if name not in _CORE | _DATA and isinstance(value, str | int | bool)
    }
    return Event(
        id=str(attributes.get("id") or default_id),
        type=type,
        source=str(attributes.get("source") or ""),
        data=data,
        key=str(attributes.get("subject") or "") or None,
        time=str(attributes.get("time") or ""),
        extensions=encode_plain(extensions) if extensions else b"",
    )


def unescaped(value: str) -> str:
    """The value of an attribute in a header."""
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = _ESCAPED.sub(r"\1", value[1:-1])
    return unquote(value, errors="replace").encode(errors="replace").decode()


# --- as users give them


def made_event(
    type: object,
    data: object,
    *,
    id: str,
    source: str,
    key: str | None,
    time: datetime | str,
    extensions: Mapping[str, object],
    most: int = MAX_VALUE,
) -> Event:
    """An event of a type (text) and data, or from an event object of the `cloudevents` package, whose attributes count.

    `most` bytes of data, and as many of extensions. Raises PayloadError, InvalidNameError.
    """
    attributes: dict[str, Any] = {**extensions, "id": id, "source": source, "time": time}
    if key is not None:
        attributes["subject"] = key
    if isinstance(type, str):
        attributes["type"] = type
    else:
        given, data = _opened(type)
        attributes |= {name: value for name, value in given.items() if value is not None}
    others = {check_extension(name): value for name, value in attributes.items() if name not in _CORE}
    when = attributes["time"]
    return Event(
        id=str(attributes["id"]),
        type=check_type(str(attributes["type"])),
        source=str(attributes["source"]),
        data=encode_plain(data, "the data of an event", most),
        key=check_key(attributes.get("subject")),
        time=when.isoformat() if isinstance(when, datetime) else str(when),
        extensions=encode_plain(others, "the extensions of an event", most) if others else b"",
    )


def _opened(event: Any) -> tuple[dict[str, Any], object]:
    """Attributes and data, by the methods that the releases of that package have; it is not imported."""
    read = getattr(event, "get_attributes", None) or getattr(event, "_get_attributes", None)
    if read is None:
        raise PayloadError(
            f"an event is sent by its type (text) and its data, or as a CloudEvent object, not as {event!r}"
        )
    get_data = getattr(event, "get_data", None)
    return dict(read()), get_data() if callable(get_data) else getattr(event, "data", None)
