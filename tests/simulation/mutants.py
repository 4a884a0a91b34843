"""Which mutants of the engine are tried: the law each breaks, a seed that shows it, and the rule that has to see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tests.simulation import guards_of_generations as recurring
from tests.simulation import guards_of_ownership as ownership
from tests.simulation import guards_of_waiting as waiting
from tests.simulation import guards_of_work as work

Patch = pytest.MonkeyPatch


@dataclass(frozen=True, slots=True)
class Mutant:
    """One guard taken out. `lean` sets faults of the seed's plan; from `seed` on some seed shows the words `seen`."""

    law: str
    change: Callable[[Patch], None]
    seed: int
    seen: str
    lean: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def name(self) -> str:
        return self.change.__name__


def both(*changes: Callable[[Patch], None]) -> Callable[[Patch], None]:
    """Two guards taken out at once, where either alone makes up for the other."""

    def change(patch: Patch) -> None:
        for each in changes:
            each(patch)

    change.__name__ = " and ".join(each.__name__ for each in changes)
    return change


_WRITES = ("lost_ack", "committed_error", "late_write", "lost_write", "no_responders")
QUIET: dict[str, float] = dict.fromkeys((*_WRITES, "outage", "pause", "slow"), 0.0)
STALLING: dict[str, float] = {"pause": 0.1, "pause_for": 60, "no_responders": 0.2, "crash": 0}
SHORT_STALLS: dict[str, float] = {"pause": 0.1, "pause_for": 20, "latency": 0.3}

LATE: dict[str, float] = {"late_write": 0.1, "crash": 0.04, "latency": 1.0, "workers": 2}
STALE: dict[str, float] = {"stale_read": 0.5, "stale_by": 30, "replicas": 3, "crash": 0.02}
ALONE: dict[str, float] = {**STALLING, "pause_for": 30, "late_expiry": 0, "workers": 1}

DOUBTFUL: dict[str, float] = {
    "pause": 0.05,
    "pause_for": 17,
    "late_expiry": 1.0,
    "late_expiry_by": 20,
    "crash": 0,
    "outage": 0,
}
UNSURE: dict[str, float] = {"committed_error": 0.2, "lost_ack": 0.2, "crash": 0.05, "latency": 0.3}
LOSING: dict[str, float] = {"lost_ack": 0.2, "lost_write": 0.2, "crash": 0.05}

