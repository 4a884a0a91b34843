"""The laws of `ctx.recur`: a generation begins once, with what the one before left, and then that leaves the ledger."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from romancy_nats.core.definition import Workflow
from romancy_nats.core.events import Event, WorkflowRecurred, WorkflowStarted
from tests.simulation.case import Case


def check_generations(case: Case, workflow: Workflow[..., Any]) -> None:
    """All of them."""
    histories = [
        [event for _, commit in history for event in commit.events] for history in case.histories.commits
    ]
    for generation, events in enumerate(histories):
        _begun_once(case, generation, events)
    if histories and histories[0]:
        _its_own_input(case, histories[0], workflow)
    for before, after in pairwise(histories):
        _inherited(case, before, after)
    _cleared_in_time(case)


def _begun_once(case: Case, generation: int, events: list[Event]) -> None:
    if sum(isinstance(event, WorkflowStarted) for event in events) != 1:
        case.fail(f"generation {generation} was not started exactly once")
    elif not isinstance(events[0], WorkflowStarted):
        case.fail(f"something happened to generation {generation} before its start")


def _its_own_input(case: Case, events: list[Event], workflow: Workflow[..., Any]) -> None:
    for event in events:
        if isinstance(event, WorkflowStarted):
            args, kwargs = workflow.parameters.decode(event.input)
            if [*args, *kwargs.values()] != [case.told.program]:
                case.fail("it runs another input than the one that was accepted")


def _inherited(case: Case, before: list[Event], after: list[Event]) -> None:
    """What one generation says at its end is what the next one begins with."""
    ending = before[-1] if before else None
    if not isinstance(ending, WorkflowRecurred):
        case.fail(f"another generation began after {type(ending).__name__}")
        return
    for event in after:
        if isinstance(event, WorkflowStarted):
            if event.input != ending.input:
                case.fail("a generation runs another input than `recur` was given")
            if event.carried != ending.carried:
                case.fail("a generation inherits something else than what was left to it")


def _cleared_in_time(case: Case) -> None:
    """No old history stays; none goes before the record names the next generation."""
    assert case.record is not None
    for place, time in case.cleared.items():
        version = case.at(time)
        if place.generation < case.last and (
            version is None or version.record.generation <= place.generation
        ):
            case.fail(
                f"commit {place.n} of generation {place.generation} was cleared while it was the last one"
            )
    # Whoever is to clear it may die over it, or get no answer: then the next owner does, at the latest the archivist.
    if case.left and (case.record.sealed or not case.troubled):
        case.fail(f"the ledger still holds {case.left} of generation {case.record.generation}")
