"""Whether a value that was read back has the form that its annotation asks for: classes and names of fields.

Read from pydantic's core schema of the annotation, but no validator, converter or constraint in it runs: a value that
was valid when it was recorded stays one. What a converter may make of its input is not known, so anything fits there.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias, cast

Misfit: TypeAlias = tuple[str, str] | None
"""Where a value does not fit and why, None when it does."""
Rest: TypeAlias = Callable[[Any], Misfit]


class Check(NamedTuple):
    """Instances of the `exact` classes fit; `rest` decides about others. No check at all: anything fits."""

    exact: frozenset[type]
    rest: Rest

    def misfit(self, value: object) -> Misfit:
        """Why a value does not fit."""
        return None if type(value) in self.exact else self.rest(value)


_SCALARS: dict[str, tuple[type, ...]] = {
    "none": (type(None),),
    "bool": (bool,),
    "int": (int,),
    "float": (float, int),
    "complex": (complex, float, int),
    "decimal": (decimal.Decimal,),
    "str": (str,),
    "bytes": (bytes,),
    "date": (datetime.date,),
    "time": (datetime.time,),
    "datetime": (datetime.datetime,),
    "timedelta": (datetime.timedelta,),
    "uuid": (uuid.UUID,),
}
_COLLECTIONS: dict[str, type] = {"list": list, "set": set, "frozenset": frozenset, "deque": deque}
# not narrowed by a type checker: what is inside is not known
_TUPLE: Any = tuple
_MAPPING: Any = Mapping
_DICT: Any = dict
_INSIDE = {"function-before": "schema", "custom-error": "schema", "json-or-python": "python_schema"}
_CLASSES = frozenset({"model", "dataclass", "named-tuple", "enum", "is-instance"})


def check_of(schema: object) -> Check | None:
    """The check that a core schema stands for, None when anything fits."""
    return Conformity(schema).check


class Conformity:
    """A core schema with its definitions, to which its parts may refer."""

    def __init__(self, schema: object) -> None:
        self._definitions: dict[str, Any] = {}
        self._made: dict[str, Check | None] = {}
        root: Any = schema
        while root["type"] == "definitions":
            self._definitions |= {item["ref"]: item for item in root["definitions"]}
            root = root["schema"]
        self._root = root

    @property
    def check(self) -> Check | None:
        """The check of the whole."""
        return self._check(self._root)

    def fields(self) -> dict[str, Check | None]:
        """The checks of the fields of a model or dataclass, by name."""
        node = self._resolved(self._root)
        while isinstance(node, dict) and node["type"] not in ("model-fields", "dataclass-args"):
            node = self._resolved(cast("dict[str, Any]", node).get("schema"))
        if not isinstance(node, dict):
            return {}
        found: Any = cast("dict[str, Any]", node)["fields"]
        by_name: dict[str, Any] = (
            cast("dict[str, Any]", found)
            if isinstance(found, dict)
            else {field["name"]: field for field in found}
        )
        return {name: self._check(field["schema"]) for name, field in by_name.items()}

    def _resolved(self, node: Any) -> Any:
        schema = cast("dict[str, Any] | None", node)
        if schema is not None and schema["type"] == "definition-ref":
            return self._definitions.get(schema["schema_ref"])
        return schema

    def _check(self, node: Any) -> Check | None:
        if node is None:
            return None
        kind: str = node["type"]
        if kind in _SCALARS:
            return _instances(_SCALARS[kind])
        if kind in _CLASSES:
            return _instances(_with_origin(node["cls"]))
        if kind in _COLLECTIONS:
            return _collection(_COLLECTIONS[kind], self._check(node.get("items_schema")))
        if kind in _INSIDE:
            return self._check(node[_INSIDE[kind]])
        make = getattr(self, f"_{kind.replace('-', '_')}", None)
        return None if make is None else make(node)

    def _definition_ref(self, node: Any) -> Check | None:
        ref: str = node["schema_ref"]
        target = self._definitions.get(ref)
        if target is None or target["type"] in _CLASSES:
            return self._check(target)

        def rest(value: Any) -> Misfit:
            if ref not in self._made:
                self._made[ref] = self._check(target)
            check = self._made[ref]
            return None if check is None else check.misfit(value)

        return Check(frozenset(), rest)

    def _nullable(self, node: Any) -> Check | None:
        return _any_of([_instances((type(None),)), self._check(node["schema"])])

    def _union(self, node: Any) -> Check | None:
        choices: list[Any] = [
            cast("Any", item)[0] if isinstance(item, tuple) else item for item in node["choices"]
        ]
        return _any_of([self._check(choice) for choice in choices])

    def _tagged_union(self, node: Any) -> Check | None:
        return _any_of([self._check(choice) for choice in node["choices"].values()])

    def _lax_or_strict(self, node: Any) -> Check | None:
        return _any_of([self._check(node["lax_schema"]), self._check(node["strict_schema"])])

    def _chain(self, node: Any) -> Check | None:
        return self._check(node["steps"][-1])

    def _json(self, node: Any) -> Check | None:
        return self._check(node.get("schema"))

    def _default(self, node: Any) -> Check | None:
        check = self._check(node["schema"])
        default = node.get("default", ...)
        if check is None or check.misfit(default) is None or not _is_scalar(default):
            return check
        # a default is never validated: `name: str = None` is a fact of life
        return _any_of([check, _one_of([default])])

    def _literal(self, node: Any) -> Check:
        return _one_of(node["expected"])

    def _tuple(self, node: Any) -> Check:
        items = [self._check(item) for item in node["items_schema"]]
        variadic: int | None = node.get("variadic_item_index")

        def rest(value: Any) -> Misfit:
            if not isinstance(value, _TUPLE):
                return _wrong(value, (tuple,))
            values: tuple[Any, ...] = value
            more = len(values) - len(items)
            if (variadic is None and more) or more < -1:
                return "", f"it has {len(values)} items, not {len(items)}"
            checks = (
                items
                if variadic is None
                else items[:variadic] + [items[variadic]] * (more + 1) + items[variadic + 1 :]
            )
            return _first(enumerate(zip(checks, values, strict=True)))

        return Check(frozenset(), rest)

    def _dict(self, node: Any) -> Check:
        keys, values = self._check(node.get("keys_schema")), self._check(node.get("values_schema"))

        def rest(value: Any) -> Misfit:
            if not isinstance(value, _MAPPING):
                return _wrong(value, (dict,))
            found: Mapping[Any, Any] = value
            if keys is not None and not keys.exact.issuperset(map(type, found)):
                for key in found:
                    wrong = keys.misfit(key)
                    if wrong is not None:
                        return f"[key {type(key).__name__}]{wrong[0]}", wrong[1]
            if values is None or values.exact.issuperset(map(type, found.values())):
                return None
            return _first((f"{key!r:.40}", (values, item)) for key, item in found.items())

        return Check(frozenset(), rest)

    def _typed_dict(self, node: Any) -> Check:
        total = node.get("total", True)
        fields = {
            name: (self._check(field["schema"]), field.get("required", total))
            for name, field in node["fields"].items()
        }

        def rest(value: Any) -> Misfit:
            if not isinstance(value, _DICT):
                return _wrong(value, (dict,))
            found: dict[Any, Any] = value
            for name, (check, required) in fields.items():
                if name not in found:
                    if required:
                        return f"[{name!r}]", "it is missing, and required"
                    continue
                wrong = None if check is None else check.misfit(found[name])
                if wrong is not None:
                    return f"[{name!r}]{wrong[0]}", wrong[1]
            return None

        return Check(frozenset(), rest)


def _with_origin(cls: Any) -> tuple[Any, ...]:
    # pydantic takes an instance of a bare generic model where a parametrised one is asked for
    origin = getattr(cls, "__pydantic_generic_metadata__", {}).get("origin")
    return (cls,) if origin is None else (cls, origin)


def _instances(classes: tuple[Any, ...]) -> Check | None:
    def rest(value: object) -> Misfit:
        return None if isinstance(value, classes) else _wrong(value, classes)

    return Check(frozenset(cls for cls in classes if isinstance(cls, type)), rest)


def _collection(cls: type, items: Check | None) -> Check:

    def rest(value: Any) -> Misfit:
        if not isinstance(value, cls):
            return _wrong(value, (cls,))
        if items is None:
            return None
        found = cast("Collection[Any]", value)
        if items.exact.issuperset(map(type, found)):
            return None
        return _first((index, (items, item)) for index, item in enumerate(found))

    return Check(frozenset(), rest)


def _one_of(expected: list[Any]) -> Check:
    shown = ", ".join(map(repr, expected))[:200]

    def rest(value: object) -> Misfit:
        return None if value in expected else ("", f"it is none of {shown}")

    return Check(frozenset(), rest)


def _any_of(checks: list[Check | None]) -> Check | None:
    known = [check for check in checks if check is not None]
    if len(known) < len(checks):
        return None

    def rest(value: object) -> Misfit:
        wrong: Misfit = None
        for check in known:
            wrong = check.rest(value)
            if wrong is None:
                return None
        return wrong if len(known) == 1 else _wrong(value, tuple(exact))

    exact = frozenset(cls for check in known for cls in check.exact)
    return Check(exact, rest)


def _first(parts: Iterable[tuple[object, tuple[Check | None, Any]]]) -> Misfit:
    for step, (check, item) in parts:
        wrong = None if check is None else check.misfit(item)
        if wrong is not None:
            return f"[{step}]{wrong[0]}", wrong[1]
    return None


def _wrong(value: object, classes: tuple[Any, ...]) -> Misfit:
    names = sorted({str(getattr(cls, "__name__", cls)) for cls in classes})
    wanted = " or ".join(names).replace("NoneType", "None") or "what the annotation asks for"
    return "", f"{_article(type(value))} was recorded, the annotation asks for {wanted}"


def _article(cls: type) -> str:
    return "None" if cls is type(None) else f"{'an' if cls.__name__[0] in 'aeiou' else 'a'} {cls.__name__}"


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, bytes))
