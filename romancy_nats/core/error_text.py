"""Exceptions, and other objects that are not ours, as text. Nothing here raises, whatever the class of a user does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, cast

SHORT = 200
"""Characters of the text of an error in a line of a log."""
LONG = 1000
"""Characters of the text of any other object."""


def class_name(cls: type) -> str:
    """The name of a class as the interpreter knows it: a metaclass or an attribute may tell another."""
    return cast("str", _of_type(cls, "__name__"))


def class_module(cls: type) -> str:
    """The module of a class as the interpreter knows it; a question mark when that is no text."""
    module = _of_type(cls, "__module__")
    return module if isinstance(module, str) else "?"


def class_qualname(cls: type) -> str:
    """The qualified name of a class as the interpreter knows it."""
    return cast("str", _of_type(cls, "__qualname__"))


def class_key(cls: type) -> str:
    """Module and qualified name of a class, the key under which errors are recorded."""
    return f"{class_module(cls)}.{class_qualname(cls)}"


def error_text(error: BaseException, most: int = SHORT) -> str:
    """What `str(error)` gives, at most `most` characters of it; a note in angle brackets when that fails."""
    return _spelled(str, error, most)


def value_text(value: object, most: int = LONG) -> str:
    """The same for any object."""
    return _spelled(str, value, most)


def value_repr(value: object, most: int = LONG) -> str:
    """The same for `repr(value)`."""
    return _spelled(repr, value, most)


def shown(error: BaseException, most: int = SHORT) -> str:
    """Class and text of an error in one line that any log can write: what UTF-8 cannot spell is escaped."""
    text = error_text(error, most)
    name = class_name(type(error))
    return f"{name}: {text}".encode("utf-8", "backslashreplace").decode() if text else name


def is_one_of(error: BaseException, classes: Iterable[type[BaseException]]) -> bool:
    """Whether `except` would catch it: by its real class, not by `__class__` or what a metaclass says."""
    return any(type.__subclasscheck__(cls, type(error)) for cls in classes)


def cause_of(error: BaseException) -> BaseException | None:
    """The `__cause__` that `raise … from` set, also of a class that shadows the attribute."""
    found: BaseException | None = _of_error(error, "__cause__")
    return found


def args_of(error: BaseException) -> tuple[object, ...]:
    """The `args` that the exception was made with, also of a class that shadows the attribute."""
    found: tuple[object, ...] = _of_error(error, "args")
    return found


def traceback_of(error: BaseException) -> TracebackType | None:
    """The traceback that it was raised with, also of a class that shadows the attribute."""
    found: TracebackType | None = _of_error(error, "__traceback__")
    return found


def _spelled(spell: Callable[[object], str], value: object, most: int) -> str:
    try:
        # A subclass of str may cut, format and encode itself as it likes.
        return str.__getitem__(spell(value), slice(most))
    except BaseException as problem:  # noqa: BLE001 - the boundary: it is code of a user
        return f"<its __{spell.__name__}__ failed: {class_name(type(problem))}>"


def _of_type(cls: type, name: str) -> Any:
    slot: Any = type.__dict__[name]
    return slot.__get__(cls)


def _of_error(error: BaseException, name: str) -> Any:
    slot: Any = BaseException.__dict__[name]
    return slot.__get__(error)
