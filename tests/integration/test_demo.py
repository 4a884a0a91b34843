"""The main job as its audience runs it: a program whose exit code and last line say that all went well."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, str(ROOT / "examples" / "01_orders" / "main.py")]


def environment(folder: Path) -> dict[str, str]:
    """Settings of the surroundings must not disturb it; its files are where the test can see them."""
    return {
        **os.environ,
        "TMPDIR": str(folder),
        "ROMANCY_NAMESPACE": "elsewhere",
        "ROMANCY_NATS_URL": "nats://nowhere",
    }


@pytest.mark.slow
def test_every_order_ends_exactly_once_although_a_worker_is_killed(tmp_path: Path) -> None:
    demo = subprocess.run(
        COMMAND, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=120
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert demo.stderr == ""
    shown = demo.stdout
    for part in (
        r"kill -9 worker-[ab]",
        r"order-1006 cancelled by its customer",
        r"(?m)^[1-9]\d* orders taken over; [1-9]\d* activities had been recorded, 0 of them ran again$",
        r"takeover: the first order after \d+\.\d\d s",
        r"at-least-once window: \d+ attempts were in flight at the kill",
        r"order-1009 failed\n.*reserve_inventory:1.*book_courier:1\n.*cancel_courier\(book_courier:1\), release",
        r"order-1006 cancelled\n.*\n.*refund_payment\(charge_payment:1\), cancel_courier\(book_courier:1\), release",
        r"orders completed +│ +38 │",
        r"violations +│ +0 │",
        r"(?m)^40 of 40 orders ended exactly once \(",
    ):
        assert re.search(part, shown), f"{part}\nnot in\n{shown}"
    assert list(tmp_path.iterdir()) == [], "the demo cleans up after itself"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_no_process_outlives_an_interrupted_demo(tmp_path: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        COMMAND, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as demo:
        assert demo.stdout is not None
        line = next(line for line in demo.stdout if "hired" in line)
        workers = [int(pid) for pid in re.findall(r"process (\d+)", line)]
        assert len(workers) == 2
        demo.send_signal(number)
        rest = demo.stdout.read()
        assert demo.wait(timeout=30) == 130, rest
    assert "interrupted" in rest
    assert "Traceback" not in rest
    assert not [pid for pid in workers if alive(pid)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_no_worker_outlives_a_killed_demo(tmp_path: Path) -> None:
    with subprocess.Popen(COMMAND, env=environment(tmp_path), stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        line = next(line for line in demo.stdout if "hired" in line)
        workers = [int(pid) for pid in re.findall(r"process (\d+)", line)]
        demo.kill()
        end = time.monotonic() + 10
        while any(map(alive, workers)):
            assert time.monotonic() < end, f"{workers} live on"
            time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        if sys.platform == "linux":
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
