"""Tests of one shadow read: what is asked of whom, and what is counted."""

from types import SimpleNamespace as Thing
from typing import Any

import pytest
from playing import MIGRATION, Play, session

from qferry.flows.effects import Call, Request
from qferry.flows.routed import Answered
from qferry.flows.settle import SECOND_LOOK_S
from qferry.flows.shadow import Repeat, compare, dropped
from qferry.protocol.phases import Phase, Side
from qferry.protocol.session import Session
from qferry.protocol.shadow import TIMEOUT_S, Totals

SHADOWED = MIGRATION.with_changes({"phase": Phase.SWITCHED, "shadow_percent": 100.0, "shadow_since": 1})


def points(*ids: int) -> Any:
    """Return an answer with these points."""
    return Thing(points=[Thing(id=i, score=0.5) for i in ids])


def repeated(found: Session, *ids: int, side: Side = Side.SOURCE, **arguments: Any) -> Repeat:
    """Return a search that `side` has answered with these points, in a tenth of a second."""
    route = found.route("a")
    assert route is not None
    repeat = Repeat.of(found, route, "query_points", arguments, Answered(points(*ids), route, side, 0.1))
    assert repeat is not None
    return repeat


def calls(play: Play) -> list[str]:
    """Return the collections that were asked."""
    return [effect.collection for effect in play.sent if isinstance(effect, Call)]


@pytest.mark.parametrize("side", list(Side))
def test_side_that_has_not_answered_is_asked(side: Side) -> None:
    """With the arguments of then, and a time-out of its own."""
    found = session(SHADOWED)
    given = [1.0, 2.0]
    repeat = repeated(found, 1, 2, side=side, query=given, timeout=60)
    given.clear()
    play = Play(lambda _: points(2, 1))
    play.run(compare(found, repeat))
    (call,) = play.sent
    assert isinstance(call, Call)
    assert (call.method, call.collection) == ("query_points", "b" if side is Side.SOURCE else "a")
    assert call.kwargs == {"query": [1.0, 2.0], "timeout": TIMEOUT_S}
    totals = found.shadows[SHADOWED.id]
    assert (totals.since, totals.compared, totals.mean_overlap, totals.mismatches) == (1, 1, 1.0, 0)
    assert (totals.source_s if side is Side.SOURCE else totals.target_s) == 0.1


def test_what_differs_is_asked_once_more_of_both() -> None:
    """A write may have come in between the two."""
    answers = iter([points(1, 3), points(1, 3), points(3, 1)])
    play, found = Play(lambda _: next(answers)), session(SHADOWED)
    play.run(compare(found, repeated(found, 1, 2)))
    assert (calls(play), play.slept) == (["b", "a", "b"], [SECOND_LOOK_S])
    assert found.shadows[SHADOWED.id].mismatches == 0


def test_what_differs_twice_is_a_mismatch() -> None:
    """Counted as it was found the second time."""
    answers = iter([points(3, 4), points(1, 2), points(1, 3)])
    play, found = Play(lambda _: next(answers)), session(SHADOWED)
    play.run(compare(found, repeated(found, 1, 2)))
    totals = found.shadows[SHADOWED.id]
    assert (totals.compared, totals.mean_overlap, totals.mismatches) == (1, 0.5, 1)


def test_side_that_does_not_answer_is_an_error() -> None:
    """Whatever ails it."""
    play, found = Play(lambda _: TimeoutError("slow")), session(SHADOWED)
    play.run(compare(found, repeated(found, 1)))
    assert found.shadows[SHADOWED.id] == Totals(1, errors=1)


def test_nothing_can_be_said_when_the_side_that_has_answered_cannot_any_more() -> None:
    """It is not the other side's fault."""
    answers = iter([points(2), TimeoutError("slow"), points(2)])
    play, found = Play(lambda _: next(answers)), session(SHADOWED)
    play.run(compare(found, repeated(found, 1)))
    assert found.shadows == {}


@pytest.mark.parametrize("asked", [False, True], ids=["before", "meanwhile"])
def test_nothing_is_counted_when_the_routing_has_changed(asked: bool) -> None:
    """A side that is being repaired, or is gone, need not answer alike; it is not even asked if that is known."""
    found = session(SHADOWED)

    def change(_: Request | Call | None = None) -> Any:
        found.adopt([SHADOWED.with_changes({"epoch": 2, "reads_held": True})], sent_at=995.0, now=1.0)
        return points(1)

    repeat = repeated(found, 1)
    play = Play(change)
    if not asked:
        change()
    play.run(compare(found, repeat))
    assert (found.shadows, len(play.sent)) == ({}, int(asked))


def test_nothing_is_counted_once_the_lease_has_lapsed() -> None:
    """The routing may have changed unseen."""
    found = session(SHADOWED)
    repeat = repeated(found, 1)
    found.lease_until = 0.0
    Play(lambda _: points(1)).run(compare(found, repeat))
    assert found.shadows == {}


def test_read_that_cannot_be_copied_cannot_be_repeated() -> None:
    """An argument that is used up, for one."""
    found = session(SHADOWED)
    route = found.route("a")
    assert route is not None
    answer = Answered([], route, Side.SOURCE, 0.1)
    assert Repeat.of(found, route, "retrieve", {"ids": (i for i in range(3))}, answer) is None
    Play().run(dropped(found, SHADOWED))
    assert found.shadows[SHADOWED.id] == Totals(1, dropped=1)
