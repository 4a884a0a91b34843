"""The saga of one generation: what was done and how it is undone, newest first. No loop and no history in here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from romancy_nats.core.activity import Activity
from romancy_nats.core.error_text import is_one_of, shown, value_text
from romancy_nats.core.limits import MAX_VALUE, fitting
from romancy_nats.core.parameters import bind_compensation, no_call
from romancy_nats.errors import PayloadError

PREFIX = "compensate:"


@dataclass(slots=True, frozen=True)
class Undo:
    """One compensation to run. `undoes` is the id of the activity, or the name it was registered under."""

    undoes: str
    compensation: Activity[..., Any]
    input: bytes

    @property
    def id(self) -> str:
        """The activity id under which the compensation is recorded."""
        return PREFIX + self.undoes


class Saga:
    """The compensations of completed activities, in the order of their completions."""

    def __init__(self) -> None:
        self._undos: list[Undo] = []
        self._registered = 0

    def completed(
        self, id: str, activity: Activity[..., Any], input: bytes, result: bytes, most: int = MAX_VALUE
    ) -> None:
        """An activity is recorded as completed: from now on its compensation is owed.

        When its arguments, of at most `most` bytes, cannot be made, it is owed all the same: it fails, and says why.
        """
        compensation = activity.compensation
        if compensation is None:
            return
        try:
            arguments = activity.parameters.named(input)
            call = bind_compensation(compensation.fn, arguments, activity.result.decode(result))
            annotations = {"result": activity.result.annotation, **activity.parameters.annotations}
            what = f"the input of compensation {compensation.name!r}"
            owed = fitting(compensation.parameters.encode_known(call, annotations), what, most)
        except BaseException as error:  # noqa: BLE001 - the boundary: what is done is done, whatever its types say
            owed = no_call(value_text(error) if is_one_of(error, (PayloadError,)) else shown(error))
        self._undos.append(Undo(id, compensation, owed))

    def register(
        self,
        fn: Activity[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        most: int = MAX_VALUE,
    ) -> None:
        """Owe a compensation that belongs to no activity; raises PayloadError when its arguments do not fit."""
        input = fitting(fn.parameters.encode(args, kwargs), f"the input of compensation {fn.name!r}", most)
        self._registered += 1
        self._undos.append(Undo(f"{fn.name}:{self._registered}", fn, input))

    def newest_first(self) -> list[Undo]:
        """What is owed, in the order in which it is to be carried out."""
        return self._undos[::-1]
