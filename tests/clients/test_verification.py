"""Verifications that rely on an earlier one: what they compare, what they say, and when they compare everything."""

from __future__ import annotations

from typing import Any

import pytest
from staging import Migrating, named, point

from qferry import commands
from qferry.errors import Refused
from qferry.flows import compare
from qferry.flows.effects import Report
from qferry.flows.verify import Verification
from qferry.protocol.comparison import Comparison
from qferry.protocol.records import CONTROL_COLLECTION

SUSPICION = "web pid 9 vanished without saying goodbye"


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sixty points have several ranges, compared one after the other, and record each of them."""
    monkeypatch.setattr(compare, "RANGE_POINTS", 10)
    monkeypatch.setattr(compare, "PIECE_POINTS", 10)
    monkeypatch.setattr(compare, "WORKERS", 1)
    monkeypatch.setattr(compare, "SAVE_S", 0.0)


class Stopped(Exception):
    """The command was interrupted."""


def interrupted(m: Migrating, points: int = 20) -> Comparison:
    """Interrupt a verification when so many points have been compared; returns what it has left."""

    def report(told: Report) -> None:
        if told.stage == "verify" and (told.done or 0) >= points:
            raise Stopped

    with pytest.raises(Stopped):
        commands.verify(m.connection, m.source, report=report)
    return known(m)


def known(m: Migrating) -> Comparison:
    """Return what is recorded of the last comparison."""
    found = commands.status(m.connection, m.source)[0].comparison
    assert found is not None
    return found


def outside(known: Comparison) -> tuple[int, int]:
    """Return a point of a range that is done, and one of a range that is not."""
    done = [s for s in known.plan.stretches if s.done]
    left = [s for s in known.plan.stretches if not s.done and s.copied == 0]
    assert done
    assert left

    def first(stretch: Any) -> int:
        return int(stretch.at or 0)

    # A stretch that is done has come to its end.
    return int(done[0].end or 60) - 1, first(left[-1])


def suspect(m: Migrating) -> None:
    """Let a writer have vanished."""
    m.plain.set_payload(
        CONTROL_COLLECTION, {"suspicions": [SUSPICION], "verified": None, "parity": None}, [m.migration.id], wait=True
    )


def points_check(found: Verification) -> str:
    """Return what is said of the points."""
    return next(check.detail for check in found.checks if check.name == "every point")


def test_interrupted_verification_is_gone_on_with(migrating: Migrating) -> None:
    """What had been compared is not compared again; the evidence says since when."""
    m = migrating.backfill()
    begun = interrupted(m)
    compared, left = outside(begun)
    assert 0 < begun.plan.copied < 60
    assert not begun.ended_at
    # A stranger's write behind the comparison is invisible to it, as to one that is made in one go.
    m.plain.upsert(m.target, [point(compared, wrong=1), point(left, wrong=1)], wait=True)
    found = commands.verify(m.connection, m.source)
    assert found.differing == (left,)
    assert found.points == 60
    assert f"since {begun.began_at}, by more than one command" in points_check(found)
    # The next one compares everything.
    found = commands.verify(m.connection, m.source, repair=True)
    assert found.repaired == 2
    assert "more than one command" not in points_check(found)
    assert found.passed


def test_evidence_says_since_when(migrating: Migrating) -> None:
    """From the first point on."""
    m = migrating.backfill()
    begun = interrupted(m)
    assert commands.verify(m.connection, m.source).passed
    verified = m.migration.verified
    assert verified is not None
    assert verified["since"] == begun.began_at
    assert verified["points"] == 60
    commands.switch(m.connection, m.source, percent=10)


def test_what_was_found_before_the_interruption_is_looked_at_again(migrating: Migrating) -> None:
    """A range counts as compared only together with what was found there."""
    m = migrating.backfill()
    wrong = [0, 1, 2, 3, 4, 57, 58, 59]
    m.plain.upsert(m.target, [point(i, wrong=1) for i in wrong], wait=True)
    assert interrupted(m, points=50).total > 0
    found = commands.verify(m.connection, m.source)
    assert sorted(found.differing) == wrong


@pytest.mark.parametrize("reason", ["a suspicion has been raised", "a configuration or an index has been changed"])
def test_interrupted_verification_is_begun_anew_where_the_journal_does_not_vouch(
    migrating: Migrating, reason: str
) -> None:
    """And it is said why; what was changed behind the comparison is found."""
    m = migrating.backfill()
    compared, _ = outside(interrupted(m))
    m.plain.upsert(m.target, [point(compared, wrong=1)], wait=True)
    if "suspicion" in reason:
        suspect(m)
    else:
        for side in (m.source, m.target):
            m.plain.create_payload_index(side, "group", "integer", wait=True)
    found = commands.verify(m.connection, m.source)
    assert found.differing == (compared,)
    assert f"all of them, because {reason} since" in points_check(found)


def test_target_that_was_made_anew_is_not_gone_on_with(migrating: Migrating) -> None:
    """By somebody who has left out a point that had been compared, and put in another, so that counts are the same."""
    m = migrating.backfill()
    compared, _ = outside(interrupted(m))
    made = m.plain.get_collection(m.target).config.params.vectors
    points, _ = m.plain.scroll(m.target, limit=100, with_vectors=True)
    m.plain.delete_collection(m.target)
    m.plain.create_collection(m.target, vectors_config=made)
    kept = [point(r.id, **{**(r.payload or {}), "n": 0}) for r in points if r.id != compared]
    m.plain.upsert(m.target, [*kept, point(1000)], wait=True)
    with pytest.raises(Refused, match="made anew"):
        commands.verify(m.connection, m.source)


def test_lost_points_are_repaired_and_looked_at_again(migrating: Migrating) -> None:
    """After a writer has vanished the points it took along are known; nothing else need be compared twice."""
    m = migrating.backfill()
    suspect(m)
    m.plain.delete(m.target, [5], wait=True)
    m.plain.upsert(m.target, [point(6, stale=True)], wait=True)
    assert commands.verify(m.connection, m.source).differing == (5, 6)
    first = known(m)
    what = dict(first.differing)
    assert what[5] == ("missing on the target",)
    assert "payload field stale" in what[6]
    found = commands.verify(m.connection, m.source, repair=True, again=True)
    assert found.passed, found.checks
    assert found.repaired == 2
    told = f"60 points compared bit by bit at {first.ended_at}, of those that differed then 2 again now"
    assert told in points_check(found)
    migration = m.migration
    assert migration.suspicions == ()
    assert migration.verified is not None
    assert migration.verified["at"] == first.ended_at
    assert migration.verified["again"]["points"] == 2
    commands.switch(m.connection, m.source, percent=10)


def test_only_what_differed_is_compared_again(migrating: Migrating) -> None:
    """What a stranger has written since is not seen, and not claimed to be."""
    m = migrating.backfill()
    assert commands.verify(m.connection, m.source).passed
    m.plain.upsert(m.target, [point(9, wrong=1)], wait=True)
    found = commands.verify(m.connection, m.source, again=True, queries=0)
    assert found.passed
    assert "of those that differed then 0 again now" in points_check(found)
    # Searches may come upon it; then nothing is relied on any more.
    found = commands.verify(m.connection, m.source, again=True)
    assert [check.name for check in found.checks if not check.passed] == ["search parity"]
    assert commands.verify(m.connection, m.source, again=True).differing == (9,)


def test_stranger_that_was_found_makes_everything_be_compared(migrating: Migrating) -> None:
    """Points that differed although nothing was suspected show that the journal does not know of every write."""
    m = migrating.backfill()
    m.plain.upsert(m.target, [point(5, wrong=1)], wait=True)
    assert commands.verify(m.connection, m.source, repair=True).repaired == 1
    m.plain.upsert(m.target, [point(9, wrong=1)], wait=True)
    found = commands.verify(m.connection, m.source, again=True)
    assert found.differing == (9,)
    assert "all of them, because points differed although nothing was suspected" in points_check(found)


def test_count_that_gives_the_lie_makes_everything_be_compared(migrating: Migrating) -> None:
    """Where all that can have changed is equal and the counts are not, something else has."""
    m = migrating.backfill()
    assert commands.verify(m.connection, m.source).passed
    m.plain.delete(m.target, [9], wait=True)
    found = commands.verify(m.connection, m.source, again=True)
    assert [check.name for check in found.checks if not check.passed] == ["exact counts"]
    assert m.migration.verified is None
    found = commands.verify(m.connection, m.source, again=True)
    assert found.differing == (9,)


def test_count_that_gives_the_lie_to_a_full_comparison_is_remembered(migrating: Migrating) -> None:
    """A point is lost behind the comparison, and another one makes the counts fit again: no proof that it is there."""
    m = migrating.backfill()
    lost: list[int] = []

    def report(told: Report) -> None:
        if told.stage == "verify" and (told.done or 0) >= 30 and not lost:
            lost.append(outside(known(m))[0])
            m.plain.delete(m.target, lost, wait=True)

    found = commands.verify(m.connection, m.source, report=report)
    assert [check.name for check in found.checks if not check.passed] == ["exact counts"]
    other = 30 if lost[0] != 30 else 31
    m.plain.delete(m.source, [other], wait=True)
    found = commands.verify(m.connection, m.source, again=True)
    assert sorted(found.differing) == sorted([*lost, other])
    assert m.migration.verified is None


def test_stranger_that_was_found_is_remembered_by_a_command_that_dies_mending(migrating: Migrating) -> None:
    """What it has mended looks equal to the next one, which goes on with its comparison."""
    m = migrating.backfill()
    m.plain.upsert(m.target, [point(5, wrong=1)], wait=True)

    def report(told: Report) -> None:
        if told.stage == "settle" and told.repaired:
            raise Stopped

    with pytest.raises(Stopped):
        commands.verify(m.connection, m.source, repair=True, report=report)
    assert commands.verify(m.connection, m.source).passed
    m.plain.upsert(m.target, [point(9, wrong=1)], wait=True)
    found = commands.verify(m.connection, m.source, again=True)
    assert found.differing == (9,)
    assert "all of them, because points differed although nothing was suspected" in points_check(found)


def test_without_a_comparison_everything_is_compared(migrating: Migrating) -> None:
    """It is said."""
    m = migrating.backfill()
    found = commands.verify(m.connection, m.source, again=True)
    assert found.passed
    assert "because there is no complete comparison to rely on" in points_check(found)


def test_nothing_is_left_of_comparisons(migrating: Migrating) -> None:
    """One record at a time, and none after the end."""
    m = migrating.backfill()
    interrupted(m)
    commands.verify(m.connection, m.source)
    commands.verify(m.connection, m.source, again=True)

    def kept() -> list[Any]:
        records, _ = m.plain.scroll(CONTROL_COLLECTION, named("kind", "comparison"), limit=10_000)
        return [r.id for r in records if (r.payload or {})["migration"] == m.migration.id]

    assert kept() == [m.migration.comparison]
    commands.abort(m.connection, m.source)
    assert kept() == []
