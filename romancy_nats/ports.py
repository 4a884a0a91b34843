"""What the engine needs from the world, in domain words. Protocols and plain data only; no implementation.

`jetstream/` implements them on a NATS server, `testing/` in memory with faults; one conformance suite holds both equal.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple, Protocol

from romancy_nats.core.cloudevents import Event as Event
from romancy_nats.core.ids import InstanceKey
from romancy_nats.core.limits import MAX_PAYLOAD, Limits
from romancy_nats.core.messages.envelope import Message
from romancy_nats.core.record import InstanceRecord


class Refusal(Enum):
    """Why a server refused a write."""

    EXISTS = auto()
    """The subject is written already, and it is written once (10077)."""
    STALE = auto()
    """The expected revision is not the last one (10071, 10164): somebody else wrote, or this write did before."""
    TOO_LARGE = auto()
    """Larger than a message may be."""
    DENIED = auto()
    """These credentials may not write there; the text says where."""
    OTHER = auto()
    """Anything else; the text says what."""


@dataclass(slots=True, frozen=True)
class Refused:
    """A write that the server answered with no: it is not, and never will be, stored by this request."""

    why: Refusal
    text: str = ""

    def __str__(self) -> str:
        """What the server said, else what kind of refusal it is."""
        return self.text or self.why.name.lower().replace("_", " ")


class Duplicate(int):
    """The sequence of a message that was stored before under the same message id."""


WriteReply = int | Refused | None
"""A sequence (the write is stored), a refusal, or None: unanswered, which is unknown (L3)."""


class Held(NamedTuple):
    """A record as the leader has it, and its revision: the fencing token of whoever wrote it."""

    record: InstanceRecord
    revision: int


class Listed(NamedTuple):
    """One line of a scan."""

    key: InstanceKey
    record: InstanceRecord
    revision: int


class Source(NamedTuple):
    """A message by its place: the name under which every history recognises it (L5)."""

    stream: str
    sequence: int

    def __str__(self) -> str:
        return f"{self.sequence} of {self.stream}"


class QueueKind(Enum):
    """The work queues of a workflow."""

    START = "start"
    MESSAGE = "message"
    DUE = "due"


class Delivery(Protocol):
    """One message handed to this worker, unacknowledged. `id` is "" where the subject names no instance.

    The three answers never block and are best effort: a lost one means redelivery (L5).
    """

    source: Source
    workflow: str
    id: str
    headers: Mapping[str, str]
    data: bytes
    deliveries: int
    time: int
    """µs since the epoch at which the server stored it."""

    def ack(self) -> None: ...
    def nak(self, delay: float = 0.0) -> None: ...
    def in_progress(self) -> None: ...


@dataclass(slots=True, frozen=True)
class DeadLetter:
    """A message that nobody can use, with the reason; `source` makes parking it twice harmless.

    `id` is that of the instance that it was for, "" where it names none.
    """

    workflow: str
    reason: str
    data: bytes
    headers: Mapping[str, str]
    source: Source
    id: str = ""


class Ledger(Protocol):
    """The shards: instance records and write-once commits."""

    def append(
        self,
        key: InstanceKey,
        generation: int,
        n: int,
        data: bytes,
        fence: int,
        done: Callable[[WriteReply], None],
    ) -> None:
        """Write commit n once, fenced on the record's revision. A callback, because every step passes here."""
        ...

    async def write(self, key: InstanceKey, record: InstanceRecord, expected: int) -> WriteReply:
        """Create (expected 0) or replace the record by compare-and-set; the reply is the new revision."""
        ...

    async def read(self, key: InstanceKey) -> Held | None:
        """The record, from the leader. Raises ServerUnavailableError."""
        ...

    async def read_commit(self, key: InstanceKey, generation: int, n: int) -> bytes | None:
        """Commit n, from the leader. Raises ServerUnavailableError."""
        ...

    async def read_history(self, key: InstanceKey, generation: int, first: int, most: int) -> list[bytes]:
        """Up to `most` commits from `first` on, without a gap; from a replica, so possibly fewer than exist."""
        ...

    def scan(self, workflow: str | None = None, id: str | None = None) -> AsyncIterator[Listed]:
        """Records, of one workflow or one id if named; from a replica."""
        ...

    async def existing(self, keys: Sequence[InstanceKey]) -> Collection[InstanceKey]:
        """Which of these have a record; from a replica. Raises ServerUnavailableError."""
        ...


