"""THE subject grammar: every stream, consumer and subject name is spelled and read here. Pure; no I/O."""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from romancy_nats.core.cloudevents import check_type
from romancy_nats.core.ids import InstanceKey, check_namespace, decode_token, encode_token
from romancy_nats.errors import InvalidNameError

LONGEST_IN_CONSUMER_NAME = 200
"""A consumer name may have 255 characters; a workflow's token can be longer."""

DISPATCHER = "dispatch"
"""The durable consumer of all events, shared by every worker of the namespace."""

_INCARNATION = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CRON = "_cron"
_LONGEST_TOKEN = 200
_WAIT_TOKENS = 8


class CommitPlace(NamedTuple):
    """What the subject of a commit says."""

    generation: int
    n: int


class Subjects:
    """The names of one namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = ns = check_namespace(namespace)
        upper = ns.upper()
        self.start_stream = f"{upper}_START"
        self.messages_stream = f"{upper}_MESSAGES"
        self.events_stream = f"{upper}_EVENTS"
        self.timers_stream = f"{upper}_TIMERS"
        self.archive_stream = f"{upper}_ARCHIVE"
        self.dead_stream = f"{upper}_DEAD"
        self.workers_bucket = f"{ns}_workers"
        self.workers_stream = f"KV_{self.workers_bucket}"
        self.blobs_store = f"{upper}_blobs"
        self.blobs_stream = f"OBJ_{self.blobs_store}"

    # --- the ledger

    def shard_bucket(self, shard: int) -> str:
        return f"{self.namespace}_{shard}"

    def shard_stream(self, shard: int) -> str:
        return f"KV_{self.namespace}_{shard}"

    def record_prefix(self, shard: int) -> str:
        """A record's subject is this and the key's token."""
        return f"$KV.{self.namespace}_{shard}.instance."

    def commit_prefix(self, shard: int) -> str:
        """A commit's subject is this, the key's token, generation and number."""
        return f"{self.namespace}.history.{shard}."

    def record(self, shard: int, key: InstanceKey) -> str:
        return self.record_prefix(shard) + key.token

    def records(self, shard: int, workflow: str | None = None, id: str | None = None) -> str:
        """The filter for the records of a shard; its two last tokens are workflow and id."""
        return f"{self.record_prefix(shard)}{_token_or_any(workflow)}.{_token_or_any(id)}"

    def commit(self, shard: int, key: InstanceKey, generation: int, n: int) -> str:
        return f"{self.commit_prefix(shard)}{key.token}.{generation}.{n}"

    def live(self, shard: int, key: InstanceKey) -> str:
        """Where the server announces each new commit of an instance, without its content."""
        return f"{self.namespace}.live.{shard}.{key.token}.>"

    # --- the queues

    def start(self, workflow: str) -> str:
        return f"{self.namespace}.start.{encode_token(workflow)}"

    @property
    def starts(self) -> str:
        """The filter for all starts; workflow tokens as they came, of our spelling or not."""
        return f"{self.namespace}.start.*"

    def message(self, key: InstanceKey) -> str:
        return f"{self.namespace}.message.{key.token}"

    def messages(self, workflow: str) -> str:
        return f"{self.namespace}.message.{encode_token(workflow)}.*"

    def dues(self, workflow: str) -> str:
        return f"{self.namespace}.due.{encode_token(workflow)}.>"

    def commits(self, shard: int, key: InstanceKey, generation: int | None) -> str:
        """The filter for all commits of a generation, or of all of them."""
        return f"{self.commit_prefix(shard)}{key.token}.{'*' if generation is None else generation}.*"

    def archive(self, workflow: str) -> str:
        return f"{self.namespace}.archive.{encode_token(workflow)}"

    def dead(self, workflow: str) -> str:
        return f"{self.namespace}.dead.{encode_token(workflow) or '_'}"

    def consumer(self, kind: str, workflow: str) -> str:
        """The durable consumer of a workflow's queue: `start_order_workflow`."""
        token = encode_token(workflow)
        if len(token) > LONGEST_IN_CONSUMER_NAME:
            # `==` is in no encoded token, so that a shortened name never meets another workflow's.
            digest = hashlib.sha256(token.encode()).hexdigest()[:32]
            token = f"{token[:100]}=={digest}"
        return f"{kind}_{token}"

    # --- timers

    def timer(self, key: InstanceKey, generation: int) -> str:
        """Where the schedule of an instance is: one, for the earliest of what it waits for."""
        return f"{self.namespace}.timer.{key.token}.{generation}.next"

    def due(self, key: InstanceKey, generation: int) -> str:
        """Where the server puts a message when that time has come."""
        return f"{self.namespace}.due.{key.token}.{generation}.next"

    # --- events

    def event(self, type: str) -> str:
        """Where events of a type are published; the dots of the type part tokens. Raises InvalidNameError."""
        return f"{self.namespace}.event." + ".".join(map(encode_token, check_type(type).split(".")))

    @property
    def events(self) -> str:
        """The filter for all events."""
        return f"{self.namespace}.event.>"

    @property
    def wait_prefix(self) -> str:
        """How every registration begins."""
        return f"{self.namespace}.wait."

    def waits(self, type: str, event_key: str | None) -> str:
        """The filter for the registrations for events of this type and key; None: those for any key."""
        return f"{self._wait_prefix(type, event_key)}>"

    def wait(self, type: str, event_key: str | None, key: InstanceKey, generation: int, wait: str) -> str:
        """The registration of one wait."""
        return f"{self._wait_prefix(type, event_key)}{key.token}.{generation}.{encode_token(wait)}"

    def _wait_prefix(self, type: str, event_key: str | None) -> str:
        # `=` and `==` are no encoded tokens, so that no key is taken for any key.
        key = "=" if event_key is None else _bounded(encode_token(event_key)) or "=="
        return f"{self.wait_prefix}{_bounded(encode_token(type)) or '=='}.{key}."

    # --- workers

    def lease(self, incarnation: str) -> str:
        return f"$KV.{self.workers_bucket}.{check_incarnation(incarnation)}"

    @property
    def leases_live(self) -> str:
        """Where the server announces each change of a lease, its expiry too."""
        return f"{self.namespace}.lease.*"

    def worker(self, incarnation: str) -> str:
        """Where a worker answers forwards."""
        return f"{self.namespace}.worker.{check_incarnation(incarnation)}"

    def query(self, workflow: str) -> str:
        """Where the workers of a workflow answer queries, each of them one of several."""
        return f"{self.namespace}.query.{encode_token(workflow)}"

    def progress(self, key: InstanceKey) -> str:
        """Where a worker announces how an instance gets on."""
        return f"{self.namespace}.progress.{key.token}"

    # --- reading

    def read_record(self, subject: str) -> InstanceKey | None:
        """The instance of a record's subject; None when it is not one."""
        tokens = subject.split(".")
        if len(tokens) != 5 or tokens[0] != "$KV" or tokens[2] != "instance":
            return None
        return _key(tokens[3], tokens[4])

    def read_commit(self, subject: str) -> CommitPlace | None:
        """Generation and number of a commit's subject, or of its announcement."""
        tokens = subject.split(".")
        if len(tokens) != 7 or not (tokens[5].isdecimal() and tokens[6].isdecimal()):
            return None
        return CommitPlace(int(tokens[5]), int(tokens[6]))

    def read_target(self, subject: str) -> InstanceKey | None:
        """The instance that a message or due timer is for; None when the subject names none."""
        tokens = subject.split(".")
        if len(tokens) < 4 or (tokens[1] == "due" and tokens[3] == _CRON and len(tokens) == 5):
            return None
        return _key(tokens[2], tokens[3])

    def read_workflow(self, subject: str) -> str:
        """The workflow that a subject of a queue names; "" when it is not of our spelling."""
        tokens = subject.split(".")
        try:
            return decode_token(tokens[2]) if len(tokens) > 2 else ""
        except InvalidNameError:
            return ""

    def read_event(self, subject: str) -> str | None:
        """The type of an event by its subject, whose tokens may be spelled as they like; None for none."""
        tokens = subject.split(".")[2:]
        if "\ufffd" in subject or not all(tokens) or "*" in tokens or ">" in tokens:
            return None
        return ".".join(map(_decoded, tokens))

    def read_wait(self, subject: str) -> tuple[InstanceKey, int, str] | None:
        """Instance, generation and wait of a registration."""
        tokens = subject.split(".")
        if len(tokens) != _WAIT_TOKENS or not tokens[6].isdecimal():
            return None
        key = _key(tokens[4], tokens[5])
        return None if key is None else (key, int(tokens[6]), _decoded(tokens[7]))

    def read_lease(self, subject: str) -> str:
        """The incarnation of a lease's subject, or of its announcement."""
        return subject.rpartition(".")[2]


def check_incarnation(incarnation: str) -> str:
    """Return it, or raise InvalidNameError: an incarnation is one plain subject token."""
    if not _INCARNATION.fullmatch(incarnation):
        raise InvalidNameError(
            f"{incarnation!r} is no incarnation: 1 to 64 characters of A-Z, a-z, 0-9, '_', '-'"
        )
    return incarnation


def _bounded(token: str) -> str:
    """A token that fits into a subject beside an instance: the server takes lines of 4,096 bytes."""
    if len(token) <= _LONGEST_TOKEN:
        return token
    # `==` is in no encoded token, so that a shortened one never meets another.
    return f"{token[:_LONGEST_TOKEN]}=={hashlib.sha256(token.encode()).hexdigest()[:32]}"


def _decoded(token: str) -> str:
    try:
        return decode_token(token)
    except InvalidNameError:
        return token


def _token_or_any(text: str | None) -> str:
    return "*" if text is None else encode_token(text)


def _key(workflow_token: str, id_token: str) -> InstanceKey | None:
    try:
        return InstanceKey.from_tokens(workflow_token, id_token)
    except InvalidNameError:
        return None
