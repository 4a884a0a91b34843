"""Which nats-server the tests run on: ROMANCY_TEST_SERVER names another program than the one beside Python."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from romancy_nats.jetstream import server_process

CHOSEN = os.environ.get("ROMANCY_TEST_SERVER", "")
SERVERS = Path(__file__).resolve().parents[2] / ".servers"


def pytest_configure() -> None:
    """Every server that a test starts in its own process is the one chosen."""
    if CHOSEN:
        binary = str(Path(CHOSEN).resolve(strict=True))
        server_process.find_binary = lambda: binary


def pytest_report_header() -> str:
    """The version of the server is part of what a report says."""
    version = subprocess.run([server_process.find_binary(), "--version"], capture_output=True, text=True)
    return version.stdout.strip()


def other_server(version: str) -> str:
    """The program of a version that `make test-long` has fetched; else the test is skipped."""
    binary = SERVERS / version / "bin" / "nats-server"
    if not binary.exists():
        pytest.skip(f"no nats-server {version} in {SERVERS}: see `make servers`")
    return str(binary)
