"""CloudEvents: what is written can be read back, whatever is in it; what cannot be read has a reason."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from romancy_nats.core.cloudevents import Event, made_event, read_event, write_event
from romancy_nats.core.plain import decode_plain, encode_plain
from romancy_nats.errors import InvalidNameError, PayloadError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
HEADER = re.compile(r"[!-~]*")


@given(TEXT, TEXT, TEXT | st.none(), JSON, st.dictionaries(st.from_regex(r"[a-z]{4}", fullmatch=True), TEXT))
def test_binary_mode_reads_back(id: str, source: str, key: str | None, data: Any, others: Any) -> None:
    extensions = {f"x{name}": value for name, value in others.items()}
    event = Event(
        id, "a.b", source, encode_plain(data), key, "", encode_plain(extensions) if extensions else b""
    )
    headers, body = write_event(event)
    assert all(HEADER.fullmatch(name) and HEADER.fullmatch(value) for name, value in headers.items())
    found = read_event("a.b", headers, body, "other")
    assert (found.id, found.source, found.key, found.time) == (id, source, key, "")
    assert decode_plain(found.data) == data
    assert (decode_plain(found.extensions) if found.extensions else {}) == extensions


def test_the_subject_says_the_type_and_a_body_alone_is_an_event() -> None:
    found = read_event("a", {"ce-type": "b"}, b'{"x": 1}', "S:1")
    assert (found.type, found.id, found.source, found.key) == ("a", "S:1", "", None)
    assert decode_plain(found.data) == {"x": 1}


@pytest.mark.parametrize(
    ("kind", "body", "data"),
    [
        ("application/json", b"1", 1),
        ("application/vnd.x+json", b"[]", []),
        ("application/msgpack", b"\x81\xa1a\x01", {"a": 1}),
        ("text/plain; charset=utf-8", "ü".encode(), "ü"),
        ("application/octet-stream", b"\x00\xff", b"\x00\xff"),
        ("application/xml", b"<a/>", b"<a/>"),
        ("", b"", None),
    ],
)
def test_bodies_by_their_content_type(kind: str, body: bytes, data: object) -> None:
    headers = {"Content-Type": kind} if kind else {}
    assert decode_plain(read_event("a", headers, body, "1").data) == data


@pytest.mark.parametrize(
    ("body", "data"),
    [
        (b'{"data": {"x": 1}}', {"x": 1}),
        (b'{"data_base64": "AP8="}', b"\x00\xff"),
        (b'{"data_base64": "eyJ4IjogMX0=", "datacontenttype": "application/json"}', {"x": 1}),
        (b"{}", None),
    ],
)
def test_structured_mode(body: bytes, data: object) -> None:
    found = read_event("a", {"content-type": "application/cloudevents+json"}, body, "1")
    assert decode_plain(found.data) == data


def test_attributes_of_structured_mode_keep_their_types() -> None:
    body = b'{"id": "7", "source": "s", "subject": "k", "time": "t", "count": 3, "flag": true, "no": null}'
    found = read_event("a", {"Content-Type": "application/cloudevents+json"}, body, "1")
    assert (found.id, found.source, found.key, found.time) == ("7", "s", "k", "t")
    assert decode_plain(found.extensions) == {"count": 3, "flag": True}


def test_headers_in_quotes_and_in_broken_escapes() -> None:
    found = read_event("a", {"CE-Id": '"a \\"b\\""', "ce-source": "%zz%C3", "ce-subject": ""}, b"", "1")
    assert (found.id, found.source, found.key) == ('a "b"', "%zz\ufffd", None)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, b"hello"),
        ({"Content-Type": "text/plain"}, b"\xff"),
        ({"Content-Type": "application/json"}, b'{"a": 1, "a": 2}'),
        ({"Content-Type": "application/cloudevents+json"}, b'{"data_base64": "?"}'),
        ({"Content-Type": "application/cloudevents+json"}, b'{"specversion": "0.3"}'),
        ({"ce-specversion": "2.0"}, b"1"),
    ],
)
def test_what_cannot_be_read_has_a_reason(headers: dict[str, str], body: bytes) -> None:
    with pytest.raises(PayloadError, match=r"\w+"):
        read_event("a", headers, body, "1")


def made(type: object, data: object = None, **more: Any) -> Event:
    given: dict[str, Any] = {"id": "i", "source": "s", "key": None, "time": "t", "extensions": {}, **more}
    return made_event(type, data, **given)


def test_as_users_give_them() -> None:
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    event = made("a.b", {"x": 1}, key="k", time=moment, extensions={"count": 1})
    assert (event.id, event.type, event.key, event.time) == ("i", "a.b", "k", "2026-01-02T00:00:00+00:00")
    assert decode_plain(event.extensions) == {"count": 1}


def test_objects_of_the_cloudevents_package_in_both_its_forms() -> None:
    attributes = {"id": "1", "source": "/s", "type": "a", "specversion": "1.0", "subject": None, "own": "x"}

    class Old:
        data = 1

        def _get_attributes(self) -> dict[str, Any]:
            return attributes

    class New:
        def get_attributes(self) -> dict[str, Any]:
            return attributes

        def get_data(self) -> int:
            return 1

    for original in (Old(), New()):
        event = made(original, key="k")
        assert (event.id, event.source, event.type, event.key) == ("1", "/s", "a", "k")
        assert decode_plain(event.extensions) == {"own": "x"}
        assert decode_plain(event.data) == 1


@pytest.mark.parametrize("more", [{"key": ""}, {"key": "\ud800"}])
def test_keys_that_are_none(more: dict[str, Any]) -> None:
    with pytest.raises(InvalidNameError):
        made("a", **more)


@pytest.mark.parametrize("type", ["", ".", "a.", "x" * 256, "\ud800"])
def test_types_that_are_none(type: str) -> None:
    with pytest.raises(InvalidNameError):
        made(type)
