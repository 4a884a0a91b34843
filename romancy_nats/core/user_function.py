"""What activities and workflows have in common: a function of the user, its name and its codecs."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, get_origin

from romancy_nats.core.codecs import Codecs
from romancy_nats.core.parameters import Parameters
from romancy_nats.core.payload import ValueCodec

if TYPE_CHECKING:
    from typing import Self

R = TypeVar("R")


class UserFunction(Generic[R]):
    """A function that a decorator of this package wraps."""

    def __init__(self, fn: Callable[..., object], name: str, codecs: Codecs[R]) -> None:
        self.name = name
        self.__doc__ = fn.__doc__
        self.__wrapped__ = fn
        self._codecs = codecs

    @property
    def parameters(self) -> Parameters:
        """The codec of the arguments, those of a workflow without the context."""
        return self._codecs.parameters

    @property
    def result(self) -> ValueCodec[R]:
        """The codec of the result."""
        return self._codecs.result

    def _copy(self) -> Self:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other


def name_of(fn: Any) -> str:
    """The name of a function; of an object that wraps one, the name of that one, or else of its class."""
    while isinstance(fn, functools.partial):
        fn = cast("Any", fn).func
    name = getattr(fn, "__name__", None)
    return name if isinstance(name, str) else type(fn).__name__


def names_around(fn: Callable[..., object]) -> dict[str, object]:
    """The classes in the scope around a nested function: its annotations may name them, and no module has them.

    The scope is that of the nearest caller outside the file that calls this.
    """
    if "<locals>" not in getattr(fn, "__qualname__", ""):
        return {}
    caller = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    frame: FrameType | None = caller
    here = caller.f_code.co_filename
    while frame is not None and frame.f_code.co_filename == here:
        frame = frame.f_back
    if frame is None:
        return {}
    return {
        name: value for name, value in frame.f_locals.items() if isinstance(value, type) or get_origin(value)
    }