class Queues(Protocol):
    """The work queues and what is written to them."""

    async def pull(self, kind: QueueKind, workflow: str, most: int) -> Sequence[Delivery]:
        """Wait for messages: one at least, or none after a while. Cancelling it loses nothing."""
        ...

    async def stop_pulling(self) -> None:
        """Hear nothing more, then give back what was pulled and not handed out; after the last `pull`."""
        ...

    async def fetch(self, source: Source) -> Delivery | None:
        """A message by its place, as a forward names it; its answers do nothing, the forwarder gives them (L6)."""
        ...

    async def start(self, workflow: str, data: bytes, headers: Mapping[str, str]) -> WriteReply:
        """Publish a start."""
        ...

    async def send(self, message: Message) -> WriteReply:
        """Publish a message to an instance."""
        ...

    async def park(self, letter: DeadLetter) -> WriteReply:
        """Write a dead letter, once per source."""
        ...

    async def waiting_start(self, key: InstanceKey) -> Delivery | None:
        """The start of this instance that nobody claimed yet, if there is one (a scan: rare, slow)."""
        ...

    async def start_at(self, sequence: int) -> Delivery | None:
        """The start at that place of its stream, from the leader; None when it is acknowledged. Its answers do nothing.

        Raises ServerUnavailableError.
        """
        ...

    def stored_starts(self, workflow: str | None = None) -> AsyncIterator[Delivery]:
        """The starts of one workflow, or of all, that nobody acknowledged, oldest first; their answers do nothing.

        Read in pages from a replica. Raises ServerUnavailableError.
        """
        ...


class Unclaimed(NamedTuple):
    """Starts that wait on one subject. `token` is its last token, `workflow` "" where that is not of our spelling."""

    token: str
    workflow: str
    starts: int


class Orphans(Protocol):
    """Starts for workflows that have no queue, since no worker ever had them."""

    async def workflows(self) -> Collection[str]:
        """Those that have a queue: a worker with each was there once. Raises as `unclaimed` does."""
        ...

    async def unclaimed(self) -> Sequence[Unclaimed]:
        """Which they are. Raises ServerUnavailableError, PermissionDeniedError."""
        ...

    async def oldest(self, token: str, before: int) -> Delivery | None:
        """The oldest start on that subject, if it was stored before that time (µs); its answers do nothing."""
        ...

    async def remove(self, source: Source) -> None:
        """Take a start out of its stream, gone already or not. Raises ServerUnavailableError, PermissionDeniedError."""
        ...


class PublishedEvent(Protocol):
    """An event handed to the dispatcher, unacknowledged; `event` is None when nobody can read it (`reason`).

    `data` and `headers` are those of the message.
    """

    source: Source
    data: bytes
    headers: Mapping[str, str]
    event: Event | None
    reason: str
    deliveries: int

    def ack(self) -> None: ...
    def nak(self, delay: float = 0.0) -> None: ...
    def in_progress(self) -> None: ...


class Registration(NamedTuple):
    """A wait that an event answers."""

    key: InstanceKey
    generation: int
    wait: str


class Events(Protocol):
    """Events, and who waits for them."""

    async def publish(self, event: Event, message_id: str) -> WriteReply:
        """Publish an event; the message id makes a second time harmless."""
        ...

    async def register(
        self, key: InstanceKey, generation: int, wait: str, type: str, event_key: str | None
    ) -> WriteReply:
        """Register a wait, once; refused when it is registered already. `event_key` None hears every key."""
        ...

    async def unregister(
        self, key: InstanceKey, generation: int, wait: str, type: str, event_key: str | None
    ) -> WriteReply:
        """Remove a registration; harmless when it is gone."""
        ...

    async def pull(self, most: int) -> Sequence[PublishedEvent]:
        """Wait for events to dispatch: one at least, or none after a while. Cancelling it loses nothing."""
        ...

    async def stop_pulling(self) -> None:
        """Hear nothing more, then give back what was pulled and not handed out; after the last `pull`."""
        ...

    def matching(self, published: PublishedEvent) -> AsyncIterator[Registration]:
        """Who registered before this event was stored, complete (the barrier of design §5).

        Raises ServerUnavailableError.
        """
        ...


