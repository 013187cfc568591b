"""Tests of what may be relied on of a comparison that was made before."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qferry.errors import Refused
from qferry.protocol.comparison import KEPT_MAX, Comparison
from qferry.protocol.ranges import Plan
from qferry.protocol.records import Migration

M = Migration("m", "a", "b", ("a", "b"))
BEGUN = Comparison("2026-01-01T00:00:00Z", "basis", (), Plan.of([(None, 5), (5, None)]))
ENDED = replace(BEGUN, ended_at="2026-01-01T01:00:00Z")


def test_what_rests_on_the_same_is_relied_on() -> None:
    """Nothing has happened since that could have changed a point behind the journal."""
    for known, again in ((BEGUN, False), (ENDED, True)):
        assert not known.unfit(M, "basis", again=again, marked=True, replicated=False)


@pytest.mark.parametrize(
    ("known", "m", "given_", "reason"),
    [
        (BEGUN, M.with_changes({"suspicions": ("w vanished",)}), {}, "suspicion"),
        (replace(BEGUN, suspicions=("w vanished",)), M, {}, "suspicion"),
        (BEGUN, M, {"basis": "another"}, "configuration"),
        (BEGUN, M, {"replicated": True}, "cluster"),
        (BEGUN, M, {"marked": False}, "made anew"),
        (replace(BEGUN, total=1), M, {}, "more than"),
        (replace(ENDED, unexplained=True), M, {"again": True}, "past qferry"),
    ],
)
def test_what_may_have_changed_behind_the_journal_is_not_relied_on(
    known: Comparison, m: Migration, given_: dict[str, Any], reason: str
) -> None:
    """And it is said why."""
    asked: dict[str, Any] = {"basis": "basis", "again": False, "marked": True, "replicated": False, **given_}
    assert reason in known.unfit(m, asked.pop("basis"), **asked)


def test_a_stranger_does_not_hinder_the_rest_from_being_compared() -> None:
    """It can write as well behind a comparison that is made in one go; only what it wrote since is in question."""
    known = replace(BEGUN, suspicions=M.suspicions, unexplained=True)
    assert not known.unfit(M, "basis", again=False, marked=True, replicated=False)


@given(
    st.lists(st.tuples(st.integers(0, 99), st.lists(st.sampled_from(["payload", "vector a"]))), max_size=5),
    st.integers(0, 9),
    st.booleans(),
)
def test_a_record_is_read_as_it_was_written(rows: list[Any], total: int, unexplained: bool) -> None:
    """All of it."""
    known = replace(
        ENDED,
        suspicions=("w",),
        differing=tuple((i, tuple(what)) for i, what in rows),
        total=total,
        unexplained=unexplained,
        plan=BEGUN.plan.advanced(0, 3, 4, done=False),
    )
    payload = known.to_payload("m")
    assert (payload["kind"], payload["migration"]) == ("comparison", "m")
    assert Comparison.from_payload(payload) == known


def test_a_record_of_another_format_is_refused() -> None:
    """Rather than guessed at."""
    with pytest.raises(Refused, match="format 2"):
        Comparison.from_payload({**BEGUN.to_payload("m"), "format": 2})


def test_what_is_too_long_to_be_kept_is_cut_and_not_relied_on() -> None:
    """A range counts as compared only together with all that was found in it."""
    many = BEGUN.with_differing(range(KEPT_MAX + 1))
    kept = Comparison.from_payload(many.to_payload("m"))
    assert (len(kept.differing), kept.total) == (KEPT_MAX, KEPT_MAX + 1)
    assert "more than 10,000" in kept.unfit(M, "basis", again=False, marked=True, replicated=False)
