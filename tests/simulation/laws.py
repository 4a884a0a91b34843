"""The laws of ownership, acks and effects, one rule each, against what the server saw (L2, L4, L5, L10)."""

from __future__ import annotations

from itertools import pairwise

from romancy_nats.core.events import ActivityAbandoned, ActivityCompleted, ActivityFailed, ActivityScheduled
from romancy_nats.core.headers import KIND
from romancy_nats.core.record import InstanceStatus
from romancy_nats.ports import Source
from romancy_nats.testing.memory.store import EPOCH
from tests.simulation.case import Case, Placed, Version
from tests.simulation.laws_of_waiting import came_after_its_generation, is_moot, only_moved
from tests.simulation.record import Attempt

DUE = "due"
"""A wake-up of the server: one that was let go promises nothing, and whoever takes it up arms anew."""
_JUST = 1e-5


def check_laws(case: Case) -> None:
    """All of them."""
    _taken_over_rightly(case)
    _ends_for_good(case)
    _commits_by_the_living(case)
    _effects_after_commit(case)
    _nothing_again(case)
    _acked_at_rest(case)


def _taken_over_rightly(case: Case) -> None:
    """L4: a new owner only where nobody lives: a fresh record, one at rest, or one whose owner's key is gone."""
    for before, after in pairwise(case.versions):
        old, new = before.record.owner, after.record.owner
        if new and old and old != new and case.evidence.alive(old, after.time):
            case.fail(f"{after.process} took it over at {after.time:.3f} from {before.process}, which lived")
        if not new and old and before.record.owner != after.record.owner and after.process != before.process:
            case.fail(f"{after.process} laid it to rest at {after.time:.3f}, {before.process} owned it")
        if after.commits < before.commits:
            case.fail(f"its record went back from {before.commits} commits to {after.commits}")


def _ends_for_good(case: Case) -> None:
    for before, after in pairwise(case.versions):
        if before.record.status.ended and not only_moved(before.record, after.record):
            case.fail(f"its record says {before.record.status}, and then {after.record.status}")


def _commits_by_the_living(case: Case) -> None:
    """L10: under an incarnation whose key is gone nothing new is sent. Only where worker and server agree on time."""
    if not case.clocks_agree:
        return
    for stored, commit in case.commits:
        sent = commit.time / 1e6 - EPOCH
        lives = [life for life in case.evidence.lives if life.incarnation == commit.incarnation]
        alive = any(life.began - _JUST <= sent <= life.ended + _JUST for life in lives)
        if not alive and not case.evidence.thawed(stored.process, stored.time):
            case.fail(f"a commit of {sent:.3f} under an incarnation whose lease was gone: {lives}")


def _effects_after_commit(case: Case) -> None:
    scheduled = {p.event.id: p for p in case.events if isinstance(p.event, ActivityScheduled)}
    for attempt in case.attempts:
        asked = scheduled.get(attempt.activity_id)
        if asked is None or attempt.began < asked.time:
            case.fail(f"{attempt.activity_id} began before it was committed (L2)")


def _nothing_again(case: Case) -> None:
    """An attempt may not begin after the result was stored by a process that owns the instance, nor without a lease."""
    over = (ActivityCompleted, ActivityFailed, ActivityAbandoned)
    stored = {p.event.id: p for p in case.events if isinstance(p.event, over)}
    for attempt in case.attempts:
        known = stored.get(attempt.activity_id)
        if known is not None and _owned_since(case, attempt) is not None:
            # The attempts of an abandoned activity go on until the answer to that commit is there.
            grace = case.answered_within if isinstance(known.event, ActivityAbandoned) else 0.0
            loaded = (_owned_since(case, attempt) or 0.0) > known.time
            if attempt.began > known.time + (0.0 if loaded else grace):
                case.fail(
                    f"{attempt.activity_id} began at {attempt.began:.3f}, its end was stored at {known.time:.3f}"
                )
        if not case.evidence.process_alive(attempt.process, attempt.began) and not case.evidence.thawed(
            attempt.process, attempt.began
        ):
            case.fail(
                f"{attempt.activity_id} began at {attempt.began:.3f} in {attempt.process}, which had no lease (L10)"
            )


def _owned_since(case: Case, attempt: Attempt) -> float | None:
    """When the process that began the attempt had become the owner; None when it was not."""
    since: float | None = None
    for version in case.versions:
        if version.time > attempt.began:
            break
        mine = bool(version.record.owner) and version.process == attempt.process
        since = (version.time if since is None else since) if mine else None
    return since


def _acked_at_rest(case: Case) -> None:
    """L5: a message goes only once the record is at rest and covers the commit that holds it."""
    holding: dict[Source, Placed] = {}
    for placed in case.events:
        stream, sequence = getattr(placed.event, "stream", ""), getattr(placed.event, "sequence", 0)
        if sequence:
            holding.setdefault(Source(stream, sequence), placed)
    for source, time in case.evidence.removed.items():
        if source in case.evidence.purged or not _is_for(case, source):
            continue
        due = source.stream == case.evidence.server.timers_stream.name
        kind = DUE if due else case.evidence.messages[source].headers.get(KIND, "")
        published = case.evidence.published[source]
        covered = any(
            _covers(v, holding.get(source), kind, published) or is_moot(case, source, v.commits)
            for v in case.versions
            if v.time <= time and v.settles
        )
        excused = case.evidence.parked(source, time) or came_after_its_generation(case, source, time)
        if not covered and not excused:
            case.fail(f"message {source} was acked at {time:.3f}, before the instance rested with it (L5)")


def _is_for(case: Case, source: Source) -> bool:
    message = case.evidence.messages[source]
    return bool(message.id == case.told.id or case.told.id in message.headers.values())


def _covers(version: Version, holding: Placed | None, kind: str, published: float) -> bool:
    record = version.record
    if version.until < published:
        return False
    if record.status.ended:
        return True
    if holding is not None:
        return version.commits >= holding.commit
    # A start that joins, or a resume: at rest with a first commit is all they ask for.
    queued = record.status is InstanceStatus.QUEUED and kind != DUE
    return kind in ("", "resume", "retry", DUE) and version.commits > 0 and not queued
