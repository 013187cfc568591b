"""No interleaving of the small scopes breaks a promise, and the exploration would notice if one did."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest

from . import fingerprint
from .broken_variants import VARIANTS, broken
from .explorer import Explorer, State
from .machines import Machine
from .processes import P
from .scope import Scope, explored, setting, short_waits
from .scopes import SCOPES, delete, set_payload, upsert
from .trace import told

# The orders in which a broken variant's scope is explored until it is caught, and among how many states.
_USUAL, _OTHERS, _FEW, _MANY = None, range(40), 20_000, 100_000


@pytest.mark.slow
@pytest.mark.parametrize("name", SCOPES)
def test_no_interleaving_breaks_a_promise(name: str) -> None:
    """Every interleaving of the scope keeps the promises."""
    explorer, found = explored(SCOPES[name])
    assert not found.violation, "\n".join(told(explorer, found))
    assert found.complete
    assert not found.circles


@pytest.mark.parametrize("name", VARIANTS)
def test_a_broken_variant_is_caught(name: str) -> None:
    """Each deliberate mistake breaks a promise in the scope that is about it."""
    variant = VARIANTS[name]
    orders = [(variant.seed, _MANY), (_USUAL, _MANY), *((seed, _FEW) for seed in _OTHERS)]
    with broken(variant):
        assert any(explored(SCOPES[variant.scope], *order)[1].violation for order in orders)


def test_a_violation_is_told_step_by_step() -> None:
    """A violation comes with its interleaving, each step in a numbered line."""
    variant = VARIANTS["settling_whatever_the_token"]
    with broken(variant):
        explorer, found = explored(SCOPES[variant.scope])
        lines = list(told(explorer, found))
    assert lines[0] == found.violation
    assert [line.split()[0] for line in lines[1 : len(found.path) + 1]] == [str(n + 1) for n in range(len(found.path))]
    assert any("w1     calls upsert [1] {'v': 2}" in line for line in lines)
    assert any("w2     Delete on `old` -> done" in line for line in lines)


_SMALL = {
    "copy": replace(SCOPES["copy, upsert x delete"], calls=((upsert(2),), (delete(),)), beats=0),
    "copy with heartbeats": replace(SCOPES["copy, upsert x delete"], calls=((set_payload(3),),), beats=1),
    "settle": replace(SCOPES["settle, upsert x delete"], calls=((upsert(2),), (set_payload(3),)), beats=0),
    "settle with heartbeats": replace(SCOPES["settle, upsert x delete"], calls=((delete(),),), beats=1),
    "start": replace(SCOPES["start, delete x set_payload"], calls=((upsert(2),),)),
    "seal": replace(SCOPES["seal, delete x set_payload"], calls=((upsert(2),),)),
    "leave": replace(SCOPES["leave, upsert x delete"], calls=((upsert(2),),)),
}


@pytest.mark.parametrize("scope", _SMALL.values(), ids=_SMALL)
def test_what_is_left_out_changes_nothing(scope: Scope) -> None:
    """An exploration that takes no step at once, and tells more states apart, ends in the same ways."""
    with (
        patch.object(Explorer, "_disturbs_nobody", lambda *_: False),
        patch.object(Machine, "learns_nothing", lambda *_: False),
        patch.object(fingerprint, "read_later", lambda code, _: frozenset(code.co_varnames)),
    ):
        everything = _ends(scope)
    assert _ends(scope) == everything


def _ends(scope: Scope) -> set[object]:
    """How the runs of a scope end: what both sides hold then, and what was told to whom."""
    with short_waits():
        explorer = Explorer(setting(scope))
        ends: set[object] = set()
        shipped = explorer._when_nothing_moves

        def noting(state: State) -> object:
            told_then = {event[1:] for _, event in explorer.verdict.history.events(state[3])}
            sides = [str(explorer.servers.points(state[0], name).get(P)) for name in ("old", "new")]
            ends.add((*sides, frozenset(told_then)))
            return shipped(state)

        with patch.object(explorer, "_when_nothing_moves", noting):
            found = explorer.explore()
    assert found.complete, found.violation
    return ends
