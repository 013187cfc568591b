"""Tests of the life of a migration: every pair of phase and event, and what follows from a phase alone."""

import pickle

import pytest

from qferry.errors import Refused
from qferry.protocol.phases import (
    ENDED,
    JOURNALLED,
    ROUTING,
    TARGET_IS_TRUTH,
    TRANSITIONS,
    Event,
    Phase,
    Routing,
    Side,
    after,
    out_of_order,
)

# Written out a second time, on purpose: a change of the table must be a decision and not a slip.
LEGAL = {
    (Phase.PREPARING, Event.ANNOUNCE): Phase.ANNOUNCED,
    (Phase.ANNOUNCED, Event.CREATED): Phase.STARTING,
    (Phase.ANNOUNCED, Event.ABANDONED): Phase.ABORTING,
    (Phase.PREPARING, Event.ABANDONED): Phase.ABORTING,
    (Phase.ANNOUNCED, Event.CAPTURED): Phase.CAPTURING,
    (Phase.CAPTURING, Event.RESTORED): Phase.STARTING,
    (Phase.CAPTURING, Event.ABANDONED): Phase.ABORTING,
    (Phase.STARTING, Event.WRITERS_READY): Phase.COPYING,
    (Phase.STARTING, Event.COPY_DONE): Phase.COPIED,
    (Phase.STARTING, Event.ABANDONED): Phase.ABORTING,
    (Phase.COPYING, Event.COPY_DONE): Phase.COPIED,
    (Phase.COPYING, Event.ABANDONED): Phase.ABORTING,
    (Phase.COPIED, Event.READS_SWITCHED): Phase.SWITCHED,
    (Phase.COPIED, Event.ABANDONED): Phase.ABORTING,
    (Phase.SWITCHED, Event.READS_SWITCHED): Phase.SWITCHED,
    (Phase.SWITCHED, Event.ROLLED_BACK): Phase.COPIED,
    (Phase.SWITCHED, Event.SEALED): Phase.FINISHING,
    (Phase.FINISHING, Event.SOURCE_RETIRED): Phase.FINISHED,
    (Phase.FINISHED, Event.SOURCE_DELETED): Phase.CLEANED,
    (Phase.ABORTING, Event.DISMANTLED): Phase.ABORTED,
}
ILLEGAL = [(phase, event) for phase in Phase for event in Event if (phase, event) not in LEGAL]


def name(value: object) -> str:
    """Name a parameter by its value."""
    return str(getattr(value, "value", value))


@pytest.mark.parametrize(("phase", "event", "target"), [(*pair, to) for pair, to in LEGAL.items()], ids=name)
def test_legal_event_leads_to_its_phase(phase: Phase, event: Event, target: Phase) -> None:
    """An event that the table lists for a phase leads to the phase it lists."""
    assert after(phase, event) is target


@pytest.mark.parametrize(("phase", "event"), ILLEGAL, ids=name)
def test_illegal_event_is_refused_and_changes_nothing(phase: Phase, event: Event) -> None:
    """An event that the table does not list is refused, says where the migration stands, and leaves the table alone."""
    before = pickle.dumps(TRANSITIONS)
    with pytest.raises(Refused, match=f"The migration is {phase.value}, so `.+` is not possible") as refused:
        after(phase, event)
    assert refused.value.hint.startswith("What next: ")
    assert refused.value.fields == {"phase": phase.value}
    assert pickle.dumps(TRANSITIONS) == before


def test_every_phase_has_a_row_a_routing_and_a_next_step() -> None:
    """No phase is forgotten in any of the tables."""
    assert set(TRANSITIONS) == set(ROUTING) == set(Phase)
    assert all(out_of_order(phase, "qferry x").hint for phase in Phase)


def test_every_phase_is_reached_and_every_event_is_used() -> None:
    """Nothing in the tables is dead."""
    reached = {to for row in TRANSITIONS.values() for to in row.values()}
    used = {event for row in TRANSITIONS.values() for event in row}
    assert reached == set(Phase) - {Phase.PREPARING}
    assert used == set(Event)


def test_only_ended_phases_have_no_way_on() -> None:
    """A migration that is not over can always be brought to an end."""
    assert {phase for phase, row in TRANSITIONS.items() if not row} == ENDED


def test_abort_is_possible_until_the_point_of_no_return() -> None:
    """Before finish there is a way back to the source alone, from `switched` by way of `rollback`; after it none."""
    with_a_way_back = {phase for phase, row in TRANSITIONS.items() if Event.ABANDONED in row}
    assert with_a_way_back == {
        Phase.PREPARING,
        Phase.ANNOUNCED,
        Phase.CAPTURING,
        Phase.STARTING,
        Phase.COPYING,
        Phase.COPIED,
    }
    assert after(Phase.SWITCHED, Event.ROLLED_BACK) in with_a_way_back


def test_writers_reach_both_sides_in_every_phase_between_the_two_single_sided_ones() -> None:
    """No legal step leads from writing to one side alone to writing to the other alone."""
    for phase, row in TRANSITIONS.items():
        for to in row.values():
            assert {ROUTING[phase], ROUTING[to]} != {Routing.SOURCE_ONLY, Routing.TARGET_ONLY}


def test_truth_changes_while_both_sides_are_written() -> None:
    """The step at which the target becomes truth is one between two phases of dual writes."""
    changes = [
        (phase, to)
        for phase, row in TRANSITIONS.items()
        for to in row.values()
        if (phase in TARGET_IS_TRUTH) != (to in TARGET_IS_TRUTH)
    ]
    assert changes == [(Phase.SWITCHED, Phase.FINISHING)]
    assert {ROUTING[phase] for phase in changes[0]} == {Routing.DUAL}


def test_journalled_phases_have_the_source_as_truth() -> None:
    """Where a vanished writer raises suspicion, the target is still the side that may lack something."""
    journals = {Routing.CAPTURE, Routing.DUAL}
    assert all(ROUTING[phase] in journals and phase not in TARGET_IS_TRUTH for phase in JOURNALLED)


def test_other_side_is_the_opposite_one() -> None:
    """Each side is the other one's other."""
    assert Side.SOURCE.other is Side.TARGET
    assert Side.TARGET.other is Side.SOURCE
