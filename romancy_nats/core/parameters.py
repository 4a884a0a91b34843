"""The codec of the arguments of one function: calls <-> bytes. Single values are the business of payload.py.

The bytes are msgpack, `[[positional…], {keyword: …}]`, and canonical: however a call is spelt, with keywords or
without, with defaults given or left out, its bytes are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from inspect import BoundArguments, Parameter
from typing import Any, NamedTuple, NotRequired, Required, Unpack, cast, get_args, get_origin, get_type_hints

from romancy_nats.core.annotations import resolve, signature
from romancy_nats.core.class_registry import ClassRegistry
from romancy_nats.core.limits import MAX_BYTES, scan_msgpack, shortened
from romancy_nats.core.msgpack_types import EXT_CODES, Decoder, pack_scalar
from romancy_nats.core.payload import ValueCodec
from romancy_nats.errors import PayloadError

NO_ARGUMENTS = b"\x92\x90\x80"

_BY_POSITION = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_ABSENT = Parameter.empty
_OPTIONAL = object()
_LONGEST_REASON = 2_000
_EXPLICIT = frozenset({"args", "kwargs"})

Call = tuple[list[Any], dict[str, Any]]


class ArgumentsNotMadeError(PayloadError):
    """The recorded reason why there are no arguments for a call: no further attempt finds any."""


class Slot(NamedTuple):
    """One parameter."""

    name: str
    codec: ValueCodec[Any]
    default: object
    by_keyword: bool


Enter = Callable[[Slot, str, object], bytes]
"""The bytes of one argument, given under a name."""


class Parameters:
    """What a function takes. `skip_first` leaves out the context of a workflow; `names` are those of the scope around
    the function, needed only when annotations name local classes."""

    def __init__(
        self,
        function: Callable[..., object],
        skip_first: bool = False,
        names: Mapping[str, object] | None = None,
    ) -> None:
        self.name: str = getattr(function, "__name__", type(function).__name__)
        own = signature(function)
        parameters = list(own.parameters.values())[1 if skip_first else 0 :]
        self._signature = own.replace(parameters=parameters, return_annotation=Parameter.empty)
        self._registry = ClassRegistry()
        self._default_bytes: dict[str, bytes | None] = {}
        self._positional: list[Slot] = []
        self._keyword: dict[str, Slot] = {}
        self._more: Slot | None = None
        self._more_keyword: Slot | None = None
        for parameter in parameters:
            self._add(
                parameter,
                resolve(function, repr(parameter.name), parameter.annotation, names or {}),
            )
        self._by_keyword = {slot.name: slot for slot in self._positional if slot.by_keyword} | self._keyword
        self._all = {slot.name: slot for slot in self._positional} | self._keyword
        self._required = [name for name, slot in self._all.items() if slot.default is _ABSENT]
        others = (self._keyword, self._more, self._more_keyword)
        self._by_position_only = not any(others)
        self._head = b"\x92" + _header(0x90, 0xDC, len(self._positional))

    @property
    def names(self) -> list[str]:
        """The names of the parameters that may be given by position, in order."""
        return [slot.name for slot in self._positional]

    def encode(self, args: Sequence[object] = (), kwargs: Mapping[str, object] | None = None) -> bytes:
        """The bytes of a call; raises PayloadError when the arguments do not fit."""
        if not self._all and not args and not kwargs and self._by_position_only:
            return NO_ARGUMENTS
        if not kwargs and self._by_position_only and len(args) <= len(self._positional):
            defaults = [self._default(slot) for slot in self._positional[len(args) :]]
            if None not in defaults:
                values = [
                    slot.codec.encode(value) for slot, value in zip(self._positional, args, strict=False)
                ]
                return b"".join((self._head, *values, *cast("list[bytes]", defaults), b"\x80"))
        return self._compose(self._bound(args, kwargs or {}), _encoded)

    def encode_known(self, call: Call, annotations: Mapping[str, object]) -> bytes:
        """The bytes of a call with values that were converted before, as the `annotations` by argument name say.

        What this function annotates in the same way is stored as it is, the rest as by `encode`.
        """

        def enter(slot: Slot, name: str, value: object) -> bytes:
            known = name in annotations and annotations[name] == slot.codec.annotation
            return slot.codec.pack(value) if known else slot.codec.encode(value)

        return self._compose(self._bound(*call), enter)

    def decode(self, data: bytes) -> Call:
        """The arguments of a call; raises PayloadError when the bytes cannot be read or are no such arguments."""
        if data == NO_ARGUMENTS and not self._required:
            return [], {}
        call: Any = Decoder(self._registry).unpack(data)
        if not _is_call(call):
            if isinstance(call, str):
                raise ArgumentsNotMadeError(f"{self.name}: {call}")
            raise PayloadError(f"{self.name}: these bytes are not the arguments of a call")
        if not call[1] and self._by_position_only and len(call[0]) == len(self._positional):
            return [recall(value) for recall, value in zip(self._recalls, call[0], strict=True)], {}
        return self._read(call[0], call[1], ValueCodec[Any].recall)

    def bind(self, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, object]:
        """The arguments by name, defaults filled in; raises PayloadError as a call would raise TypeError."""
        bound = self._bound(args, kwargs)
        bound.apply_defaults()
        return dict(bound.arguments)

    def named(self, data: bytes) -> dict[str, Any]:
        """The arguments of a call by name, those of `**kwargs` among them."""
        args, kwargs = self.decode(data)
        found = self.bind(args, kwargs)
        if self._more_keyword is not None:
            found |= cast("dict[str, Any]", found.pop(self._more_keyword.name))
        return found

    def from_plain(self, body: object) -> bytes:
        """The bytes of a call that came as JSON or msgpack from anywhere; raises PayloadError with a readable reason.

        `{"args": [...], "kwargs": {...}}`, or an object of keyword arguments, or the one model parameter itself;
        nothing at all is a call without arguments.
        """
        if body is None:
            return self._encode_plain([], {})
        if not isinstance(body, dict):
            raise PayloadError(
                f'{self.name}: a start is an object, {{"args": [...], "kwargs": {{...}}}} or the arguments by name, '
                f"not {_json_kind(body)}"
            )
        given = cast("dict[str, Any]", body)
        if given.keys() & _EXPLICIT:
            return self._encode_plain(*self._explicit(given))
        model = self._model()
        if model is not None and given.keys() != {model.name}:
            return self._encode_plain([given], {})
        try:
            return self._encode_plain([], given)
        except PayloadError:
            if model is None:
                raise
            return self._encode_plain([given], {})

    def canonical(self, data: bytes, *, max_bytes: int = MAX_BYTES) -> bytes:
        """The bytes of a call that a client encoded, in the one form that this code gives them.

        Its values are valid: limits and form are checked, and defaults that this code has beside it are filled in.
        Raises PayloadError.
        """
        scan_msgpack(data, EXT_CODES, max_bytes=max_bytes)
        return self.renewed(data)

    def renewed(self, data: bytes) -> bytes:
        """The bytes that this code gives to a recorded call: decoded and encoded again, nothing validated or converted.

        Raises PayloadError when this code cannot read them.
        """
        return self._compose(self._bound(*self.decode(data)), _packed)

    def check(self) -> None:
        """Raises PayloadError when an argument has a type of which no value can be stored."""
        for slot in (*self._all.values(), *filter(None, (self._more, self._more_keyword))):
            slot.codec.check()

    @cached_property
    def annotations(self) -> dict[str, object]:
        """The annotation of each argument by name."""
        slots = [*self._all.values(), *filter(None, (self._more, self._more_keyword))]
        return {slot.name: slot.codec.annotation for slot in slots}

    @cached_property
    def _recalls(self) -> list[Callable[[object], Any]]:
        return [slot.codec.recall for slot in self._positional]

    def _default(self, slot: Slot) -> bytes | None:
        """The bytes of a default, converted like a value that is given; None when there is none to store."""
        if slot.default is _ABSENT or slot.default is _OPTIONAL:
            return None
        if slot.name not in self._default_bytes:
            try:
                self._default_bytes[slot.name] = slot.codec.encode(slot.default)
            except PayloadError:
                self._default_bytes[slot.name] = None
        return self._default_bytes[slot.name]

    def _bound(self, args: Sequence[object], kwargs: Mapping[str, object]) -> BoundArguments:
        try:
            return self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise PayloadError(f"{self.name}(): {error}") from error

    def _add(self, parameter: Parameter, annotation: Any) -> None:
        if parameter.kind is Parameter.VAR_KEYWORD and get_origin(annotation) is Unpack:
            for name, marked in get_type_hints(get_args(annotation)[0], include_extras=True).items():
                hint = get_args(marked)[0] if get_origin(marked) in (Required, NotRequired) else marked
                self._keyword[name] = self._slot(name, hint, _OPTIONAL, by_keyword=True)
            annotation = Any
        by_keyword = parameter.kind is not Parameter.POSITIONAL_ONLY
        slot = self._slot(parameter.name, annotation, parameter.default, by_keyword=by_keyword)
        if parameter.kind in _BY_POSITION:
            self._positional.append(slot)
        elif parameter.kind is Parameter.KEYWORD_ONLY:
            self._keyword[slot.name] = slot
        elif parameter.kind is Parameter.VAR_POSITIONAL:
            self._more = slot
        else:
            self._more_keyword = slot

    def _slot(self, name: str, annotation: Any, default: object, *, by_keyword: bool) -> Slot:
        codec = ValueCodec[Any](annotation, name=f"{self.name}(): argument {name!r}", registry=self._registry)
        return Slot(name, codec, default, by_keyword)

    def _compose(self, bound: BoundArguments, enter: Enter) -> bytes:
        args: list[bytes] = []
        kwargs: dict[str, bytes] = {}
        given = bound.arguments
        extra: dict[str, Any] = {**given.get(self._more_keyword.name, {})} if self._more_keyword else {}
        rest: Sequence[object] = given.get(self._more.name, ()) if self._more else ()
        in_order = True
        for slot in self._positional:
            data = self._argument(slot, given, enter)
            if data is None and rest:
                raise PayloadError(f"{slot.codec.name}: its default cannot be stored; give it a value")
            if data is None:
                in_order = False
            elif in_order:
                args.append(data)
            else:
                kwargs[slot.name] = data
        if self._more is not None:
            args += [enter(self._more, self._more.name, value) for value in rest]
        for name, slot in self._keyword.items():
            holder = extra if name in extra else given
            data = self._argument(slot, holder, enter)
            if data is not None:
                kwargs[name] = data
            extra.pop(name, None)
        if self._more_keyword is not None:
            kwargs |= {name: enter(self._more_keyword, name, extra[name]) for name in sorted(extra)}
        pairs = [part for name, data in kwargs.items() for part in (pack_scalar(name), data)]
        return b"".join(
            (b"\x92", _header(0x90, 0xDC, len(args)), *args, _header(0x80, 0xDE, len(kwargs)), *pairs)
        )

    def _argument(self, slot: Slot, given: Mapping[str, object], enter: Enter) -> bytes | None:
        """The bytes of an argument; None for a default that cannot be stored, which every call then makes anew."""
        if slot.name not in given:
            return self._default(slot)
        value = given[slot.name]
        try:
            return enter(slot, slot.name, value)
        except PayloadError:
            if value is slot.default:
                return None
            raise

    def _read(
        self, args: Sequence[Any], kwargs: Mapping[Any, Any], read: Callable[[ValueCodec[Any], Any], Any]
    ) -> Call:
        if len(args) > len(self._positional) and self._more is None:
            raise PayloadError(
                f"{self.name}() takes {len(self._positional)} positional arguments, not {len(args)}"
            )
        found = [read(slot.codec, value) for slot, value in zip(self._positional, args, strict=False)]
        if self._more is not None:
            found += [read(self._more.codec, value) for value in args[len(self._positional) :]]
        named: dict[str, Any] = {}
        taken = [slot.name for slot in self._positional[: len(args)]]
        for name, value in kwargs.items():
            slot = self._by_keyword.get(name, self._more_keyword)
            if slot is None or type(name) is not str:
                raise PayloadError(f"{self.name}() has no argument {_shown(name)}{self._choices()}")
            if name in taken and name in self._by_keyword:
                raise PayloadError(f"{self.name}(): argument {name!r} is given twice")
            named[name] = read(slot.codec, value)
        missing = [name for name in self._required if name not in taken and name not in named]
        if missing:
            what = "argument" if len(missing) == 1 else "arguments"
            raise PayloadError(f"{self.name}() misses the {what} {', '.join(map(repr, missing))}")
        return found, named

    def _encode_plain(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
        return self._compose(self._bound(*self._read(args, kwargs, ValueCodec[Any].fit_plain)), _packed)

    def _explicit(self, body: dict[str, Any]) -> Call:
        call: Any = [body.get("args", []), body.get("kwargs", {})]
        if body.keys() - _EXPLICIT or not _is_call(call):
            raise PayloadError(
                f'{self.name}: beside "args" (an array) and "kwargs" (an object) a start has no other fields'
            )
        return call[0], call[1]

    def _model(self) -> Slot | None:
        only = list(self._all.values())
        if len(only) == 1 and self._more is None and self._more_keyword is None and only[0].codec.takes_model:
            return only[0]
        return None

    def _choices(self) -> str:
        return f"; it takes {', '.join(self._all)}" if self._all else "; it takes none"


def no_call(reason: str) -> bytes:
    """In place of the bytes of a call whose arguments could not be made: to decode them raises the reason."""
    return pack_scalar(shortened(reason, _LONGEST_REASON))


def fingerprint(data: bytes) -> str:
    """Sixteen hex digits that stand for the canonical bytes of a call."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def bind_compensation(function: Callable[..., object], arguments: Mapping[str, Any], result: object) -> Call:
    """The call of a compensation: the arguments of its activity by name, as far as it takes them, and `result`.

    An argument of the activity that is itself named `result` goes before the result.
    """
    given: Mapping[str, Any] = {"result": result, **arguments}
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    parameters = signature(function).parameters
    before_more = any(parameter.kind is Parameter.VAR_POSITIONAL for parameter in parameters.values())
    for name, parameter in parameters.items():
        if parameter.kind is Parameter.VAR_KEYWORD:
            kwargs |= {key: value for key, value in arguments.items() if key not in kwargs}
        elif parameter.kind is Parameter.VAR_POSITIONAL:
            args += given.get(name, ())
        elif before_more and parameter.kind in _BY_POSITION and parameter.default is not _ABSENT:
            args.append(given.get(name, parameter.default))
        elif name in given:
            if parameter.kind is Parameter.POSITIONAL_ONLY or (
                before_more and parameter.kind in _BY_POSITION
            ):
                args.append(given[name])
            else:
                kwargs[name] = given[name]
        elif parameter.default is _ABSENT:
            raise PayloadError(
                f"compensation {getattr(function, '__name__', function)!r} takes {name!r}, its activity does not; "
                f"it may take {', '.join(given)}"
            )
    return args, kwargs


def _encoded(slot: Slot, name: str, value: object) -> bytes:
    return slot.codec.encode(value)


def _packed(slot: Slot, name: str, value: object) -> bytes:
    return slot.codec.pack(value)


def _is_call(found: Any) -> bool:
    return isinstance(found, list) and [type(part) for part in cast("list[object]", found)] == [list, dict]


def _header(small: int, large: int, count: int) -> bytes:
    if count < 16:
        return bytes((small + count,))
    return bytes((large,)) + count.to_bytes(2, "big")


def _json_kind(body: object) -> str:
    kinds: dict[type, str] = {
        list: "an array",
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
    }
    return kinds.get(type(body), f"a {type(body).__name__}")


def _shown(name: object) -> str:
    return repr(name)[:80] if isinstance(name, str) else f"of type {type(name).__name__}"
