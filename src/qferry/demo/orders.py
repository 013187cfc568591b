"""
Which states a point may end in, given the calls of several processes that touched it.

Nobody knows in which order overlapping calls took effect, so every order that the clock permits counts.
Each process is a *lane*: its steps happen one after the other. All orders that have applied the same steps
are at the same *position*: one index per lane. From a position a lane's next step may be taken unless another
lane's next step had already ended when it started (that one must come first). The search goes through all
positions, one applied step at a time, and keeps for each the set of states that any order leads to.

It is exact, and quick for two reasons: real calls last milliseconds, so only a narrow band of positions is
ever reached (about one per applied step, a few more where calls overlap); and orders that lead to the same
position and the same state are merged. A point with hundreds of calls takes milliseconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from qferry.demo.call_log import Action, Effect
from qferry.demo.fingerprint import PointState

GROUP_KEY = "group"
"""The payload key that filter writes select on."""

NEVER_ENDED = 2**63
"""End of a step that may take effect at any later time."""

# Every step of unknown fate may double the number of orders. Far above what a healthy or a killed process
# leaves behind (2 states), and reached only when dozens of calls on one point timed out.
MAX_STATES = 100_000


class Fate(Enum):
    """What is known about a step from the answer to its call."""

    APPLIED = "applied"
    FOUND_NOTHING = "found nothing"  # answered "no such point": the point was absent, nothing changed
    PERHAPS = "perhaps"


@dataclass(frozen=True)
class Step:
    """One effect on one point, somewhere between `start` and `end` (nanoseconds)."""

    effect: Effect
    start: int
    end: int
    fate: Fate


class TooManyOrdersError(Exception):
    """So many calls of unknown fate touched the point that the search was given up."""


def allowed_states(
    initial: PointState, lanes: Sequence[Sequence[Step]], *, believe_answers: bool = True
) -> frozenset[PointState]:
    """
    Every state that some permitted order of the steps ends in.

    Args:
        initial: The point before the first step.
        lanes: Each lane's steps in order, with non-decreasing ends.
        believe_answers: Whether an answer must fit the state it met: "no such point" only for an absent
            point, success of a partial update only for an existing one. Otherwise such steps change nothing.

    Returns:
        The allowed states; empty when no order explains the answers.

    Raises:
        TooManyOrdersError: more than MAX_STATES states would have to be kept.
    """
    reached: dict[tuple[int, ...], set[PointState]] = {(0,) * len(lanes): {initial}}
    for _ in range(sum(map(len, lanes))):
        following: dict[tuple[int, ...], set[PointState]] = defaultdict(set)
        for position, states in reached.items():
            pending = [
                (i, lane[at]) for i, (at, lane) in enumerate(zip(position, lanes, strict=True)) if at < len(lane)
            ]
            first_end = min(step.end for _, step in pending)
            for i, step in pending:
                if step.start > first_end:
                    continue
                moved = (*position[:i], position[i] + 1, *position[i + 1 :])
                for state in states:
                    following[moved].update(_outcomes(step, state, believe_answers=believe_answers))
        # A position without any state is a contradiction, not a way on.
        reached = {position: states for position, states in following.items() if states}
        if sum(map(len, reached.values())) > MAX_STATES:
            raise TooManyOrdersError
    return frozenset().union(*reached.values())


def apply_effect(effect: Effect, state: PointState) -> PointState:
    """
    The state after an effect, as the server would leave it.

    Args:
        effect: The change; one for a group changes only a point that carries the group number.
        state: The point before.

    Returns:
        The point after; a partial update of an absent point leaves it absent.
    """
    if effect.group is not None and not _carries_group(state, effect.group):
        return state
    if effect.action is Action.UPSERT:
        return effect.vector, effect.payload
    if effect.action is Action.DELETE or state is None:
        return None
    vector, payload = state
    if effect.action is Action.UPDATE_VECTOR:
        return effect.vector, payload
    if effect.action is Action.OVERWRITE_PAYLOAD:
        return vector, effect.payload
    replaced = {key for key, _ in effect.payload} | set(effect.keys)
    return vector, frozenset(item for item in payload if item[0] not in replaced) | effect.payload


def _carries_group(state: PointState, group: int) -> bool:
    return state is not None and (GROUP_KEY, str(group)) in state[1]


def _outcomes(step: Step, state: PointState, *, believe_answers: bool) -> tuple[PointState, ...]:
    if step.fate is Fate.PERHAPS:
        return state, apply_effect(step.effect, state)
    if step.fate is Fate.FOUND_NOTHING:
        return (state,) if state is None or not believe_answers else ()
    needs_the_point = step.effect.group is None and step.effect.action not in (Action.UPSERT, Action.DELETE)
    if needs_the_point and state is None and believe_answers:
        return ()
    return (apply_effect(step.effect, state),)