MUTANTS = (
    Mutant("L1", ownership.commit_not_fenced, 299, "fenced on another revision", LATE),
    Mutant("L1", ownership.message_claims_before_the_first_commit, 76, "(L5)"),
    Mutant("L1", ownership.conflict_is_joined, 2, "0 dead letters"),
    Mutant("L1", ownership.conflict_runs, 34, "which lived"),
    Mutant("L2", ownership.effects_before_commit, 1, "(L2)"),
    Mutant("L2", work.abandoned_goes_on, 293, "its end was stored at", QUIET),
    Mutant("L3", both(ownership.refused_commit_counts, work.lease_always_valid), 265, "(L2)", STALLING),
    Mutant("L3", ownership.unanswered_counts_as_stored, 10, "gaps"),
    Mutant("L3", ownership.resent_under_another_number, 10, "gaps"),
    Mutant("L3", ownership.refused_record_counts_as_ours, 531, "its record says"),
    Mutant("L4", ownership.claim_without_cas, 42, "which lived"),
    Mutant("L4", ownership.rest_without_cas, 308, "its record says"),
    Mutant("L4", ownership.load_before_claim, 1011, "its end was stored at", LATE),
    Mutant(
        "L4",
        ownership.replica_is_believed,
        40,
        "its end was stored at",
        {"stale_read": 0.5, "stale_by": 30, "replicas": 3, "crash": 0.02},
    ),
    Mutant("L4", ownership.owner_is_not_asked, 14, "which lived"),
    Mutant("L4", ownership.incarnation_used_again, 0, "a second time", {"lost_ack": 0.2}),
    Mutant(
        "L4",
        ownership.lost_lease_drops_nothing,
        0,
        "whose lease was gone",
        ALONE,
    ),
    Mutant("L5", work.ack_on_arrival, 0, "there is no record"),
    Mutant("L5", work.ack_at_the_commit, 0, "(L5)"),
    Mutant("L5", work.ack_while_it_runs, 0, "(L5)"),
    Mutant("L5", work.forward_is_believed, 14, "(L5)"),
    Mutant("L5", work.message_taken_twice, 82, "in its history twice"),
    Mutant("L5", work.pending_not_begun_again, 6, "never ended"),
    Mutant("L6", work.no_sweeper, 314, "never ended"),
    Mutant("L6", work.sweeper_forgets_what_was_let_go, 612, "never ended", {"purge_at": 5, "crash": 0.05}),
    Mutant("L7", work.late_completion_counts, 66, "never began"),
    Mutant("L7", work.completion_recorded_twice, 0, "has two results"),
    Mutant("L8", work.time_runs_backwards, 246, "time runs backwards"),
    Mutant("L8", work.timer_early, 0, "before it was due"),
    Mutant("L8", work.firing_recorded_early, 306, "before it was due", {"clock_jump": 0.05, "latency": 0.3}),
    Mutant("L9", work.client_takes_silence_for_yes, 2, "there is no record"),
    Mutant("L9", work.client_waits_for_news_only, 30, "a user still waits"),
    Mutant("L10", work.lease_always_valid, 3, "whose lease was gone", {"pause": 0.1, "pause_for": 60}),
    Mutant("L10", work.nothing_held_back_is_begun, 475, "a user still waits", SHORT_STALLS),
    Mutant("L10", work.put_off_turn_is_lost, 122, "a user still waits", DOUBTFUL),
    Mutant("L10", work.ended_is_begun_again, 141, "its end was stored at", SHORT_STALLS),
    Mutant("retry", work.one_attempt_too_few, 0, "was given up after"),
    Mutant("retry", work.one_attempt_too_many, 0, "was tried 5 times"),
    Mutant("saga", work.compensations_forward, 8, "owed"),
    Mutant("saga", work.one_compensation_forgotten, 3, "owed"),
    Mutant("saga", work.failed_is_compensated, 8, "owed"),
    Mutant("saga", work.compensations_not_awaited, 3, "ended before its compensations"),
    Mutant("L5", waiting.event_without_barrier, 31, "was not sent to", {"stale_read": 0.8, "replicas": 3}),
    Mutant("L5", waiting.event_acked_before_it_is_told, 169, "was not sent to"),
    Mutant("L5", waiting.registered_after_rest, 69, "not registered (L5)"),
    Mutant("L5", waiting.registration_stays, 19, "is still registered"),
    Mutant("L5", waiting.timeout_and_event, 42, "timeout XOR event"),
    Mutant("L5", waiting.message_lost_at_rest, 224, "times in its history"),
    Mutant("L5", waiting.resume_answered_from_memory, 6101, "(L5)", {**SHORT_STALLS, "crash": 0.02}),
    Mutant("L6", waiting.order_is_not_kept, 30, "came after the later"),
    Mutant("L6", waiting.own_message_gets_no_number, 160, "came after the later", UNSURE),
    Mutant("L8", waiting.due_fires_what_comes_later, 208, "before it was due"),
    Mutant("L8", waiting.nothing_promised, 8, "and a timer is due"),
    Mutant("L8", waiting.retry_begun_at_once, 1053, "before its time", DOUBTFUL),
    Mutant("L9", waiting.drained_with_something_in_hand, 591, "WorkflowStalledError", STALLING),
    Mutant("L9", waiting.skipped_is_never_parked, 184, "no copy of it is parked"),
    Mutant("L9", waiting.skipped_is_parked_twice, 184, "was not skipped, and is parked"),
    Mutant("archive", waiting.the_living_are_archived, 42, "archived although"),
    Mutant("archive", waiting.cleared_before_it_is_archived, 14, "when no archive had it"),
    Mutant("archive", waiting.nobody_tidies, 14, "never left the ledger"),
    Mutant("L5", recurring.earlier_messages_are_forgotten, 743, "parked: InstanceEnded", LOSING),
    Mutant(
        "L5", recurring.acked_between_generations, 5, "(L5)", {"pause": 0.02, "pause_for": 17, "crash": 0.04}
    ),
    Mutant("archive", recurring.old_histories_stay, 42, "the ledger still holds"),
)
