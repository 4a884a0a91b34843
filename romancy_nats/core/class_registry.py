"""The classes that an annotation can reach, by name. Data can only name a class from here: nothing is ever imported."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

from pydantic import BaseModel

from romancy_nats.core.scalars import TO_EXT
from romancy_nats.core.shapes import ForeignShape, Shape, shape_of
from romancy_nats.errors import PayloadError


class ClassRegistry:
    """Classes found in annotations, and their subclasses. A name has no module, so that classes may move."""

    def __init__(self) -> None:
        self._named: dict[str, Shape] = {}
        self._names: dict[type, str] = {}
        self._entries: dict[type, tuple[str, Shape]] = {}

    def add_schema(self, schema: object) -> None:
        """Register every class of a pydantic core schema, in its order."""
        for cls in _classes(schema, set()):
            shape = shape_of(cls)
            if shape is not None:
                self._add(shape)

    def add_annotation(self, annotation: object) -> None:
        """Register what the core schema of an annotation does not name: classes that pydantic alone can read, and
        those of private attributes."""
        for cls, whole in _annotated(annotation, {}):
            self._add(shape_of(cls) or ForeignShape(cls, whole))

    def entry(self, cls: type) -> tuple[str, Shape] | None:
        """Name and shape under which instances of a class are stored, None when the annotation does not reach it."""
        found = self._entries.get(cls)
        if found is not None:
            return found
        name = self._names.get(cls)
        if name is None:
            origin = _origin(cls)
            if origin is not None and origin in self._names:
                return self.entry(origin)
            name = self._name_of_subclass(cls)
        if name is None:
            return None
        shape = self._shape(cls)
        if shape is None:
            return None
        self._entries[cls] = name, shape
        return name, shape

    def shape(self, name: object) -> Shape:
        """The shape of a name found in data."""
        found = self._named.get(name) if isinstance(name, str) else None
        if found is not None:
            return found
        for known in list(self._named.values()):
            for cls in _subclasses(known.cls):
                if name in (cls.__qualname__, f"{cls.__module__}:{cls.__qualname__}"):
                    shape = self._shape(cls)
                    if shape is not None:
                        return shape
        shown = f"the class {name!r:.80}" if isinstance(name, str) else "a class"
        raise PayloadError(f"it holds {shown}, which the annotation does not name; add it to the annotation")

    def _add(self, shape: Shape) -> None:
        cls = shape.cls
        if cls in self._names:
            return
        name = (
            cls.__qualname__
            if cls.__qualname__ not in self._named
            else f"{cls.__module__}:{cls.__qualname__}"
        )
        self._named[name] = shape
        self._names[cls] = name

    def _shape(self, cls: type) -> Shape | None:
        named = self._names.get(cls)
        if named is not None:
            return self._named[named]
        shape = shape_of(cls)
        if shape is not None:
            return shape
        for base in cls.__mro__[1:]:
            known = self._named.get(self._names.get(base, ""))
            if isinstance(known, ForeignShape):
                return ForeignShape(cls, known.annotation)
        return None

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


def _annotated(
    annotation: Any, seen: dict[int, object], *, private: bool = False
) -> Iterator[tuple[type, object]]:
    """The classes of an annotation that pydantic alone can read, each with the annotation that tells it how; and with
    `private` (of attributes that have no schema) the other classes, too."""
    if id(annotation) in seen:
        return
    seen[id(annotation)] = annotation
    parts: list[tuple[object, bool]] = []
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if type(annotation).__name__ == "TypeAliasType":
        parts = [(annotation.__value__, private)]
    elif origin is not None:
        # `Annotated[X, …]` tells how X is read, which another class has to say itself
        told = origin is typing.Annotated
        cls = args[0] if told else origin
        if isinstance(cls, type) and _is_foreign(cls, told=told):
            yield cls, annotation
        parts = [(part, private) for part in (cls, *(() if told else args))]
    elif isinstance(annotation, type):
        if _is_foreign(annotation) or (private and shape_of(annotation) is not None):
            yield annotation, annotation
        parts = [(hint, private or hidden) for hint, hidden in _hints(annotation)]
    for part, hidden in parts:
        yield from _annotated(part, seen, private=hidden)


def _is_foreign(cls: type, *, told: bool = False) -> bool:
    if cls in TO_EXT or cls.__module__ == "builtins" or typing.is_typeddict(cls) or shape_of(cls) is not None:
        return False
    return told or hasattr(cls, "__get_pydantic_core_schema__")


def _hints(cls: Any) -> Iterator[tuple[object, bool]]:
    """The annotations inside a class, and whether pydantic's schema of the class lacks them."""
    is_model = issubclass(cls, BaseModel)
    if is_model:
        for field in cls.model_fields.values():
            metadata = tuple(field.metadata)
            yield (typing.Annotated[(field.annotation, *metadata)] if metadata else field.annotation), False
        if not cls.__private_attributes__:
            return
    elif not (hasattr(cls, "__dataclass_fields__") or typing.is_typeddict(cls) or hasattr(cls, "_fields")):
        return
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return
    private = getattr(cls, "__private_attributes__", {})
    for name, hint in hints.items():
        if not is_model or name in private:
            yield hint, name in private


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
