"""Values that msgpack has no type for and that hold no other value, as ext types. No containers, no classes."""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from msgpack import ExtType
from pydantic import AnyHttpUrl, AnyUrl, FileUrl, HttpUrl, SecretBytes, SecretStr, WebsocketUrl

DATETIME, DATE, TIME, TIMEDELTA, DECIMAL, UUID_, BIG_INT, TEXT = range(1, 9)

_DURATION = struct.Struct(">iII")


def _zoned(value: datetime | time) -> str:
    zone = value.tzinfo
    if isinstance(zone, ZoneInfo) and zone.key:
        text = f"{value.replace(tzinfo=None).isoformat()}[{zone.key}]"
    else:
        text = value.isoformat()
    return text + "!" if value.fold else text


def _unzoned(cls: type[datetime] | type[time], data: bytes) -> datetime | time:
    text = data.decode()
    fold = text.endswith("!")
    text, _, zone = text.removesuffix("!").removesuffix("]").partition("[")
    value = cls.fromisoformat(text)
    if zone:
        return value.replace(tzinfo=ZoneInfo(zone), fold=fold)
    return value.replace(fold=1) if fold else value


def _big_int(value: int) -> ExtType:
    return ExtType(BIG_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _duration(value: timedelta) -> ExtType:
    return ExtType(TIMEDELTA, _DURATION.pack(value.days, value.seconds, value.microseconds))


def _pattern_text(value: re.Pattern[Any]) -> str:
    text: Any = value.pattern
    return f"s{value.flags}:{text}" if isinstance(text, str) else f"b{value.flags}:{text.decode('latin-1')}"


def _pattern(text: str) -> re.Pattern[Any]:
    head, _, pattern = text.partition(":")
    flags = int(head[1:])
    return re.compile(pattern, flags) if head[0] == "s" else re.compile(pattern.encode("latin-1"), flags)


def _text_types() -> dict[str, tuple[type, Callable[[Any], str], Callable[[str], object]]]:
    addresses: tuple[type, ...] = (
        ipaddress.IPv4Address,
        ipaddress.IPv6Address,
        ipaddress.IPv4Network,
        ipaddress.IPv6Network,
        ipaddress.IPv4Interface,
        ipaddress.IPv6Interface,
    )
    urls: tuple[type, ...] = (AnyUrl, AnyHttpUrl, HttpUrl, FileUrl, WebsocketUrl)
    paths: tuple[type, ...] = (PurePosixPath, PureWindowsPath, Fraction)
    table: dict[str, tuple[type, Callable[[Any], str], Callable[[str], object]]] = {
        cls.__name__: (cls, str, cls) for cls in (*addresses, *urls, *paths)
    }
    table["Path"] = (type(Path()), str, Path)
    table["ZoneInfo"] = (ZoneInfo, lambda zone: str(zone.key), ZoneInfo)
    table["Pattern"] = (re.Pattern, _pattern_text, _pattern)
    table["complex"] = (complex, repr, complex)
    table["SecretStr"] = (SecretStr, lambda secret: str(secret.get_secret_value()), SecretStr)
    table["SecretBytes"] = (
        SecretBytes,
        lambda secret: str(secret.get_secret_value().hex()),
        lambda text: SecretBytes(bytes.fromhex(text)),
    )
    return table


_TEXT = _text_types()


def _named_text(name: str, to_text: Callable[[Any], str]) -> Callable[[Any], ExtType]:
    return lambda value: ExtType(TEXT, f"{name}\0{to_text(value)}".encode("utf-8", "surrogatepass"))


def _from_named_text(data: bytes) -> object:
    name, separator, text = data.decode("utf-8", "surrogatepass").partition("\0")
    if not separator or name not in _TEXT:
        raise ValueError("a text type of an unknown name")
    return _TEXT[name][2](text)


TO_EXT: dict[type, Callable[[Any], ExtType]] = {
    datetime: lambda value: ExtType(DATETIME, _zoned(value).encode()),
    date: lambda value: ExtType(DATE, value.isoformat().encode()),
    time: lambda value: ExtType(TIME, _zoned(value).encode()),
    timedelta: _duration,
    Decimal: lambda value: ExtType(DECIMAL, str(value).encode()),
    UUID: lambda value: ExtType(UUID_, value.bytes),
    int: _big_int,
    **{cls: _named_text(name, to_text) for name, (cls, to_text, _) in _TEXT.items()},
}
"""By exact class. `int` is asked for only beyond 64 bits, which msgpack itself cannot hold."""

FROM_EXT: dict[int, Callable[[bytes], object]] = {
    DATETIME: lambda data: _unzoned(datetime, data),
    DATE: lambda data: date.fromisoformat(data.decode()),
    TIME: lambda data: _unzoned(time, data),
    TIMEDELTA: lambda data: timedelta(*_DURATION.unpack(data)),
    DECIMAL: lambda data: Decimal(data.decode()),
    UUID_: lambda data: UUID(bytes=data),
    BIG_INT: lambda data: int.from_bytes(data, "big", signed=True),
    TEXT: _from_named_text,
}

KIN: tuple[type, ...] = (datetime, date, time, timedelta, Decimal, UUID)
"""Classes whose subclasses are stored as the class itself, where nothing better is known of them."""
