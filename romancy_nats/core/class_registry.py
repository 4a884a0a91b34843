"""The classes that an annotation can reach, by name. Data can only name a class from here: nothing is ever imported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, cast

from romancy_nats.core.shapes import Shape, shape_of
from romancy_nats.errors import PayloadError


class ClassRegistry:
    """Classes found in core schemas, and their subclasses. A name has no module, so that classes may move."""

    def __init__(self) -> None:
        self._named: dict[str, Shape] = {}
        self._names: dict[type, str] = {}

    def add_schema(self, schema: object) -> None:
        """Register every class of a pydantic core schema, in its order."""
        for cls in _classes(schema, set()):
            self.add(cls)

    def add(self, cls: type) -> None:
        """Register one class, when it can be taken apart."""
        shape = shape_of(cls)
        if shape is None or cls in self._names:
            return
        name = (
            cls.__qualname__
            if cls.__qualname__ not in self._named
            else f"{cls.__module__}:{cls.__qualname__}"
        )
        self._named[name] = shape
        self._names[cls] = name

    def entry(self, cls: type) -> tuple[str, Shape] | None:
        """Name and shape under which instances of a class are stored, None when the annotation does not reach it."""
        name = self._names.get(cls)
        if name is None:
            origin = _origin(cls)
            if origin is not None and origin in self._names:
                return self.entry(origin)
            name = self._name_of_subclass(cls)
        if name is None:
            return None
        shape = shape_of(cls)
        return None if shape is None else (name, shape)

    def shape(self, name: object) -> Shape:
        """The shape of a name found in data."""
        found = self._named.get(name) if isinstance(name, str) else None
        if found is not None:
            return found
        for known in list(self._named.values()):
            for cls in _subclasses(known.cls):
                if name in (cls.__qualname__, f"{cls.__module__}:{cls.__qualname__}"):
                    return cast("Shape", shape_of(cls))
        raise PayloadError(
            "it holds a class that the annotation does not name; add the class to the annotation"
        )

    def _name_of_subclass(self, cls: type) -> str | None:
        if not any(base in self._names for base in cls.__mro__[1:]):
            return None
        name = cls.__qualname__
        return f"{cls.__module__}:{name}" if name in self._named else name


def _classes(node: object, seen: set[int]) -> Iterator[type]:
    schema: Any = node
    if isinstance(node, Enum):
        yield type(node)
    elif isinstance(node, Mapping):
        if id(schema) in seen:
            return
        seen.add(id(schema))
        cls = schema.get("cls") or schema.get("function")
        if isinstance(cls, type):
            yield from _with_origin(cls)
        for key in schema:
            if key not in ("metadata", "default"):
                yield from _classes(schema[key], seen)
    elif isinstance(node, (list, tuple)) and id(schema) not in seen:
        seen.add(id(schema))
        for item in schema:
            yield from _classes(item, seen)


def _with_origin(cls: type) -> Iterator[type]:
    # pydantic accepts an instance of a bare generic model where a parametrised one is asked for
    yield cls
    origin = _origin(cls)
    if origin is not None:
        yield origin


def _origin(cls: type) -> type | None:
    generic: dict[str, Any] = getattr(cls, "__pydantic_generic_metadata__", {})
    origin: type | None = generic.get("origin")
    return origin


def _subclasses(cls: type) -> Iterator[type]:
    # newest first: a class defined again in a function replaces the one before
    children: list[type] = type.__subclasses__(cls)
    for sub in reversed(children):
        yield sub
        yield from _subclasses(sub)
