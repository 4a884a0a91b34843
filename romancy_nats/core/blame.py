"""Where in a value the part sits that cannot be stored. Only for error messages: slow, and never asked otherwise."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, cast

from pydantic import ValidationError

from romancy_nats.core.shapes import shape_of
from romancy_nats.errors import PayloadError

_DEPTH = 64
_SHOWN = 5


def blame(value: object, pack: Callable[[object], bytes], path: str) -> PayloadError:
    """The error for a value that `pack` refuses, naming the innermost part that is refused."""
    for _ in range(_DEPTH):
        for step, child in _parts(value):
            if _refusal(child, pack) is not None:
                path, value = path + step, child
                break
        else:
            break
    reason = _refusal(value, pack)
    return PayloadError(
        f"{path}: {reason}; return or pass plain values, dataclasses or pydantic models, "
        "and open connections, files and the like inside the activity"
    )


def misfit(error: ValidationError, path: str) -> PayloadError:
    """Pydantic's complaint in one line. The values themselves stay out of it: they may be secret."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    lines = ["".join([path, *(_step(part) for part in item["loc"])]) + f": {item['msg']}" for item in found]
    more = f" (and {len(lines) - _SHOWN} more)" if len(lines) > _SHOWN else ""
    return PayloadError("; ".join(lines[:_SHOWN]) + more)


def _step(part: object) -> str:
    return f"[{part}]" if isinstance(part, int) else f".{part}"


def _refusal(value: object, pack: Callable[[object], bytes]) -> PayloadError | None:
    try:
        pack(value)
    except PayloadError as error:
        return error
    return None


def _parts(value: object) -> Iterator[tuple[str, object]]:
    cls: type = type(value)
    shape = shape_of(cls)
    if shape is not None:
        value = shape.plain(value)
        if isinstance(value, dict):
            yield from ((f".{name}", part) for name, part in cast("dict[str, Any]", value).items())
            return
    parts: Any = value
    if isinstance(value, Mapping):
        yield from ((f"[key {type(key).__name__}]", key) for key in parts)
        yield from ((f"[{key!r:.40}]", part) for key, part in parts.items())
    elif isinstance(value, Collection) and not isinstance(value, (str, bytes, bytearray)):
        yield from ((f"[{index}]", part) for index, part in enumerate(parts))
