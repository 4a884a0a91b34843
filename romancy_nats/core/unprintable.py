"""The text of objects that are not ours: whatever their `__str__` and `__repr__` do, there is a short text."""

from __future__ import annotations

from collections.abc import Callable

LONGEST = 1000


def text_of(value: object, longest: int = LONGEST) -> str:
    """`str(value)`, or what can be said of a value that has no text."""
    return _spelled(str, value, longest)


def shown(value: object, longest: int = LONGEST) -> str:
    """`repr(value)`, or what can be said of a value that has none."""
    return _spelled(repr, value, longest)


def _spelled(spell: Callable[[object], str], value: object, longest: int) -> str:
    try:
        # A subclass of str may lie again.
        text = "".join(spell(value))
        return text if len(text) <= longest else text[: longest - 1] + "…"
    except BaseException:  # noqa: BLE001 - code of a user's class may raise anything
        return f"<{type(value).__qualname__} without a text>"
