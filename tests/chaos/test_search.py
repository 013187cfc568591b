"""The search against the simulation's, which looks at every order: both find the same states possible."""

from __future__ import annotations

import random
from functools import partial
from math import inf

import pytest

from simulation import possible_states as simulated

from .calls import OK, REJECTED, UNKNOWN, Effect
from .content import FIELDS, State, group_of, written
from .search import PointSearch, PointState, Question, Write

GROUPS = 2
POINT = 1
FAR = 10**6


def as_simulated(state: PointState) -> simulated.State:
    """A state in the simulation's form."""
    if state is None:
        return None
    payload = {name: value for name, value in zip(FIELDS[2:], state[2:], strict=True) if value is not None}
    vectors = {name: (value,) for name, value in zip(FIELDS[:2], state[:2], strict=True) if value is not None}
    return simulated.as_state(payload, vectors)


def looks_like(wanted: simulated.State, state: PointState) -> bool:
    """Whether a state is one of the simulation's."""
    return as_simulated(state) == wanted


def random_effect(chance: random.Random, token: int) -> Effect:
    """Any kind of write of the one point."""
    kind = chance.choice(("upsert", "delete", "set", "overwrite", "drop", "clear", "vectors", "unvector"))
    group = chance.randrange(GROUPS) if kind in ("delete", "set", "overwrite") and chance.random() < 0.4 else None
    fields = {"set": ("k1",), "drop": (chance.choice(("k1", "group")),), "vectors": ("a",), "unvector": ("b",)}
    return Effect(kind, () if group is not None else (POINT,), group, token, fields.get(kind, ()))


def as_step(effect: Effect) -> simulated.Step:
    """An effect in the simulation's form."""
    where = None if effect.group is None else ("group", effect.group)
    state = as_simulated(written(POINT, effect.token, GROUPS))
    payload: dict[str, object] = dict(state[0]) if state is not None and effect.kind == "upsert" else {}
    vectors: dict[str, object] = dict(state[1]) if state is not None and effect.kind == "upsert" else {}
    if effect.kind == "set":
        payload = {"k1": effect.token}
    elif effect.kind == "overwrite":
        group = None if where else group_of(POINT, effect.token, GROUPS)
        payload = {"rev": effect.token, **({} if group is None else {"group": group})}
    elif effect.kind == "vectors":
        vectors = {"a": (effect.token,)}
    kinds = {
        "set": "set_payload",
        "overwrite": "overwrite_payload",
        "drop": "delete_payload",
        "clear": "clear_payload",
        "vectors": "update_vectors",
        "unvector": "delete_vectors",
    }
    return simulated.Step(kinds.get(effect.kind, effect.kind), effect.ids, where, payload, vectors, effect.fields)


def as_write(effect: Effect, start: int, end: int, *, required: bool) -> Write:
    """An effect in the search's form."""
    if effect.kind == "upsert":
        return Write(start, end, required, whole=(written(POINT, effect.token, GROUPS),))
    whole = (None,) if effect.kind == "delete" else None
    changes = () if whole else effect.changes(GROUPS)
    found = required and whole is None and effect.group is None
    return Write(start, end, required, effect.group, whole, changes, found=found)


@pytest.mark.parametrize("seed", range(400))
def test_every_moment_has_the_states_that_all_orders_lead_to(seed: int) -> None:
    """Random histories with overlapping, failed and unanswered writes: the same final states, the same answers."""
    chance = random.Random(seed)
    initial = chance.choice((None, written(POINT, 99, GROUPS)))
    calls, writes = [], []
    for number in range(chance.randint(1, 7)):
        effect = random_effect(chance, number + 1)
        start = chance.randrange(30)
        end = start + chance.randint(1, 12)
        outcome = chance.choice((OK, OK, OK, REJECTED, UNKNOWN))
        step = as_step(effect)
        calls.append(simulated.Call("w", start, (step,), end=end, outcome=outcome, seen_by=end))
        until = FAR if outcome == UNKNOWN else end
        writes.append(as_write(effect, start, until, required=outcome == OK))
    expected = simulated.PointHistory(POINT, as_simulated(initial), calls)
    universe = sorted({*expected.states(-inf, inf)}, key=str)
    spans = [(start, start + chance.randint(0, 6)) for start in range(0, 45, 3)]
    questions = [Question(start, end, partial(looks_like, wanted)) for start, end in spans for wanted in universe]
    PointSearch(initial).run(writes, questions)
    final = PointSearch(initial, strictly=True).run(writes)
    assert {as_simulated(state) for state in final} == expected.final_states()
    answers = iter(questions)
    for start, end in spans:
        possible = expected.states(start, end)
        for wanted in universe:
            assert next(answers).answer == (wanted in possible), (start, end, wanted)


def test_batch_keeps_its_order() -> None:
    """Two writes of one acknowledged call take effect in order."""
    first = Write(0, 10, required=True, whole=(written(POINT, 1, GROUPS),))
    second = Write(0, 10, required=True, changes=((4, 7),), after=first)
    (state,) = PointSearch(None).run([first, second])
    assert state == State(*written(POINT, 1, GROUPS)[:4], 7, None)


def test_write_without_a_verdict_stops_counting() -> None:
    """It may take effect until its end and not later: after the next acknowledged write it is gone."""
    lost = Write(0, 10, required=False, whole=(None,))
    kept = Write(20, 21, required=True, whole=(written(POINT, 1, GROUPS),))
    before, after = (Question(at, at, lambda state: state is None) for at in (5, 15))
    states = PointSearch(written(POINT, 9, GROUPS)).run([lost, kept], [before, after])
    assert states == {written(POINT, 1, GROUPS)}
    assert (before.answer, after.answer) == (True, True)
