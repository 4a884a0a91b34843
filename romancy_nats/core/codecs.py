"""The codecs of one user function, shared by all copies of its definition that differ in their options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Generic, TypeVar

from romancy_nats.core.annotations import result_annotation
from romancy_nats.core.parameters import Parameters
from romancy_nats.core.payload import ValueCodec

R = TypeVar("R")


class Codecs(Generic[R]):
    """Made on first use, when forward references can be resolved; `names` are those of the scope of the function."""

    def __init__(
        self, fn: Callable[..., object], names: Mapping[str, object], *, skip_first: bool = False
    ) -> None:
        self._fn = fn
        self._names = names
        self._skip_first = skip_first

    @cached_property
    def parameters(self) -> Parameters:
        """Of the arguments."""
        return Parameters(self._fn, skip_first=self._skip_first, names=self._names)

    @cached_property
    def result(self) -> ValueCodec[R]:
        """Of what it returns."""
        name = getattr(self._fn, "__name__", type(self._fn).__name__)
        return ValueCodec[R](result_annotation(self._fn, self._names), name=f"{name}(): the result")

    @cached_property
    def bound(self) -> Codecs[R]:
        """Of the function as the method of an object."""
        return Codecs(self._fn, self._names, skip_first=True)
