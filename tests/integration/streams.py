"""Streams and consumers for the tests of the wire layer, made with raw API calls. No domain names."""

from __future__ import annotations

import json
import secrets

from romancy_nats.jetstream.connection import Connection, error_code


async def make_stream(connection: Connection, **config: object) -> str:
    """A stream with a name of its own, for the subjects below `<name>.`."""
    name = f"S{secrets.token_hex(4)}"
    body = {"name": name, "subjects": [f"{name}.>"], "storage": "file", "allow_direct": True, **config}
    reply = await connection.call(f"$JS.API.STREAM.CREATE.{name}", json.dumps(body).encode())
    assert error_code(reply) == 0, reply.data
    return name


async def make_consumer(connection: Connection, stream: str, **config: object) -> str:
    """A durable pull consumer called `c`."""
    body = {
        "stream_name": stream,
        "config": {"durable_name": "c", "ack_policy": "explicit", "max_ack_pending": -1, **config},
    }
    subject = f"$JS.API.CONSUMER.CREATE.{stream}.c"
    reply = await connection.call(subject, json.dumps(body).encode())
    assert error_code(reply) == 0, reply.data
    return "c"


async def store(connection: Connection, stream: str, *bodies: str) -> None:
    """Write messages to `<stream>.m`, in order."""
    for body in bodies:
        reply = await connection.call(f"{stream}.m", body.encode())
        assert "seq" in reply.json(), reply.data


async def consumer_state(connection: Connection, stream: str) -> dict[str, int]:
    """What the server knows of consumer `c`: `num_ack_pending`, `num_pending`, `num_waiting`, …"""
    reply = await connection.call(f"$JS.API.CONSUMER.INFO.{stream}.c")
    return {key: value for key, value in reply.json().items() if isinstance(value, int)}
