"""The baseline: the least that a durable step costs. Fenced publishes of 200 bytes with the headers of a commit.

Nothing of romancy_nats may be imported here: the yardstick must not grow or shrink with what it measures.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import sys
import time

from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.benchmarks.loops import run_on

STREAMS = 8
WINDOW = 256
PAYLOAD = b"x" * 200
WARM_UP = 0.3
_SEQUENCE = "Nats-Expected-Last-Subject-Sequence"
_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"


class Requests:
    """One inbox, one wildcard subscription, a counter as token, a future per request."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inbox = client.new_inbox() + "."
        self._open: dict[str, asyncio.Future[bytes]] = {}
        self._count = itertools.count()
        self._loop = asyncio.get_running_loop()

    async def listen(self) -> None:
        await self._client.subscribe(self._inbox + "*", cb=self._hear, pending_msgs_limit=0)

    async def _hear(self, msg: Msg) -> None:
        self._open.pop(msg.subject[len(self._inbox) :]).set_result(msg.data)

    async def ask(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> bytes:
        token = str(next(self._count))
        future = self._open[token] = self._loop.create_future()
        await self._client.publish(subject, payload, self._inbox + token, headers)
        return await future


class Baseline:
    """Eight streams configured like the shards of the ledger, one record in each to fence on."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._numbers = itertools.count(1)
        self._fences: list[dict[str, str]] = []

    async def create(self) -> None:
        for p in range(STREAMS):
            await self._api(f"STREAM.CREATE.RAW_{p}", _stream(p))
            fence = _sequence(await self._requests.ask(f"raw.record.{p}", b"{}", {"Nats-Rollup": "sub"}))
            self._fences.append({_SEQUENCE: str(fence), _SUBJECT: f"raw.record.{p}"})

    async def delete(self) -> None:
        for p in range(STREAMS):
            await self._api(f"STREAM.DELETE.RAW_{p}", {})

    async def _api(self, verb: str, body: dict[str, object]) -> None:
        answer = json.loads(await self._requests.ask(f"$JS.API.{verb}", json.dumps(body).encode()))
        if "error" in answer:
            raise RuntimeError(f"{verb}: {answer['error']}")

    async def append(self) -> None:
        """One fenced write to a subject of its own, acknowledged."""
        n = next(self._numbers)
        p = n % STREAMS
        _sequence(await self._requests.ask(f"raw.history.{p}.{n}", PAYLOAD, self._fences[p]))

    async def sequential(self, seconds: float) -> list[float]:
        """Round trips, one at a time."""
        took: list[float] = []
        before, end = time.perf_counter(), time.perf_counter() + seconds
        while before < end:
            await self.append()
            now = time.perf_counter()
            took.append(now - before)
            before = now
        return took

    async def concurrent(self, seconds: float) -> float:
        """Appends per second, 256 at a time."""
        done = 0
        began = time.perf_counter()
        end = began + seconds

        async def one_of_many() -> None:
            nonlocal done
            while time.perf_counter() < end:
                await self.append()
                done += 1

        await asyncio.gather(*(one_of_many() for _ in range(WINDOW)))
        return done / (time.perf_counter() - began)


def _stream(p: int) -> dict[str, object]:
    return {
        "name": f"RAW_{p}",
        "subjects": [f"raw.record.{p}", f"raw.history.{p}.*"],
        "storage": "file",
        "max_msgs_per_subject": 1,
        "discard": "new",
        "discard_new_per_subject": True,
        "allow_rollup_hdrs": True,
        "allow_msg_ttl": True,
        "allow_direct": True,
    }


def _sequence(answer: bytes) -> int:
    head, found, tail = answer.partition(b'"seq":')
    if not found or b'"error"' in head:
        raise RuntimeError(f"not acknowledged: {answer!r}")
    return int(tail.partition(b",")[0].rstrip(b"}"))


async def measure(url: str, seconds: float) -> dict[str, float]:
    """Both rates, and the median round trip in seconds."""
    client = Client()
    await client.connect(url, skip_subject_validation=True)
    requests = Requests(client)
    await requests.listen()
    baseline = Baseline(requests)
    await baseline.create()
    try:
        await baseline.sequential(WARM_UP)
        took = await baseline.sequential(seconds)
        await baseline.concurrent(WARM_UP)
        return {
            "sequential": len(took) / sum(took),
            "p50": statistics.median(took),
            "concurrent": await baseline.concurrent(seconds),
        }
    finally:
        await baseline.delete()
        await client.close()


def main() -> None:
    """Print the measurement as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--loop", default="asyncio")
    parser.add_argument("--seconds", type=float, default=1.5)
    options = parser.parse_args()
    json.dump(run_on(options.loop, measure(options.url, options.seconds)), sys.stdout)


if __name__ == "__main__":
    main()
