"""What an acknowledgement says: stored, refused and why, or unknown. The servers' own words, no server."""

from __future__ import annotations

import json

import pytest

from romancy_nats.errors import PermissionDeniedError
from romancy_nats.jetstream.replies import Reply
from romancy_nats.jetstream.writes import ack_prefix, outcome, size
from romancy_nats.ports import Refusal, Refused

PREFIX = ack_prefix("KV_romancy_0")


@pytest.mark.parametrize(
    "data",
    [
        b'{"stream":"KV_romancy_0","seq":17}',
        b'{"stream":"KV_romancy_0","seq":17,"duplicate": true}',
        b'{"stream":"KV_romancy_0","domain":"hub","seq":17}',
        b'{"stream":"OTHER","seq":17}',
    ],
)
def test_stored(data: bytes) -> None:
    assert outcome(Reply(data), PREFIX) == outcome(Reply(data)) == 17


@pytest.mark.parametrize(
    ("code", "text", "why"),
    [
        (10077, "maximum messages per subject exceeded", Refusal.EXISTS),
        (10077, "maximum bytes exceeded", Refusal.OTHER),
        (10077, "no space left on device", Refusal.OTHER),
        (10071, "wrong last sequence: 3", Refusal.STALE),
        (10164, "wrong last sequence", Refusal.STALE),
        (10054, "message size exceeds maximum allowed", Refusal.TOO_LARGE),
        (10023, "insufficient resources", Refusal.OTHER),
        (10060, "expected stream does not match", Refusal.OTHER),
    ],
)
def test_refused(code: int, text: str, why: Refusal) -> None:
    error = {"code": 400, "err_code": code, "description": text}
    data = json.dumps({"error": error, "stream": "KV_romancy_0", "seq": 0}).encode()
    assert outcome(Reply(data), PREFIX) == Refused(why, text)


@pytest.mark.parametrize(
    "reply",
    [
        None,
        Reply(b"", {"Status": "503"}),
        Reply(b'{"error":{"code":503,"err_code":10008,"description":"temporarily unavailable"}}'),
        Reply(b'{"error":{"code":500,"err_code":10118,"description":"stream is offline"}}'),
    ],
)
def test_unknown_until_asked_again(reply: Reply | None) -> None:
    assert outcome(reply, PREFIX) is None


@pytest.mark.parametrize(
    "data", [b"", b"+OK", b"[]", b"{}", b'{"stream":"KV_romancy_0","seq":}', b'{"seq":0}']
)
def test_what_is_no_acknowledgement_is_never_success(data: bytes) -> None:
    found = outcome(Reply(data), PREFIX)
    assert isinstance(found, Refused)
    assert found.why is Refusal.OTHER


def test_a_denied_write_says_what_was_denied() -> None:
    found = outcome(Reply(b"", None, PermissionDeniedError("denied to publish to x")), PREFIX)
    assert found == Refused(Refusal.DENIED, "denied to publish to x")


def test_size_counts_as_the_server_does() -> None:
    assert size(b"abc", {"A": "é"}) == len(b"NATS/1.0\r\nA: " + "é".encode() + b"\r\n\r\nabc")
