"""Names and ids: what is allowed, how they are spelled in a subject, which shard they belong to. Nothing else."""

from __future__ import annotations

import re

from romancy_nats.errors import InvalidNameError

MAX_ID_CHARACTERS = 128
MAX_NAME_CHARACTERS = 128
MAX_TEXT_CHARACTERS = 255
"""Of the names of channels, queries and updates."""

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_PLAIN_TEXT = re.compile(r"[A-Za-z0-9_-]+")
_ENCODED_TOKEN = re.compile(r"(?:[A-Za-z0-9_-]|=[0-9A-F]{2})+")
_NAMESPACE = re.compile(r"[a-z0-9-]{1,32}")
_FNV_OFFSET = 2166136261
_FNV_PRIME = 16777619


def encode_token(text: str) -> str:
    """Spell any text as one subject token; injective, so nothing unencoded ever reaches a subject or a filter."""
    if _PLAIN_TEXT.fullmatch(text):
        return text
    return "".join(chr(byte) if byte in _PLAIN else f"={byte:02X}" for byte in text.encode())


def decode_token(token: str) -> str:
    """The text that `encode_token` spelled; raises InvalidNameError for any other token."""
    if _PLAIN_TEXT.fullmatch(token):
        return token
    if not _ENCODED_TOKEN.fullmatch(token):
        raise InvalidNameError(f"{token!r} is not an encoded token")
    out = bytearray()
    position = 0
    while position < len(token):
        if token[position] == "=":
            out.append(int(token[position + 1 : position + 3], 16))
            position += 3
        else:
            out.append(ord(token[position]))
            position += 1
    try:
        text = out.decode()
    except UnicodeDecodeError as error:
        raise InvalidNameError(f"{token!r} is not an encoded token: {error}") from error
    if encode_token(text) != token:
        raise InvalidNameError(f"{token!r} is not the one spelling of {text!r}")
    return text


def fnv1a32(token: str) -> int:
    """FNV-1a 32 of the token's bytes: the hash of the server's own `partition()` mapping."""
    value = _FNV_OFFSET
    for byte in token.encode():
        value = ((value ^ byte) * _FNV_PRIME) & 0xFFFFFFFF
    return value


def check_text(text: str, what: str, longest: int = MAX_TEXT_CHARACTERS) -> str:
    """Return the text, or raise InvalidNameError: 1 to `longest` characters of any text that UTF-8 can spell."""
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidNameError(f"{what} is text, not {type(text).__name__}")
    if not 1 <= len(text) <= longest:
        raise InvalidNameError(f"{what} has 1 to {longest} characters, this one has {len(text)}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidNameError(f"{what} must be text that UTF-8 can spell: {error}") from error
    return text


def check_id(text: str, what: str = "an instance id") -> str:
    """Return the id, or raise InvalidNameError: ids are 1 to 128 characters of any text that UTF-8 can spell."""
    return check_text(text, what, MAX_ID_CHARACTERS)


def check_name(text: str, what: str = "a workflow name") -> str:
    """Return the name of a workflow or an activity, or raise InvalidNameError."""
    return check_text(text, what, MAX_NAME_CHARACTERS)


def check_message_id(text: str) -> str:
    """Return the id by which a message is known again, or raise InvalidNameError: it stands in a header as it is."""
    check_text(text, "a message id")
    if not text.isprintable():
        raise InvalidNameError(f"a message id is printable text on one line, not {text!a}")
    return text


def check_namespace(text: str) -> str:
    """Return the namespace, or raise InvalidNameError."""
    if not _NAMESPACE.fullmatch(text):
        raise InvalidNameError(f"a namespace has 1 to 32 characters of a-z, 0-9 and '-', not {text!r}")
    return text


class InstanceKey:
    """The identity of an instance: (workflow, id), with its spelling in subjects kept at hand."""

    __slots__ = ("_hash", "id", "id_token", "token", "workflow")

    def __init__(self, workflow: str, id: str) -> None:
        self.workflow = check_name(workflow)
        self.id = check_id(id)
        self.id_token = encode_token(id)
        self.token = f"{encode_token(workflow)}.{self.id_token}"
        self._hash = -1

    @classmethod
    def from_tokens(cls, workflow_token: str, id_token: str) -> InstanceKey:
        """The key spelled by two subject tokens; raises InvalidNameError when they are not of our spelling."""
        return cls(decode_token(workflow_token), decode_token(id_token))

    def shard(self, shards: int) -> int:
        """The number of the ledger shard that holds this instance."""
        if self._hash < 0:
            self._hash = fnv1a32(self.id_token)
        return self._hash % shards

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InstanceKey) and self.token == other.token

    def __hash__(self) -> int:
        return hash(self.token)

    def __repr__(self) -> str:
        return f"{self.workflow}/{self.id}"
