"""Tests of the comparison of both sides: no point is left out, and nothing else is taken for a difference."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from playing import MIGRATION, Play

from qferry.errors import Unreachable
from qferry.flows import compare
from qferry.flows.compare import JsonDigests, Piece, Progress, as_digests, every_point, ranges
from qferry.flows.coordinator import Coordinator
from qferry.flows.effects import Await, Begin, Call, Flow, Outcome, Request, Room
from qferry.flows.settle import same
from qferry.protocol.comparison import Comparison
from qferry.protocol.records import Migration
from qferry.transfer.digest import DigestPage
from qferry.transfer.fidelity import stored

Points = dict[int, Any]


def sides(source: Points, target: Points) -> Any:
    """Answer reads of both sides, each point's payload being its value."""

    def answer(effect: Request | Call) -> Any:
        assert isinstance(effect, Request)
        held = source if "/a/" in effect.path else target
        ids = sorted(held)
        match effect.op:
            case "read_digests":
                found = [i for i in ids if i >= effect.body.get("offset", -1)]
                page, rest = found[: effect.body["limit"]], found[effect.body["limit"] :]
                return {"points": [point(i, held[i]) for i in page], "next_page_offset": rest[0] if rest else None}
            case "retrieve":
                return [point(i, held[i]) for i in effect.body["ids"] if i in held]
            case "sample":
                return {"points": [{"id": i} for i in ids[: effect.body["limit"]]]}
        return {}

    return answer


def point(number: int, value: Any) -> dict[str, Any]:
    """Return a point as it is read."""
    return {"id": number, "payload": {"v": value}, "vector": [1.0]}


class Working(Play):
    """Also carries out pieces of work, when they are awaited; some workers are lost."""

    def __init__(self, answer: Any, lose: int = 0) -> None:
        super().__init__(answer)
        self.lose = lose
        self.without_room = 0
        self.pieces: list[Any] = []

    def _perform(self, effect: Any) -> Any:
        match effect:
            case Room(here) if not self.without_room:
                return here
            case Room():
                self.without_room -= 1
                return 0
            case Begin(work):
                self.pieces.append(work)
                return len(self.pieces) - 1
            case Await(()):
                return []
            case Await(numbers, _):
                if self.lose:
                    self.lose -= 1
                    return [(numbers[0], Outcome(error=Unreachable("The worker was lost.")))]
                return [(numbers[0], Outcome(self.run(self.pieces[numbers[0]].flow())))]
        return super()._perform(effect)


class Still(Coordinator):
    """A coordinator that has nothing to do beside."""

    def stay(self, **_: float) -> Flow[None]:
        """Do nothing."""
        yield from ()


def compared(migration: Migration) -> Flow[tuple[int, list[Any], bool]]:
    """Compare everything; returns how many points there are, those that differ, and whether it got through."""
    co = Still(migration, "me", "me")
    progress = Progress(co, Comparison("", "", (), (yield from ranges(migration))))
    complete = yield from every_point(co, progress)
    return progress.known.plan.copied, progress.known.ids, complete


def unequal(source: Points, target: Points) -> set[int]:
    """Return the ids that must be found."""
    return {i for i in {*source, *target} if source.get(i) != target.get(i)}


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few points have several pages, pieces and ranges."""
    monkeypatch.setattr(compare, "PAGE_POINTS", 2)
    monkeypatch.setattr(compare, "PIECE_POINTS", 3)
    monkeypatch.setattr(compare, "RANGE_POINTS", 4)


points = st.dictionaries(st.integers(0, 30), st.integers(0, 2), max_size=20)


@given(points, points)
def test_every_difference_is_found_and_nothing_else(source: Points, target: Points) -> None:
    """Whatever one side has and the other lacks, at the ends of pages, pieces and ranges too."""
    migration = MIGRATION.with_changes({"expected_points": len(source)})
    play = Working(sides(source, target))
    seen, differing, complete = play.run(compared(migration))
    assert (seen, complete) == (len(source), True)
    assert sorted(differing) == sorted(unequal(source, target))


@given(points, points, st.none() | st.integers(0, 31), st.none() | st.integers(0, 31))
def test_a_range_is_compared_and_nothing_beyond_it(
    source: Points, target: Points, start: int | None, end: int | None
) -> None:
    """Piece by piece, each going on where the one before it ended."""
    play = Working(sides(source, target))
    found: list[int] = []
    seen, at, done = 0, start, start is not None and end is not None and start >= end
    while not done:
        piece = play.run(Piece(MIGRATION, at, end, 3).flow())
        found += piece.differing
        seen, at, done = seen + piece.points, piece.following, piece.done
    inside = [i for i in range(31) if (start is None or i >= start) and (end is None or i < end)]
    if start is None or end is None or start < end:
        assert sorted(found) == [i for i in inside if i in unequal(source, target)]
        assert seen == len([i for i in inside if i in source])


def test_a_lost_worker_s_piece_is_begun_anew() -> None:
    """It has only read."""
    source = dict.fromkeys(range(20), 0)
    play = Working(sides(source, {**source, 7: 1}), lose=2)
    migration = MIGRATION.with_changes({"expected_points": 20})
    assert play.run(compared(migration)) == (20, [7], True)


def test_a_worker_lost_with_all_of_its_pieces_is_lost_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process elsewhere may have more of them than may be lost in a row."""

    class LostAtOnce(Working):
        def _perform(self, effect: Any) -> Any:
            if isinstance(effect, Await) and self.lose:
                self.lose = 0
                return [(n, Outcome(error=Unreachable("The worker was lost."))) for n in effect.numbers]
            return super()._perform(effect)

    monkeypatch.setattr(compare, "WORKERS", 5)
    source = dict.fromkeys(range(20), 0)
    migration = MIGRATION.with_changes({"expected_points": 20})
    play = LostAtOnce(sides(source, source), lose=1)
    assert play.run(compared(migration)) == (20, [], True)


