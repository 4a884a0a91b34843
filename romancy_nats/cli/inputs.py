"""The arguments of a start, from the command line: JSON given, in a file, or on stdin."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NoReturn, cast

from romancy_nats.errors import ConfigurationError


def read_input(text: str | None) -> dict[str, object]:
    """The plain body of a call. An object stays as it is, an array is arguments, anything else the one argument."""
    if text is None:
        return {}
    value = read_value(text, "--input")
    if isinstance(value, dict):
        return cast("dict[str, object]", value)
    return {"args": value if isinstance(value, list) else [value]}


def read_value(text: str | None, option: str) -> object:
    """Any JSON value, None where the option is not given."""
    return None if text is None else _parse(_read(text, option), option)


def _read(text: str, option: str) -> str:
    try:
        if text == "-":
            return sys.stdin.read()
        if text.startswith("@"):
            return Path(text[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{option} {text}: {error}") from error
    return text


def _parse(text: str, option: str) -> object:
    try:
        value: object = json.loads(text, parse_constant=_no_constant)
    except RecursionError as error:
        raise ConfigurationError(f"{option} is nested too deeply") from error
    except ValueError as error:
        raise ConfigurationError(
            f"{option} is not JSON: {error}; a string needs its quotes: {option} '\"text\"'"
        ) from error
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"JSON has no {name}")
