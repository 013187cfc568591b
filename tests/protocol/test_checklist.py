"""Tests of the success metrics: each is proven by what was recorded, and by nothing else."""

import dataclasses
from typing import Any

import pytest

from qferry.protocol.checklist import (
    ALL_SWITCHED,
    COPIED,
    DELETED,
    DUAL_BEGAN,
    PROOFS,
    SEALED,
    SEARCHED,
    STEPPED_BACK,
    VERIFIED,
    Known,
    Metric,
    State,
    checklist,
)
from qferry.protocol.phases import Phase
from qferry.protocol.records import Migration, Pins, Writer
from qferry.protocol.shadow import Totals

AT = "2026-01-05T10:00:00Z"
WRITER = Writer("w", "web-1", 8, AT, 5, {"m": 9}, {"m": 9}, {"m": 0})
EVENTS = [
    {"what": DUAL_BEGAN, "at": "1", "details": {}},
    {"what": COPIED, "at": "2", "details": {}},
    {"what": VERIFIED, "at": "3", "details": {"exact counts": "7 on both sides", "every point": "none differ"}},
    {"what": SEARCHED, "at": "3", "details": {"search parity": "50 searches"}},
    {"what": ALL_SWITCHED, "at": "4", "details": {}},
    {"what": SEALED, "at": "6", "details": {"writers": 2, "failed": 0}},
    {"what": DELETED, "at": "5", "details": {"snapshot": {"name": "s.snapshot"}}},
]
SEEN = Known((WRITER,), 7, 7, EVENTS, old_name=False)
MIGRATION = Migration(
    "m",
    "project_x_code",
    "project-x",
    ("project_x_code", "project-x"),
    epoch=9,
    phase=Phase.SWITCHED,
    read_percent=100,
    copied_points=7,
    verified={"at": AT},
    parity={"passed": True},
)


def stands(m: Migration, seen: Known = SEEN) -> list[str]:
    """Return the states, in order."""
    return [metric.state.value for metric in checklist(m, seen)]


def one(name: str, m: Migration, **changes: Any) -> Metric:
    """Return the metric whose name begins like that."""
    found = [x for x in checklist(m, dataclasses.replace(SEEN, **changes)) if x.name.startswith(name)]
    return found[-1]


def test_everything_is_proven_before_finish_but_the_last_phase() -> None:
    """The twelve of the document, three a phase."""
    metrics = checklist(MIGRATION, SEEN)
    assert [metric.phase for metric in metrics] == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    assert stands(MIGRATION) == ["proven"] * 9 + ["later"] * 3
    assert [metric.at for metric in metrics] == ["1", "", "", "2", AT, "3", "4", "3", "", "", "", ""]


def test_everything_is_proven_in_the_end() -> None:
    """Nobody is connected for its sake any more."""
    cleaned = MIGRATION.with_changes({"phase": Phase.CLEANED})
    metrics = checklist(cleaned, dataclasses.replace(SEEN, writers=(), registered=(WRITER,), source_points=None))
    assert [metric.state for metric in metrics] == [State.PROVEN] * 12
    assert "s.snapshot" in metrics[9].proof


@pytest.mark.parametrize("phase", [Phase.ABORTING, Phase.ABORTED])
def test_a_migration_that_was_given_up_has_none(phase: Phase) -> None:
    """There is nothing to succeed at."""
    assert checklist(MIGRATION.with_changes({"phase": phase}), SEEN) == ()


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase not in (Phase.ABORTING, Phase.ABORTED)])
def test_without_any_record_nothing_that_needs_one_is_proven(phase: Phase) -> None:
    """Neither the phase nor the absence of complaints stands in for evidence."""
    bare = MIGRATION.with_changes({"phase": phase, "verified": None, "parity": None, "read_percent": 0})
    found = {m.name: m.state for m in checklist(bare, Known((), None, None, [], old_name=False))}
    needs = ("Code", "100 %", "Point", "Sample", "Search", "New collection", "Legacy", "No errors", "Zero")
    assert not [name for name, state in found.items() if name.startswith(needs) and state is State.PROVEN]


