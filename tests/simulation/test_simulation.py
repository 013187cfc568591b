"""The promises hold over schedules chosen by chance, and the judge would notice if they did not."""

from __future__ import annotations

import pytest

from .checker import Judgement
from .possible_states import Call, PointHistory, State, Step, as_state
from .run import told
from .scenario import Scenario
from .simulation import simulate

SCHEDULES = 300

ONE = as_state({"v": 1}, {})
TWO = as_state({"v": 2}, {})


def _upsert(value: int) -> Step:
    return Step("upsert", (7,), payload={"v": value})


def _done(step: Step, start: float, end: float) -> Call:
    return Call("app", start, (step,), end=end, seen_by=end, outcome="ok")


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, SCHEDULES, 50))
def test_no_schedule_breaks_a_promise(first: int) -> None:
    """Fifty schedules of the flows that ship lose, stale, resurrect and invent nothing, and fail no call."""
    for seed in range(first, first + 50):
        result = simulate(Scenario.of(seed))
        assert not result.violations, "\n".join([f"python -m tests.simulation.run --replay {seed}", *told(result)])
        assert not result.gave_up


def test_a_seed_always_tells_the_same_story() -> None:
    """A run can be replayed: the same seed gives the same trace."""
    first, second = (simulate(Scenario.of(11)).world.trace for _ in range(2))
    assert [line[:3] for line in first] == [line[:3] for line in second]


def test_writes_one_after_the_other_leave_the_last() -> None:
    """A write that began after another had ended cannot be undone by it."""
    history = PointHistory(7, None, [_done(_upsert(1), 0, 1), _done(_upsert(2), 2, 3)])
    assert history.final_states() == {TWO}
    assert history.states(1.2, 1.8) == {ONE}


def test_overlapping_writes_may_leave_either() -> None:
    """Of two writes at the same time, each may be the last."""
    history = PointHistory(7, None, [_done(_upsert(1), 0, 3), _done(_upsert(2), 2, 4)])
    assert history.final_states() == {ONE, TWO}


def test_a_write_without_an_answer_may_count_at_any_time_or_never() -> None:
    """A request that nobody heard of again may still overwrite what came later."""
    lost = Call("app", 0, (_upsert(1),), end=1)
    history = PointHistory(7, None, [lost, _done(_upsert(2), 2, 3)])
    assert history.states(0, 1) == {None, ONE}
    assert history.final_states() == {ONE, TWO}


def test_a_rejected_write_counts_before_its_end_or_never() -> None:
    """What a server has rejected may be there in part, but does not come later."""
    rejected = Call("app", 0, (_upsert(1),), end=1, seen_by=1, outcome="rejected")
    history = PointHistory(7, None, [rejected, _done(_upsert(2), 2, 3)])
    assert history.states(1.2, 1.8) == {None, ONE}
    assert history.final_states() == {TWO}


def test_a_filter_changes_only_what_matches_it() -> None:
    """A filter write is judged per point, by the state the point may have been in."""
    by_filter = Step("set_payload", where=("v", 1), payload={"w": 3})
    history = PointHistory(7, ONE, [_done(by_filter, 0, 1)])
    assert history.final_states() == {as_state({"v": 1, "w": 3}, {})}
    assert PointHistory(7, TWO, [_done(by_filter, 0, 1)]).final_states() == {TWO}


@pytest.mark.parametrize(
    ("found", "promise"), [(None, "3"), (ONE, "3"), (TWO, "")], ids=["lost", "stale", "as written"]
)
def test_a_lost_or_stale_point_is_noticed(found: State, promise: str) -> None:
    """The judge tells a point that is as it was written from one that is not."""
    calls = [_done(_upsert(1), 0, 1), _done(_upsert(2), 2, 3)]
    surviving: dict[int, State] = {7: found} if found is not None else {}
    violations = Judgement({}, calls).violations(surviving, "new")
    assert [v.promise[:1] for v in violations] == ([promise] if promise else [])


def test_a_stale_read_is_noticed() -> None:
    """A read that misses a write that had been acknowledged before it began breaks a promise."""
    read = Call("app", 2, ids=(7,), end=3, outcome="ok", answer={7: None}, served_by="old")
    violations = Judgement({}, [_done(_upsert(1), 0, 1), read]).violations({7: ONE}, "new")
    assert [v.promise[:1] for v in violations] == ["2"]


def test_an_error_without_an_excuse_is_noticed() -> None:
    """A call that failed although nothing had been done to its servers breaks a promise."""
    failed = Call("app", 0, (_upsert(1),), end=1, error="Rejected: 404")
    violations = Judgement({}, [failed]).violations({}, "new")
    assert [v.promise[:1] for v in violations] == ["1"]


def test_a_missing_point_needs_a_moment_at_which_it_was_missing() -> None:
    """A point is said to be missing only while it may have been absent."""
    update = Step("set_payload", (7,), payload={"w": 1})
    refused = Call("app", 2, (update,), end=3, seen_by=3, outcome="missing", error="No point with id")
    assert Judgement({7: ONE}, [refused]).violations({7: ONE}, "new")
    assert not Judgement({}, [refused]).violations({}, "new")
