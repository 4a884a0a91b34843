"""Everything that a user can import says what it does."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest

import romancy_nats


def public(name: str) -> Iterator[tuple[str, object]]:
    """A public name, and the public methods and properties of its class."""
    found = getattr(romancy_nats, name)
    yield name, found
    if not inspect.isclass(found) or issubclass(found, BaseException):
        return
    for attribute, member in vars(found).items():
        if attribute.startswith("_"):
            continue
        if isinstance(member, (staticmethod, classmethod)):
            member = member.__func__
        if inspect.isfunction(member) or isinstance(member, property) or hasattr(member, "attrname"):
            yield f"{name}.{attribute}", member


@pytest.mark.parametrize("name", [name for name in romancy_nats.__all__ if not name.startswith("_")])
def test_a_public_name_has_a_docstring(name: str) -> None:
    lacking = [what for what, member in public(name) if not (getattr(member, "__doc__", None) or "").strip()]
    made = [what for what, member in public(name) if (member.__doc__ or "").startswith(f"{name}(")]
    assert lacking == []
    assert made == [], "a dataclass without a docstring gets its signature for one"
