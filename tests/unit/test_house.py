"""The rules of the house that no linter knows: names and opening lines of files. Imports are import-linter's."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VAGUE = {"base", "common", "helper", "helpers", "manager", "misc", "util", "utils"}
CODE = sorted(
    path for folder in ("romancy_nats", "workers", "examples") for path in (ROOT / folder).rglob("*.py")
)
PYTHON = sorted({*CODE, *(ROOT / "tests").rglob("*.py")})


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_there_is_something_to_hold_to_the_rules() -> None:
    assert ROOT / "romancy_nats" / "errors.py" in CODE


@pytest.mark.parametrize("path", PYTHON, ids=name)
def test_a_file_is_named_by_its_noun(path: Path) -> None:
    vague = VAGUE & {
        part for place in path.relative_to(ROOT).with_suffix("").parts for part in place.split("_")
    }
    assert not vague, f"{name(path)}: {', '.join(vague)!r} says nothing about what is inside"


@pytest.mark.parametrize("path", PYTHON, ids=name)
def test_a_module_opens_with_its_job(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring, f"{name(path)} needs a docstring: its one job, and what may not go in"


def test_deployment_and_data_are_not_packages() -> None:
    packages = [
        name(path) for folder in ("workers", "streams") for path in (ROOT / folder).rglob("__init__.py")
    ]
    assert not packages, "workers/ and streams/ are never imported"
