"""The checker accepts what the applications' calls explain and names every other state."""

import pytest

from qferry.demo import orders
from qferry.demo.call_log import Action, Call, Effect, Outcome
from qferry.demo.checker import Fault, Verdict, check
from qferry.demo.fingerprint import PointState, payload_fingerprint

OLD: PointState = ("v0", payload_fingerprint({"group": 1}))
NEW: PointState = ("v1", payload_fingerprint({"group": 1}))


def call(
    process: str,
    start: int,
    end: int | None,
    *effects: Effect,
    outcome: Outcome | None = Outcome.OK,
) -> Call:
    """Record a call; without an end the process died in it."""
    return Call(process, start, "write", effects, start, end, None if end is None else outcome)


def upsert(point: int, state: PointState = NEW) -> Effect:
    """Write the whole point."""
    assert state is not None
    return Effect(Action.UPSERT, point, vector=state[0], payload=state[1])


def delete(point: int) -> Effect:
    """Delete the point."""
    return Effect(Action.DELETE, point)


def mark(point: int, value: str) -> Effect:
    """Set one payload value of the point."""
    return Effect(Action.SET_PAYLOAD, point, payload=payload_fingerprint({"note": value}))


def marked(state: PointState, value: str) -> PointState:
    """Say what the state becomes with the mark."""
    assert state is not None
    return state[0], state[1] | payload_fingerprint({"note": value})


def faults(verdict: Verdict) -> dict[int, Fault]:
    """Name the wrong points."""
    return {finding.point: finding.fault for finding in verdict.findings}


def test_untouched_points_that_are_as_before_are_accepted() -> None:
    """Without calls the collection must be what it was, and it is."""
    verdict = check([], {1: OLD, 2: NEW}, {1: OLD, 2: NEW})
    assert verdict == Verdict((), (), ())


def test_untouched_points_that_differ_are_found() -> None:
    """Without calls a lost point is missing, a changed one stale and a new one extra."""
    verdict = check([], {1: OLD, 2: OLD}, {2: NEW, 3: NEW})
    assert faults(verdict) == {1: Fault.MISSING, 2: Fault.STALE, 3: Fault.EXTRA}
    assert [verdict.count(fault) for fault in Fault] == [1, 1, 0, 1]


def test_acknowledged_upsert_that_is_not_there_is_missing() -> None:
    """A new point that was acknowledged must exist."""
    assert faults(check([call("a", 1, 2, upsert(5))], {}, {})) == {5: Fault.MISSING}


def test_older_state_after_an_acknowledged_upsert_is_stale() -> None:
    """The state before the last acknowledged write is not allowed any more."""
    assert faults(check([call("a", 1, 2, upsert(5))], {5: OLD}, {5: OLD})) == {5: Fault.STALE}


def test_lost_partial_update_is_stale() -> None:
    """A payload value that was acknowledged must be there."""
    calls = [call("a", 1, 2, mark(5, "x"))]
    assert faults(check(calls, {5: OLD}, {5: OLD})) == {5: Fault.STALE}
    assert faults(check(calls, {5: OLD}, {5: marked(OLD, "x")})) == {}


def test_deleted_point_that_is_there_is_resurrected() -> None:
    """A point that was indexed or written, and then deleted, must not exist."""
    calls = [call("a", 1, 2, delete(5)), call("a", 3, 4, upsert(6)), call("b", 5, 6, delete(6))]
    assert faults(check(calls, {5: OLD}, {5: OLD, 6: NEW})) == {5: Fault.RESURRECTED, 6: Fault.RESURRECTED}


def test_point_that_only_deletes_ever_named_is_extra() -> None:
    """A point that exists though nobody wrote it is invented, even if someone tried to delete it."""
    assert faults(check([call("a", 1, 2, delete(5))], {}, {5: NEW})) == {5: Fault.EXTRA}


def test_either_outcome_of_a_race_is_accepted_and_a_mixture_is_not() -> None:
    """Two concurrent upserts may end in either state, but not with one's vector and the other's payload."""
    other: PointState = ("v2", payload_fingerprint({"group": 1, "by": "b"}))
    calls = [call("a", 1, 10, upsert(5)), call("b", 2, 9, upsert(5, other))]
    for legal in (NEW, other):
        assert faults(check(calls, {5: OLD}, {5: legal})) == {}
    assert NEW is not None
    assert faults(check(calls, {5: OLD}, {5: (NEW[0], other[1])})) == {5: Fault.STALE}


def test_killed_processes_last_call_may_or_may_not_count() -> None:
    """A call without an end explains both states; the process's earlier calls still count."""
    calls = [call("a", 1, 2, mark(5, "x")), call("a", 3, None, delete(5))]
    assert faults(check(calls, {5: OLD}, {})) == {}
    assert faults(check(calls, {5: OLD}, {5: marked(OLD, "x")})) == {}
    assert faults(check(calls, {5: OLD}, {5: OLD})) == {5: Fault.STALE}