class Archive(Protocol):
    """Where the histories of ended instances go, so that the ledger stays small."""

    async def store(
        self, key: InstanceKey, generation: int, commits: Sequence[bytes]
    ) -> Sequence[int] | None:
        """Copy a whole history; the places to read it from, or None when that is not certain (do it again)."""
        ...

    async def read(self, places: Sequence[int]) -> list[bytes]:
        """The commits at these places. Raises ServerUnavailableError; RetentionError when they have expired."""
        ...

    async def clear(self, key: InstanceKey, generation: int) -> bool:
        """Remove the commits of a generation from the ledger; False when that is not certain."""
        ...

    async def clear_before(self, key: InstanceKey, revision: int) -> bool:
        """Remove all commits, of every generation, that are older than this revision of the record; False as above."""
        ...

    async def seal(self, key: InstanceKey, record: InstanceRecord, expected: int, ttl: float) -> WriteReply:
        """The last write of a record: by compare-and-set, and it expires after `ttl` seconds."""
        ...


class Timers(Protocol):
    """Wake-ups that the server holds while an instance rests: one per instance, the earliest."""

    async def arm(self, key: InstanceKey, generation: int, due: int) -> WriteReply:
        """Put a message into the due queue at `due` µs since the epoch; replaces the one before."""
        ...

    async def disarm(self, key: InstanceKey, generation: int) -> WriteReply:
        """No wake-up any more; harmless when there is none."""
        ...


class Leases(Protocol):
    """The lease keys of running workers: expiry stands in for stale-lock clean-up."""

    async def take(self, incarnation: str, ttl: float, label: str) -> WriteReply:
        """Create the key; the reply is its revision."""
        ...

    async def renew(self, incarnation: str, revision: int, ttl: float, label: str) -> WriteReply:
        """Write the key again by compare-and-set; the reply is the new revision."""
        ...

    async def alive(self, incarnation: str) -> bool:
        """Whether the key exists, from the leader. Raises ServerUnavailableError."""
        ...

    async def release(self, incarnation: str) -> None:
        """Delete the key, so that nobody has to wait for its end."""
        ...

    def deaths(self) -> AsyncIterator[str]:
        """Incarnations whose key went away while watching; a hint, never a proof (ask `alive`)."""
        ...


Answerer = Callable[[bytes], Awaitable[bytes]]


class Wire(Protocol):
    """Ephemeral messages between processes: forwards to an owner, questions to whoever, notices to who waits."""

    async def serve(
        self, name: str, answer: Answerer, *, shared: bool = False
    ) -> Callable[[], Awaitable[None]]:
        """Answer what others ask this incarnation, until the returned function is called.

        With `shared` the name is a workflow, and each question goes to one of those who serve it.
        """
        ...

    async def served(self, workflow: str, timeout: float) -> bool | None:
        """Whether somebody answers questions to this workflow just now; None when that cannot be told in time."""
        ...

    async def ask(self, name: str, question: bytes, timeout: float, *, shared: bool = False) -> bytes | None:
        """Ask an incarnation, or with `shared` one of those who serve a workflow; None when nobody answers."""
        ...

    def notify(self, inbox: str, data: bytes) -> None:
        """Tell a waiting client something; best effort. Subjects that are not inboxes are ignored."""
        ...

    def announce(self, key: InstanceKey, data: bytes) -> None:
        """Tell whoever follows this instance how it gets on; best effort."""
        ...

    def expect(self, notice: Callable[[bytes], None]) -> tuple[str, Callable[[], None]]:
        """An inbox for one notice, and a function that gives it up."""
        ...

    async def follow(
        self,
        key: InstanceKey,
        seen: Callable[[int, int], None],
        heard: Callable[[bytes], None] | None = None,
    ) -> Callable[[], Awaitable[None]]:
        """Call `seen(generation, n)` for each new commit of an instance; best effort (read to be sure).

        With `heard` also for each announcement.
        """
        ...


class Clock(Protocol):
    """Time. `now` is seconds since the epoch; `monotonic` never steps."""

    def now(self) -> float: ...
    def monotonic(self) -> float: ...


class Chance(Protocol):
    """Randomness: ids that are never used twice, and numbers in [0, 1)."""

    def id(self) -> str: ...
    def number(self) -> float: ...


@dataclass(slots=True, frozen=True)
class World:
    """All of it, as one worker or client sees it."""

    ledger: Ledger
    queues: Queues
    orphans: Orphans
    leases: Leases
    wire: Wire
    timers: Timers
    events: Events
    archive: Archive
    clock: Clock
    chance: Chance
    patience: float | None = field(default=None, kw_only=True)
    """Seconds that whoever acts here waits for a server that does not answer: None, a worker's, is for ever."""

    @property
    def max_payload(self) -> int:
        """Bytes of a message that the connected server takes, headers included."""
        return MAX_PAYLOAD

    @property
    def limits(self) -> Limits:
        """What that leaves for what goes into a message."""
        return Limits.of(self.max_payload)
