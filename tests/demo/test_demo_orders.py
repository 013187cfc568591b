"""The search over all permitted orders agrees with brute force and stays quick."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qferry.demo import orders
from qferry.demo.call_log import Action, Effect
from qferry.demo.fingerprint import PointState, payload_fingerprint
from qferry.demo.orders import NEVER_ENDED, Fate, Step, TooManyOrdersError, allowed_states, apply_effect

POINT: PointState = ("v0", payload_fingerprint({"group": 7, "note": "old"}))


def upsert(vector: str) -> Effect:
    """Write the whole point."""
    return Effect(Action.UPSERT, 1, vector=vector, payload=payload_fingerprint({"group": 7}))


def mark(value: str) -> Effect:
    """Set one payload value of the point."""
    return Effect(Action.SET_PAYLOAD, 1, payload=payload_fingerprint({"note": value}))


DELETE = Effect(Action.DELETE, 1)
DELETE_GROUP = Effect(Action.DELETE, group=7)


def test_sequential_steps_leave_one_state() -> None:
    """Steps that do not overlap have one order and one outcome."""
    lane = [Step(upsert("a"), 0, 1, Fate.APPLIED), Step(upsert("b"), 2, 3, Fate.APPLIED)]
    assert allowed_states(None, [lane]) == {apply_effect(upsert("b"), None)}


def test_overlapping_steps_of_two_lanes_allow_both_orders() -> None:
    """An upsert and a delete at the same time may leave the point or not."""
    lanes = [[Step(upsert("a"), 0, 5, Fate.APPLIED)], [Step(DELETE, 1, 4, Fate.APPLIED)]]
    assert allowed_states(POINT, lanes) == {None, apply_effect(upsert("a"), None)}


def test_step_that_ended_before_another_began_comes_first() -> None:
    """The clock decides between two processes whose calls do not overlap."""
    lanes = [[Step(upsert("a"), 0, 1, Fate.APPLIED)], [Step(DELETE, 2, 3, Fate.APPLIED)]]
    assert allowed_states(None, lanes) == {None}


def test_step_of_unknown_fate_may_come_late_or_never() -> None:
    """A killed process's delete may take effect after everything else, or not at all."""
    lanes = [[Step(DELETE, 0, NEVER_ENDED, Fate.PERHAPS)], [Step(upsert("a"), 5, 6, Fate.APPLIED)]]
    assert allowed_states(POINT, lanes) == {None, apply_effect(upsert("a"), None)}


def test_answered_error_may_be_applied_but_not_after_its_end() -> None:
    """A refused call is over: it cannot undo what began later."""
    lanes = [[Step(DELETE, 0, 1, Fate.PERHAPS)], [Step(upsert("a"), 5, 6, Fate.APPLIED)]]
    assert allowed_states(POINT, lanes) == {apply_effect(upsert("a"), None)}


def test_not_found_answer_fixes_the_order_of_overlapping_calls() -> None:
    """A mark that found nothing proves that the delete came before it, and before the lane's next upsert."""
    deleter = [Step(DELETE, 0, 10, Fate.APPLIED)]
    marker = [Step(mark("x"), 1, 2, Fate.FOUND_NOTHING), Step(upsert("b"), 3, 4, Fate.APPLIED)]
    assert allowed_states(POINT, [deleter, marker]) == {apply_effect(upsert("b"), None)}


def test_not_found_answer_for_a_point_that_existed_has_no_explanation() -> None:
    """Nobody deleted the point: no order explains the answer, and without belief it changes nothing."""
    lanes = [[Step(mark("x"), 1, 2, Fate.FOUND_NOTHING)]]
    assert allowed_states(POINT, lanes) == frozenset()
    assert allowed_states(POINT, lanes, believe_answers=False) == {POINT}


def test_acknowledged_partial_update_of_an_absent_point_has_no_explanation() -> None:
    """Success of a partial update means that the point was there."""
    lanes = [[Step(mark("x"), 1, 2, Fate.APPLIED)]]
    assert allowed_states(None, lanes) == frozenset()
    assert allowed_states(None, lanes, believe_answers=False) == {None}


@pytest.mark.parametrize(
    ("effect", "expected"),
    [
        (upsert("a"), ("a", payload_fingerprint({"group": 7}))),
        (DELETE, None),
        (mark("new"), ("v0", payload_fingerprint({"group": 7, "note": "new"}))),
        (
            Effect(Action.OVERWRITE_PAYLOAD, 1, payload=payload_fingerprint({"a": 1})),
            ("v0", payload_fingerprint({"a": 1})),
        ),
        (Effect(Action.DELETE_KEYS, 1, keys=("note", "none")), ("v0", payload_fingerprint({"group": 7}))),
        (
            Effect(Action.UPDATE_VECTOR, 1, vector="v1"),
            ("v1", payload_fingerprint({"group": 7, "note": "old"})),
        ),
        (DELETE_GROUP, None),
        (Effect(Action.DELETE, group=8), POINT),
        (
            Effect(Action.SET_PAYLOAD, group=7, payload=payload_fingerprint({"c": 1})),
            ("v0", payload_fingerprint({"group": 7, "note": "old", "c": 1})),
        ),
        (Effect(Action.SET_PAYLOAD, group=70, payload=payload_fingerprint({"c": 1})), POINT),
    ],
)
def test_effect_leaves_what_the_server_would_leave(effect: Effect, expected: PointState) -> None:
    """Each kind of write has the server's meaning."""
    assert apply_effect(effect, POINT) == expected


