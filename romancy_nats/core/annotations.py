"""Annotations as types that pydantic takes, whatever they look like in the source. No codec and no data in here."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import types
import typing
from collections import abc, deque
from collections.abc import Callable, Mapping
from typing import Any, cast

import typing_extensions

from romancy_nats.errors import PayloadError

_MANY: tuple[Any, ...] = (list, set, frozenset, deque)
_AWAITED = (abc.Awaitable, abc.Coroutine, asyncio.Future, asyncio.Task)
_LAZY = (abc.Iterable, abc.Iterator, abc.Collection, abc.Generator, abc.Reversible, abc.Container)


def signature(function: Callable[..., object]) -> inspect.Signature:
    """The signature, annotations unresolved: those of parameters that nobody asks for may stay unresolvable."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(function)


def resolve(
    function: Callable[..., object], what: str, annotation: object, names: Mapping[str, object]
) -> Any:
    """One annotation of a function as a type. `names` are those of the scope around it, for local classes."""
    if annotation is inspect.Parameter.empty:
        return Any
    target = _target(function)
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    module_names = cast("dict[str, Any]", getattr(target, "__globals__", {}))
    try:
        return typing.get_type_hints(holder, module_names, _local_names(target, names), include_extras=True)[
            "it"
        ]
    except NameError as error:
        raise PayloadError(
            f"{_name(target)}: the annotation of {what}, {annotation!r}, cannot be resolved ({error}); define or "
            "import the class at module level, not under TYPE_CHECKING"
        ) from error
    except TypeError as error:
        raise PayloadError(
            f"{_name(target)}: the annotation of {what}, {annotation!r}, is not a type"
        ) from error


def result_annotation(function: Callable[..., object], names: Mapping[str, object] | None = None) -> Any:
    """What a function returns, `Any` where it does not say; of an awaitable, what it gives when it is awaited."""
    if isinstance(function, type):
        # What its `__init__` returns says nothing.
        return Any if issubclass(function, abc.Awaitable) else cast("Any", function)
    found = resolve(function, "the result", signature(function).return_annotation, names or {})
    while (typing.get_origin(found) or found) in _AWAITED:
        found = typing.get_args(found)[-1] if typing.get_args(found) else Any
    return found


def storable(annotation: Any) -> Any:
    """The annotation with what pydantic cannot take, or would read lazily, replaced by what means the same."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in _LAZY:
        return Any
    if origin in _LAZY:
        item = storable(args[0])
        sequences: Any = tuple
        return typing.Union[(sequences[item, ...], *(many[item] for many in _MANY))]
    if sys.version_info < (3, 12) and typing.is_typeddict(annotation):
        return _typed_dict(annotation)
    if origin is None or origin is typing.Literal:
        return annotation
    replaced = tuple(storable(arg) for arg in args)
    if replaced == args:
        return annotation
    if origin is typing.Annotated:
        return typing.Annotated[(replaced[0], *args[1:])]
    if origin is types.UnionType:
        return typing.Union[replaced]  # noqa: UP007
    first, *more = replaced
    return origin[replaced if more else first]


@functools.lru_cache(maxsize=256)
def _typed_dict(cls: Any) -> Any:
    # pydantic refuses typing's own before 3.12, which forgets what is required in inherited fields
    if type(cls).__module__ != "typing":
        return cls
    fields: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        marked = typing.get_origin(hint) in (typing.Required, typing.NotRequired)
        wrapped = marked or name in cls.__required_keys__
        fields[name] = storable(hint) if wrapped else typing.NotRequired[storable(hint)]
    make: Any = typing_extensions.TypedDict
    return make(cls.__name__, fields)


def _target(function: Callable[..., object]) -> Callable[..., object]:
    target: Any = function
    while True:
        if isinstance(target, functools.partial):
            target = cast("functools.partial[object]", target).func
        elif isinstance(target, types.MethodType):
            target = target.__func__
        elif hasattr(target, "__wrapped__"):
            target = target.__wrapped__
        elif not hasattr(target, "__globals__") and hasattr(type(target).__call__, "__globals__"):
            target = type(target).__call__
        else:
            return cast("Callable[..., object]", target)


def _local_names(target: Callable[..., object], names: Mapping[str, object]) -> dict[str, Any]:
    found: dict[str, Any] = dict(names)
    code = getattr(target, "__code__", None)
    cells = getattr(target, "__closure__", None) or ()
    for name, cell in zip(code.co_freevars if code else (), cells, strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    for parameter in getattr(target, "__type_params__", ()):
        found.setdefault(parameter.__name__, parameter)
    return found


def _name(function: Callable[..., object]) -> str:
    return getattr(function, "__qualname__", type(function).__qualname__)
