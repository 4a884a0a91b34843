"""The laws of timers, events, messages, updates and the archive, one rule each, against what the server saw."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from romancy_nats.core.events import (
    ActivityAttemptFailed,
    EventReceived,
    MessageReceived,
    Skipped,
    TimerCancelled,
    TimerFired,
    TimerStarted,
    UpdateAnswered,
    UpdateRequested,
    WaitEnded,
    WaitStarted,
    WorkflowRecurred,
)
from romancy_nats.core.headers import (
    GENERATION,
    KIND,
    MESSAGE_ID,
    ORIGIN_ID,
    ORIGIN_SEQUENCE,
    ORIGIN_STREAM,
    REASON,
)
from romancy_nats.core.plain import decode_plain
from romancy_nats.core.record import InstanceRecord, InstanceStatus
from romancy_nats.core.waits import EVENT
from romancy_nats.ports import Source
from romancy_nats.runtime.admission import LONGEST_GAP
from romancy_nats.testing.memory.store import EPOCH
from tests.simulation.case import Case, Placed, Said
from tests.simulation.histories import last_words, named
from tests.simulation.kept import Registered, SentEvent

_RESTING = (
    InstanceStatus.WAITING_FOR_EVENT,
    InstanceStatus.WAITING_FOR_MESSAGE,
    InstanceStatus.WAITING_FOR_TIMER,
)
_MICROSECONDS = 1_000_000
FOREVER = float("inf")
COPIED = "ce-type"
"""A header of letters that are copies of events."""


@dataclass(slots=True)
class Wait:
    """A wait for an event as its history tells it."""

    started: WaitStarted
    begun: Placed
    ended: Placed | None = None
    heard: list[Placed] = field(default_factory=list[Placed])
    registered: list[Registered] = field(default_factory=list[Registered])

    def open_after(self, commits: int) -> bool:
        """Whether it was open once that many commits were stored."""
        return self.begun.commit <= commits and (self.ended is None or self.ended.commit > commits)


def check_waiting(case: Case) -> None:
    """All of them."""
    waits = waits_of(case)
    _in_their_time(case, waits)
    _registered_before_rest(case, waits)
    _unregistered_after_the_end(case, waits)
    _no_lost_event(case, waits)
    _no_foreign_event(case, waits)
    _timers_once(case)
    _never_early(case)
    _promised(case)
    _nothing_said_is_lost(case)
    _in_order(case)
    _updates_answered(case)
    _misfits_parked(case)
    _archived_at_the_end(case)


def waits_of(case: Case) -> dict[str, Wait]:
    """The waits for events of one instance, by id."""
    waits: dict[str, Wait] = {}
    for placed in case.events:
        event = placed.event
        if isinstance(event, WaitStarted) and event.kind == EVENT:
            waits[event.id] = Wait(event, placed)
        elif isinstance(event, WaitEnded) and event.id in waits:
            waits[event.id].ended = placed
        elif isinstance(event, EventReceived):
            if event.wait not in waits:
                case.fail(f"{event.wait} heard an event and was never begun")
                continue
            waits[event.wait].heard.append(placed)
    for one in case.evidence.kept.registered:
        name = named(one.generation, one.wait)
        if one.key.id == case.told.id and name in waits:
            waits[name].registered.append(one)
    return waits


def _in_their_time(case: Case, waits: dict[str, Wait]) -> None:
    """An event, or the end of the wait, never both: what comes after the end is not in the history, nothing twice."""
    order = {id(placed): n for n, placed in enumerate(case.events)}
    for name, wait in waits.items():
        ids = [placed.event.event_id for placed in wait.heard if isinstance(placed.event, EventReceived)]
        if len(ids) != len(set(ids)):
            case.fail(f"{name} heard an event twice: {ids}")
        if any(wait.ended is not None and order[id(p)] > order[id(wait.ended)] for p in wait.heard):
            case.fail(f"{name} heard an event after its end (timeout XOR event)")


def _registered_before_rest(case: Case, waits: dict[str, Wait]) -> None:
    """L5: at rest the server knows of every open wait."""
    for version in case.versions:
        if version.record.owner or version.record.status not in _RESTING:
            continue
        for name, wait in waits.items():
            known = any(one.time <= version.time for one in wait.registered)
            if wait.open_after(version.commits) and not known:
                case.fail(f"at rest at {version.time:.3f} with {name} open and not registered (L5)")


def _unregistered_after_the_end(case: Case, waits: dict[str, Wait]) -> None:
    """A registration lasts as long as its wait; a write that landed after the end of its wait may stay."""
    for name, wait in waits.items():
        over = wait.ended.time if wait.ended is not None else FOREVER
        for one in wait.registered:
            if one.removed < over:
                case.fail(f"{name} was unregistered at {one.removed:.3f}, before its end")
            if one.removed == FOREVER and one.time < over and case.record and case.record.status.ended:
                case.fail(f"{name} is still registered, and is over since {over:.3f}")


def _fits(one: Registered, event: SentEvent) -> bool:
    key = one.heard.key
    return one.heard.type == event.type and (key is None or key == event.key)


def _no_lost_event(case: Case, waits: dict[str, Wait]) -> None:
    """Every event that came after a registration was sent to it before it was acknowledged (no lost wake-up)."""
    sent = {
        message.headers.get(MESSAGE_ID, "")
        for message in case.evidence.messages.values()
        if message.id == case.told.id
    }
    for name, wait in waits.items():
        for one in wait.registered:
            for event in case.evidence.kept.events.values():
                due = event.sequence > one.sequence and _fits(one, event) and event.time < one.removed
                if due and event.acked < one.removed and _message_id(case, event.sequence, one) not in sent:
                    case.fail(f"event {event.sequence} was not sent to {name}, registered as {one.sequence}")


def _message_id(case: Case, sequence: int, told: Registered) -> str:
    return f"{case.token}:{sequence}:{told.generation}:{told.wait}"


def _no_foreign_event(case: Case, waits: dict[str, Wait]) -> None:
    """A wait hears only what is for it and came after its registration."""
    for name, wait in waits.items():
        for placed in wait.heard:
            assert isinstance(placed.event, EventReceived)
            sequence = int(placed.event.message_id.removeprefix(case.token).split(":")[1])
            event = case.evidence.kept.events.get(sequence)
            if event is None or not any(
                one.sequence < sequence and _fits(one, event) for one in wait.registered
            ):
                case.fail(f"{name} heard event {sequence}, which is not for it")


def _timers_once(case: Case) -> None:
    over: Counter[str] = Counter()
    begun = {p.event.id for p in case.events if isinstance(p.event, TimerStarted)}
    for placed in case.events:
        if isinstance(placed.event, TimerFired | TimerCancelled):
            over[placed.event.id] += 1
            if placed.event.id not in begun:
                case.fail(f"{placed.event.id} is over and was never begun")
    for id, times in over.items():
        if times > 1:
            case.fail(f"{id} both fired and was stopped, or one of them twice")


def _never_early(case: Case) -> None:
    """L8, by the server's clock: where all clocks agree nothing is stored, or tried again, before it is due."""
    if not case.clocks_agree:
        return
    due = {p.event.id: p.event.due for p in case.events if isinstance(p.event, TimerStarted)}
    for placed in case.events:
        event = placed.event
        if isinstance(event, TimerFired):
            early = due.get(event.id, 0) / _MICROSECONDS - EPOCH - placed.time
            if early > 1e-6:
                case.fail(f"{event.id} was stored {early:.6f} s before it was due")
        if isinstance(event, ActivityAttemptFailed) and event.retry_at:
            _not_tried_early(case, placed, event)