def test_call_of_unknown_outcome_may_take_effect_after_later_calls_of_its_process() -> None:
    """A timed-out delete may land after the same process's next upsert."""
    calls = [call("a", 1, 2, delete(5), outcome=Outcome.UNKNOWN), call("a", 3, 4, upsert(5))]
    assert faults(check(calls, {5: OLD}, {})) == {}
    assert faults(check(calls, {5: OLD}, {5: NEW})) == {}


def test_refused_call_may_have_applied_but_not_later() -> None:
    """An error that the server answered cannot undo the process's next upsert."""
    calls = [call("a", 1, 2, delete(5), outcome=Outcome.REFUSED)]
    assert faults(check(calls, {5: OLD}, {})) == {}
    assert faults(check(calls, {5: OLD}, {5: OLD})) == {}
    calls.append(call("a", 3, 4, upsert(5)))
    assert faults(check(calls, {5: OLD}, {})) == {5: Fault.MISSING}


def test_filter_write_must_reach_every_point_of_its_group() -> None:
    """A mark by filter is stale where it is missing, and not asked for outside the group."""
    outside: PointState = ("v0", payload_fingerprint({"group": 2}))
    effect = Effect(Action.SET_PAYLOAD, group=1, payload=payload_fingerprint({"note": "x"}))
    verdict = check([call("a", 1, 2, effect)], {1: OLD, 2: OLD, 3: outside}, {1: marked(OLD, "x"), 2: OLD, 3: outside})
    assert faults(verdict) == {2: Fault.STALE}


def test_filter_delete_is_judged_per_point_at_some_instant_of_the_call() -> None:
    """A point that entered the group during the call may be deleted or not; one that was in it must be."""
    calls = [call("a", 1, 10, Effect(Action.DELETE, group=1)), call("b", 2, 3, upsert(6))]
    for sixth in ({}, {6: NEW}):
        assert faults(check(calls, {5: OLD}, sixth)) == {}
    assert faults(check(calls, {5: OLD}, {5: OLD})) == {5: Fault.RESURRECTED}


def test_point_that_left_its_group_is_out_of_a_filter_writes_reach() -> None:
    """After its payload was overwritten without the group number, a delete by filter must spare the point."""
    leave = Effect(Action.OVERWRITE_PAYLOAD, 5, payload=payload_fingerprint({"by": "a"}))
    calls = [call("a", 1, 2, leave), call("b", 3, 4, Effect(Action.DELETE, group=1))]
    assert faults(check(calls, {5: OLD}, {})) == {5: Fault.MISSING}
    assert faults(check(calls, {5: OLD}, {5: ("v0", leave.payload)})) == {}


def test_filter_write_that_moves_points_between_groups_is_refused() -> None:
    """The checker does not pretend to know which points such a write would reach."""
    effect = Effect(Action.SET_PAYLOAD, group=1, payload=payload_fingerprint({"group": 2}))
    with pytest.raises(ValueError, match="set the group number"):
        check([call("a", 1, 2, effect)], {1: OLD}, {1: OLD})


def test_effects_of_one_call_happen_in_their_order() -> None:
    """A batch that upserts and then marks a point leaves it marked."""
    calls = [call("a", 1, 2, upsert(5), mark(5, "x"))]
    assert faults(check(calls, {}, {5: marked(NEW, "x")})) == {}
    assert faults(check(calls, {}, {5: NEW})) == {5: Fault.STALE}


def test_batch_that_was_answered_not_found_may_have_applied_in_part() -> None:
    """The answer does not say how far the batch came."""
    calls = [call("a", 1, 2, upsert(5), mark(6, "x"), delete(7), outcome=Outcome.NOT_FOUND)]
    assert faults(check(calls, {7: OLD}, {5: NEW, 7: OLD})) == {}
    assert faults(check(calls, {7: OLD}, {})) == {}


def test_true_not_found_answer_is_accepted() -> None:
    """A partial update of a point that was deleted before is a normal answer."""
    calls = [call("a", 1, 2, delete(5)), call("b", 3, 4, mark(5, "x"), outcome=Outcome.NOT_FOUND)]
    assert check(calls, {5: OLD}, {}) == Verdict((), (), ())


def test_false_not_found_answer_is_a_contradiction() -> None:
    """A point that must have existed was denied: an error, even though its state is right."""
    calls = [call("b", 3, 4, mark(5, "x"), outcome=Outcome.NOT_FOUND)]
    assert check(calls, {5: OLD}, {5: OLD}) == Verdict((), (5,), ())


def test_point_that_cannot_be_decided_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A point that the search gives up on is counted, never passed over in silence."""
    monkeypatch.setattr(orders, "MAX_STATES", 1)
    calls = [call("a", 1, None, mark(5, "x"))]
    assert check(calls, {5: OLD}, {5: OLD}) == Verdict((), (), (5,))
