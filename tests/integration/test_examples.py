"""The examples do what their pages say: each is run as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SMALL = sorted(page.parent.name for page in EXAMPLES.glob("*/expected.txt"))


@pytest.mark.parametrize("name", SMALL)
def test_an_example_prints_what_its_page_says(name: str, tmp_path: Path) -> None:
    folder = EXAMPLES / name
    ran = subprocess.run(
        [sys.executable, str(folder / "main.py")], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    expected = (folder / "expected.txt").read_text()
    assert ran.stdout == expected
    assert expected in (folder / "README.md").read_text()


def test_every_example_is_run() -> None:
    folders = {page.parent.name for page in EXAMPLES.glob("*/main.py")}
    assert folders - set(SMALL) == {"01_orders"}, (
        "the demo has a test of its own; any other has an expected.txt"
    )