@pytest.mark.parametrize(
    ("name", "changes", "writer", "state", "says"),
    [
        ("Dual writes", {}, {"pins": Pins(dual_write=False)}, State.FAILED, "ENABLE_DUAL_WRITE=false"),
        ("Dual writes", {}, {"acked": {"m": 8}}, State.MISSING, "not acknowledged epoch 9"),
        ("Dual writes", {"phase": Phase.CAPTURING}, {}, State.LATER, ""),
        ("No errors", {}, {"failed": {"m": 3}}, State.FAILED, "3 write(s)"),
        ("No errors", {"suspicions": ("a writer vanished",)}, {}, State.FAILED, "a writer vanished"),
        ("100 %", {"phase": Phase.COPYING, "copied_points": 3, "expected_points": 7}, {}, State.MISSING, "3 of 7"),
        ("Point counts", {"verified": None}, {}, State.MISSING, "every point"),
        ("Sample", {"parity": None}, {}, State.MISSING, "searches"),
        ("Sample", {"parity": {"passed": False}}, {}, State.FAILED, "50 searches"),
        ("All reads", {"read_percent": 10}, {}, State.MISSING, "10 %"),
        ("All reads", {"reads_held": True}, {}, State.MISSING, "held"),
        ("All reads", {"stepped_back": "8 % failed"}, {}, State.FAILED, "8 % failed"),
        ("All reads", {}, {"pins": Pins(new_reads=False)}, State.FAILED, "ENABLE_NEW_READS=false"),
        ("Search functionality", {"stepped_back": "8 % failed"}, {}, State.FAILED, "8 % failed"),
        ("Zero", {}, {"failed": {"m": 1}}, State.FAILED, "1 write(s)"),
        ("Zero", {}, {"p99_ms": 12.5}, State.PROVEN, "p99 at most 12.5 ms"),
        ("Legacy", {"phase": Phase.FINISHED, "cleanup_after": AT}, {}, State.MISSING, AT),
        ("Code", {"phase": Phase.FINISHED}, {"pins": Pins(new_reads=True)}, State.MISSING, "ENABLE_NEW_READS=true"),
    ],
)
def test_each_is_judged_by_what_speaks_for_or_against_it(
    name: str, changes: dict[str, Any], writer: dict[str, Any], state: State, says: str
) -> None:
    """And says what that is."""
    writers = (dataclasses.replace(WRITER, **writer),)
    found = one(name, MIGRATION.with_changes(changes), writers=writers, registered=writers)
    assert found.state is state
    assert says in found.proof


def test_a_target_that_is_gone_or_has_a_legacy_name_fails() -> None:
    """What is read now counts more than what once was."""
    assert one("New collection", MIGRATION, target_points=None).state is State.FAILED
    finished = MIGRATION.with_changes({"phase": Phase.FINISHED})
    assert one("Single naming", finished, old_name=True).state is State.FAILED


def test_what_users_met_stays_true_after_a_second_try() -> None:
    """Readers who once had to step back were served late, whatever came later."""
    event = {"what": STEPPED_BACK, "at": "4", "details": {"reason": "web-1: 404 ms"}}
    found = one("Zero", MIGRATION, events=[*EVENTS, event])
    assert (found.state, found.proof, found.at) == (State.FAILED, "readers stepped back: web-1: 404 ms", "4")


def test_the_application_s_own_reads_count_as_searches_do() -> None:
    """Where they are compared, they are named; where they differ, that is said first."""
    alike = one("Search functionality", MIGRATION, shadow=Totals(compared=40, overlap=39.0))
    assert alike.state is State.PROVEN
    assert alike.proof == "50 searches; 40 of the application's own reads overlap by 0.975"
    differ = one("Search functionality", MIGRATION, shadow=Totals(compared=40, overlap=20.0))
    assert (differ.state, "0.500" in differ.proof) == (State.FAILED, True)


def test_the_lines_that_prove_something_are_written_like_that(pytestconfig: pytest.Config) -> None:
    """A line of history that is worded anew must not silently prove nothing."""
    flows = "".join(path.read_text() for path in (pytestconfig.rootpath / "src/qferry/flows").glob("*.py"))
    worded = {ALL_SWITCHED: 'f"reads {percent} % on the target"', SEALED: "Event.SEALED, SEALED"}
    for proof in PROOFS:
        assert worded.get(proof, f'"{proof}"') in flows
