"""The validator of values that Python code hands over: an instance of an annotated class is taken as it is.

Its class validated it when it was made. Pydantic itself would run the validators of a model again on each instance
that it meets in a container, and lose what no field holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from pydantic import TypeAdapter
from pydantic_core import SchemaValidator, core_schema

_AROUND = frozenset({"function-before", "function-after", "function-wrap"})
_CLASSES = frozenset({"model", "dataclass", "named-tuple"})


def validator_at_entry(adapter: TypeAdapter[Any]) -> SchemaValidator:
    """The validator of an annotation that leaves instances of its classes alone."""
    schema: Any = adapter.core_schema
    wrapped = _wrapped(schema)
    if wrapped is schema:
        return cast("SchemaValidator", adapter.validator)
    return SchemaValidator(wrapped, core_schema.CoreConfig(allow_inf_nan=True))


def _wrapped(node: Any) -> Any:
    """The same schema, itself where nothing in it is wrapped."""
    if isinstance(node, (list, tuple)):
        old = cast("list[Any]", node)
        parts = [_wrapped(part) for part in old]
        same = all(new is part for new, part in zip(parts, old, strict=True))
        kind: Any = tuple if isinstance(node, tuple) else list
        return old if same else kind(parts)
    if not isinstance(node, dict):
        return node
    schema = cast("dict[str, Any]", node)
    cls = _class_of(schema)
    if cls is not None:
        return schema if _leaves_instances(schema) else _around(schema, cls)
    changed = {
        key: part
        for key in schema
        if key not in ("metadata", "default", "serialization", "function", "expected")
        and (part := _wrapped(schema[key])) is not schema[key]
    }
    return {**schema, **changed} if changed else schema


def _class_of(schema: dict[str, Any]) -> type | None:
    """The class whose own schema this is, with the validators of that class around it."""
    kind = schema.get("type")
    if kind == "call":
        function: Any = schema["function"]
        return function if isinstance(function, type) and hasattr(function, "_fields") else None
    if kind in _CLASSES:
        return cast("type", schema["cls"])
    inner: Any = schema
    while kind in _AROUND and "ref" in schema:
        inner = inner["schema"]
        kind = inner["type"]
        if kind in _CLASSES:
            return cast("type", inner["cls"])
    return None


def _leaves_instances(schema: dict[str, Any]) -> bool:
    if schema["type"] not in ("model", "dataclass"):
        return False
    revalidates = schema.get("revalidate_instances") or schema.get("config", {}).get("revalidate_instances")
    return revalidates in (None, "never")


def _around(schema: dict[str, Any], cls: type) -> Any:
    def validate(value: object, validate_other: Callable[[object], object]) -> object:
        return value if isinstance(value, cls) else validate_other(value)

    inner = {key: part for key, part in schema.items() if key != "ref"}
    ref: str | None = schema.get("ref")
    wrapper: Any = core_schema.no_info_wrap_validator_function(validate, cast("Any", inner), ref=ref)
    return wrapper
