"""Recorded inputs held against one another: whether they are the same value, and which arguments differ, for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import msgpack

from romancy_nats.core.shown import shown_value

_MOST_ARGUMENTS = 5
_MOST_CHARACTERS = 200
_BEFORE = 40
"""How much of what is equal is shown before the first difference."""
_ABSENT = "(absent)"


def equal_values(one: bytes, other: bytes) -> bool:
    """Whether two payloads are the same value: as their bytes are, but for the order of the keys of a dict."""
    try:
        return _unordered(one) == _unordered(other)
    except (ValueError, TypeError, RecursionError):
        return False


def same_value(one: Any, other: Any) -> bool:
    """Whether two decoded values are equal and of the same types; raises what a class of the user raises."""
    if type(one) is not type(other):
        return False
    if type(one) in (list, tuple):
        return len(one) == len(other) and all(map(same_value, one, other))
    if type(one) is dict:
        mine, theirs = cast("tuple[dict[Any, Any], dict[Any, Any]]", (one, other))
        return mine.keys() == theirs.keys() and all(same_value(mine[key], theirs[key]) for key in mine)
    return bool(one == other)


def _unordered(data: bytes) -> str:
    # As text: there 1, 1.0 and True differ, and a NaN is the same as another.
    return repr(
        msgpack.unpackb(
            data,
            use_list=False,
            strict_map_key=False,
            unicode_errors="surrogatepass",
            object_pairs_hook=lambda pairs: ("dict", *sorted(pairs, key=repr)),
        )
    )


def differing_arguments(recorded: bytes, given: bytes, names: Sequence[str]) -> list[tuple[str, str, str]]:
    """The arguments that differ as (name, recorded, given), shortened, the first few of them."""
    was, now = _arguments(recorded, names), _arguments(given, names)
    found = [
        (name, *_excerpts(was.get(name, _ABSENT), now.get(name, _ABSENT)))
        for name in dict.fromkeys((*was, *now))
        if was.get(name) != now.get(name)
    ]
    if not found:
        # Classes are not shown, and an encoding of them may differ.
        return [("input", *_excerpts(repr(recorded), repr(given)))]
    if len(found) > _MOST_ARGUMENTS:
        more = f"({len(found) - _MOST_ARGUMENTS} more)"
        return [*found[:_MOST_ARGUMENTS], ("…", more, more)]
    return found


def _arguments(data: bytes, names: Sequence[str]) -> dict[str, str]:
    shown: Any = shown_value(data, None)
    match shown:
        case [list(), dict()]:
            args, kwargs = cast("tuple[list[Any], dict[str, Any]]", shown)
        case _:
            return {"input": _text(shown)}
    named = {
        names[n] if n < len(names) else f"argument {n + 1}": _text(value) for n, value in enumerate(args)
    }
    return named | {str(name): _text(value) for name, value in kwargs.items()}


def _text(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, TypeError, RecursionError):
        return repr(value)


def _excerpts(was: str, now: str) -> tuple[str, str]:
    """Both texts, shortened around the first place where they differ."""
    if max(len(was), len(now)) <= _MOST_CHARACTERS:
        return was, now
    same = next(
        (n for n, (a, b) in enumerate(zip(was, now, strict=False)) if a != b), min(len(was), len(now))
    )
    start = max(0, same - _BEFORE)
    return _excerpt(was, start), _excerpt(now, start)


def _excerpt(text: str, start: int) -> str:
    shown = text[start : start + _MOST_CHARACTERS]
    return f"{'…' if start else ''}{shown}{'…' if start + _MOST_CHARACTERS < len(text) else ''}"


def shortened_text(error: BaseException) -> str:
    """An error in one bounded line. Errors of users may refuse to be printed."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - what a user's __str__ raises
        text = type(error).__name__
    return text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS] + "…"