def _not_tried_early(case: Case, placed: Placed, failed: ActivityAttemptFailed) -> None:
    """Whoever recorded a long pause keeps it. What it tried before, and could not record, does not count."""
    owner = case.commits[placed.commit - 1][0].process
    mine = [a for a in case.attempts if a.activity_id == failed.id and a.process == owner]
    ends = [a.ended for a in mine if a.number == failed.attempt and a.ended is not None]
    since = max((end for end in ends if end <= placed.time), default=float("inf"))
    retry = failed.retry_at / _MICROSECONDS - EPOCH
    for attempt in mine:
        if attempt.number == failed.attempt + 1 and since <= attempt.began < retry - 1e-5:
            case.fail(f"{failed.id} was tried again {retry - attempt.began:.6f} s before its time")


def _promised(case: Case) -> None:
    """L8: a record at rest promises to wake for its earliest timer."""
    for version in case.versions:
        record = version.record
        if record.owner or record.status not in _RESTING:
            continue
        dues: dict[str, int] = {}
        for placed in case.events:
            if placed.commit > version.commits:
                break
            if isinstance(placed.event, TimerStarted):
                dues[placed.event.id] = placed.event.due
            elif isinstance(placed.event, TimerFired | TimerCancelled):
                dues.pop(placed.event.id, None)
        first = min(dues.values(), default=0)
        if first and not 0 < record.next_due <= first:
            case.fail(f"at rest until {record.next_due}, and a timer is due at {first}")


def _nothing_said_is_lost(case: Case) -> None:
    """L9: a message that was acknowledged is in the history once, or came after the end and was parked."""
    held = Counter(p.event.id for p in case.events if isinstance(p.event, MessageReceived))
    parked = {
        letter.headers.get("Romancy-Origin-Msg-Id", ""): letter.headers.get(REASON, "")
        for letter in case.evidence.server.dead_stream.messages.values()
    }
    for said in case.told.said:
        if said.kind != "message" or said.refused:
            continue
        letter = parked.get(f"{case.token}:{said.value}")
        if held[said.value] + (letter is not None) != 1:
            case.fail(f"message {said.value} is {held[said.value]} times in its history, parked: {letter}")
        if letter is not None and "InstanceEndedError" not in letter:
            case.fail(f"message {said.value} was parked: {letter}")