def test_workers_that_are_lost_time_and_again_end_the_comparison() -> None:
    """The operator must hear of it."""
    play = Working(sides(dict.fromkeys(range(20), 0), {}), lose=100)
    migration = MIGRATION.with_changes({"expected_points": 20})
    with pytest.raises(Unreachable, match="lost"):
        play.run(compared(migration))


@pytest.mark.parametrize("limits", [{}, {"max_points_per_s": 1000}])
def test_no_room_is_waited_for(limits: dict[str, Any]) -> None:
    """A cluster has none until its workers have come, whatever the pace."""
    source = dict.fromkeys(range(20), 0)
    play = Working(sides(source, source))
    play.without_room = 3
    migration = MIGRATION.with_changes({"expected_points": 20, **limits})
    assert play.run(compared(migration)) == (20, [], True)


def test_a_target_on_a_cluster_is_compared_by_the_coordinator_itself() -> None:
    """Its own flow asks every copy; a worker's would not."""
    source = dict.fromkeys(range(20), 0)
    play = Working(sides(source, source))
    migration = MIGRATION.with_changes({"expected_points": 20, "overrides": {"replication_factor": 2}})
    assert play.run(compared(migration)) == (20, [], True)
    assert play.pieces == []


def test_too_many_differences_end_it_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy itself is in question then, and the answer says that it is not complete."""
    monkeypatch.setattr(compare, "DIFFERENCES_MAX", 3)
    play = Working(sides(dict.fromkeys(range(40), 0), {}))
    migration = MIGRATION.with_changes({"expected_points": 40})
    seen, differing, complete = play.run(compared(migration))
    assert len(differing) > 3
    assert (seen < 40, complete) == (True, False)


def test_a_double_that_the_server_changes_by_itself_is_no_difference() -> None:
    """Both end in the same place when they are stored again and again; another double does not."""
    drifting = next(
        v for v in (n * 1.1e-25 for n in range(1, 100)) if stored(v) != v and stored(stored(v)) == stored(v)
    )
    page = as_digests({"points": [point(1, v) for v in (drifting, stored(drifting), 1.0, 1)], "next_page_offset": None})
    first, settled, number, integer = page.contents
    assert first != settled
    assert page.same(first, settled)
    assert not page.same(number, integer)
    assert same(point(1, drifting), point(1, stored(drifting)))
    assert not same(point(1, drifting), point(1, 2 * drifting))


def test_points_of_which_the_bytes_do_not_say_everything_are_asked_for_by_rest() -> None:
    """Equal bytes or not."""
    pages = {"a": DigestPage([1, 2], [b"x", b"y"], None, frozenset({1})), "b": DigestPage([1, 2], [b"x", b"y"], None)}

    def answer(effect: Request | Call) -> Any:
        assert isinstance(effect, Request)
        name = "a" if "/a/" in effect.path else "b"
        return pages[name] if effect.op == "read_digests" else [point(i, name) for i in effect.body["ids"]]

    play = Working(answer)
    assert play.run(Piece(MIGRATION, None, None, 10).flow()).differing == (1,)
    assert [r.body["ids"] for r in play.sent if isinstance(r, Request) and r.op == "retrieve"] == [[1], [1]]


def test_digests_are_cut_before_an_id() -> None:
    """What comes later is read again."""
    page = JsonDigests([1, 3, 5], [b"a", b"b", b"c"], 7)
    assert page.before(None).ids == [1, 3, 5]
    assert page.before(3).ids == [1]
    assert page.before(3).contents == [b"a"]