def test_partial_updates_leave_an_absent_point_absent() -> None:
    """Only an upsert creates a point."""
    for effect in (mark("x"), DELETE, DELETE_GROUP, Effect(Action.UPDATE_VECTOR, 1, vector="v")):
        assert apply_effect(effect, None) is None


def test_search_gives_up_rather_than_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many calls of unknown fate are reported, not skipped."""
    monkeypatch.setattr(orders, "MAX_STATES", 50)
    lanes = [[Step(mark(str(i)), i, NEVER_ENDED, Fate.PERHAPS)] for i in range(10)]
    with pytest.raises(TooManyOrdersError):
        allowed_states(POINT, lanes)


@pytest.mark.timeout(20)
def test_hot_point_with_hundreds_of_overlapping_calls_is_decided_quickly() -> None:
    """Three processes with 400 overlapping calls each on one point stay within a narrow band."""
    lanes = [
        [Step(upsert(f"{lane}-{i}"), 10 * i + lane, 10 * i + 9 + lane, Fate.APPLIED) for i in range(400)]
        for lane in range(3)
    ]
    final = allowed_states(POINT, lanes)
    assert final == {apply_effect(upsert(f"{lane}-399"), None) for lane in range(3)}


EFFECTS = st.sampled_from(
    [
        upsert("a"),
        upsert("b"),
        DELETE,
        DELETE_GROUP,
        mark("x"),
        mark("y"),
        Effect(Action.OVERWRITE_PAYLOAD, 1),
    ]
)


@st.composite
def lanes_of_steps(draw: st.DrawFn) -> list[list[Step]]:
    """Draw up to three lanes with up to six steps in all, with every kind of fate."""
    lanes: list[list[Step]] = []
    left = 6
    for _ in range(draw(st.integers(1, 3))):
        lane: list[Step] = []
        clock = 0
        for _ in range(draw(st.integers(0, min(left, 3)))):
            start = clock + draw(st.integers(1, 4))
            clock = start + draw(st.integers(0, 6))
            effect = draw(EFFECTS)
            fates = [Fate.APPLIED, Fate.APPLIED, Fate.PERHAPS]
            if effect.action in (Action.SET_PAYLOAD, Action.OVERWRITE_PAYLOAD):
                fates.append(Fate.FOUND_NOTHING)
            lane.append(Step(effect, start, clock, draw(st.sampled_from(fates))))
        left -= len(lane)
        lanes.append(lane)
    if left:
        unknown = Step(draw(EFFECTS), draw(st.integers(0, 9)), NEVER_ENDED, Fate.PERHAPS)
        lanes.append([unknown])
    return lanes


def by_brute_force(initial: PointState, lanes: list[list[Step]]) -> set[PointState]:
    """Try every permutation that respects each lane and the clock."""
    steps = [(number, place, step) for number, lane in enumerate(lanes) for place, step in enumerate(lane)]
    final: set[PointState] = set()
    for order in permutations(steps):
        in_order = all(
            not (later[2].end < earlier[2].start or (later[0] == earlier[0] and later[1] < earlier[1]))
            for i, earlier in enumerate(order)
            for later in order[i + 1 :]
        )
        if in_order:
            states = {initial}
            for _, _, step in order:
                states = {after for state in states for after in naive_outcomes(step, state)}
            final |= states
    return final


def naive_outcomes(step: Step, state: PointState) -> set[PointState]:
    """Say what one step may lead to, in other words than the code under test."""
    after = apply_effect(step.effect, state)
    by_id = step.effect.group is None
    if step.fate is Fate.PERHAPS:
        return {state, after}
    if step.fate is Fate.FOUND_NOTHING:
        return {None} if state is None else set()
    if by_id and state is None and step.effect.action in (Action.SET_PAYLOAD, Action.OVERWRITE_PAYLOAD):
        return set()
    return {after}


@given(initial=st.sampled_from([None, POINT]), lanes=lanes_of_steps())
def test_search_finds_exactly_what_brute_force_finds(initial: PointState, lanes: list[list[Step]]) -> None:
    """For small histories the allowed states are those of all permitted permutations, no more and no less."""
    assert allowed_states(initial, lanes) == by_brute_force(initial, lanes)