def _in_order(case: Case) -> None:
    """The messages of one sender as it sent them; one that is missing is waited for, but not for ever."""
    patience = LONGEST_GAP * case.evidence.server.ack_wait
    senders: dict[str, list[tuple[MessageReceived, Placed]]] = {}
    for placed in case.events:
        if isinstance(placed.event, MessageReceived) and placed.event.order:
            senders.setdefault(placed.event.sender, []).append((placed.event, placed))
    for messages in senders.values():
        for n, (late, _) in enumerate(messages):
            first = next((each for each in messages[:n] if each[0].order > late.order), None)
            if first is None or not case.clocks_agree:
                continue
            waited = first[1].time - (first[0].time / _MICROSECONDS - EPOCH)
            if waited < patience - 1e-3:
                case.fail(
                    f"message {late.id} came after the later {first[0].id}, which waited {waited:.3f} s"
                )


def _updates_answered(case: Case) -> None:
    """Recorded once, answered once, and the caller was told that answer."""
    asked = Counter(p.event.id for p in case.events if isinstance(p.event, UpdateRequested))
    answers: dict[str, list[UpdateAnswered]] = {}
    for placed in case.events:
        if isinstance(placed.event, UpdateAnswered):
            answers.setdefault(placed.event.id, []).append(placed.event)
    for id, times in asked.items():
        if times != 1 or len(answers.get(id, ())) != 1:
            case.fail(
                f"update {id} is {times} times in its history, answered {len(answers.get(id, ()))} times"
            )
    for said in case.told.said:
        if said.kind == "update":
            _was_told(case, said, answers.get(said.value, []))


def _was_told(case: Case, said: Said, answers: list[UpdateAnswered]) -> None:
    recorded = answers[0] if answers else None
    if recorded is None:
        if not said.refused:
            case.fail(
                f"update {said.value} was answered {said.answer!r}, and its history knows nothing of it"
            )
    elif recorded.rejected != said.refused or bool(recorded.failure) != bool(said.error):
        case.fail(f"update {said.value}: the history says {recorded}, the caller was told {said}")
    elif not recorded.failure and decode_plain(recorded.result) != said.answer:
        case.fail(f"update {said.value} was answered {said.answer!r}, not what its history says")


def _misfits_parked(case: Case) -> None:
    """What was skipped is heard by nobody else, and a copy of it is parked; of nothing else there is one."""
    skipped = {
        Source(event.stream, event.sequence)
        for placed in case.events
        if isinstance(event := placed.event, Skipped)
    }
    for source in skipped:
        if not case.evidence.parked(source, FOREVER):
            case.fail(f"{source} was skipped, and no copy of it is parked (L9)")
    for letter in case.evidence.server.dead_stream.messages.values():
        source = Source(letter.headers[ORIGIN_STREAM], int(letter.headers[ORIGIN_SEQUENCE]))
        mine = COPIED in letter.headers and letter.headers.get(ORIGIN_ID) == case.told.id
        if mine and source not in skipped:
            case.fail(f"{source} was not skipped, and is parked: {letter.headers.get(REASON)}")


def _archived_at_the_end(case: Case) -> None:
    """Only what has ended leaves the ledger, after the archive has it; the record stays what it was."""
    cleared = {place: time for place, time in case.cleared.items() if place.generation == case.last}
    for version in case.versions:
        record = version.record
        if (record.archived or record.sealed) and not record.status.ended:
            case.fail(f"archived although {record.status}")
        if record.sealed and len(cleared) < record.commits:
            case.fail(f"sealed with {record.commits} commits, {len(cleared)} were cleared")
    if case.archived and case.record is not None and case.record.status.ended and not case.record.sealed:
        case.fail("its history never left the ledger")
    for place, time in cleared.items():
        version = case.at(time)
        if version is None or not version.record.status.ended or not version.record.archived:
            case.fail(f"commit {place.n} left the ledger at {time:.3f}, when no archive had it")
    last = case.histories.commits[case.last] if case.commits else []
    if case.told.reread is not None and case.told.reread != [stored.data for stored, _ in last]:
        case.fail("its history reads otherwise when all is over")


def only_moved(before: InstanceRecord, after: InstanceRecord) -> bool:
    """Whether two records of an ended instance differ only in where its history is."""
    return replace(before, archived=after.archived, sealed=after.sealed, write=after.write) == after


def is_moot(case: Case, source: Source, commits: int) -> bool:
    """Whether an event, or a message for the second time, has nothing to tell to an instance with so many commits."""
    message = case.evidence.messages[source]
    name = message.headers.get(MESSAGE_ID, "")
    for placed in case.events:
        if placed.commit > commits:
            break
        if name and getattr(placed.event, "message_id", "") == name:
            return True
        over = isinstance(placed.event, WaitEnded) and name.endswith(
            last_words(placed.generation, placed.event.id)
        )
        if over and message.headers.get(KIND) == EVENT:
            return True
    return False


def came_after_its_generation(case: Case, source: Source, time: float) -> bool:
    """Whether it is an event for a wait of a generation that was over by then: nobody will ever hear it."""
    headers = case.evidence.messages[source].headers
    return headers.get(KIND) == EVENT and any(
        isinstance(placed.event, WorkflowRecurred)
        and placed.time <= time
        and placed.generation == int(headers[GENERATION])
        for placed in case.events
    )
