"""
Compares what the applications were told with what is there.

The checker shares no code with the migration: it reads the applications' logs, what the collection held
before the traffic and what the surviving collection holds now, and decides for every point whether its state
is allowed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from qferry.demo.call_log import Action, Call, Effect, Outcome
from qferry.demo.fingerprint import PointState
from qferry.demo.orders import GROUP_KEY, NEVER_ENDED, Fate, Step, TooManyOrdersError, allowed_states


class Fault(str, Enum):
    """The ways in which a point can be wrong."""

    MISSING = "missing"  # it must exist and does not
    STALE = "stale"  # it exists, but holds something no order of the writes can leave behind
    RESURRECTED = "resurrected"  # it was there once, must be gone, and exists
    EXTRA = "extra"  # it exists though nobody ever wrote it


@dataclass(frozen=True)
class Finding:
    """One wrong point: what it holds and what it might hold."""

    point: int
    fault: Fault
    found: PointState
    allowed: frozenset[PointState]


@dataclass(frozen=True)
class Verdict:
    """
    The outcome of a check.

    `contradictions` are points whose answers no order of events explains (a "no such point" for a point that
    must have existed, say); `undecided` are points that were given up. Both count as errors.
    """

    findings: tuple[Finding, ...]
    contradictions: tuple[int, ...]
    undecided: tuple[int, ...]

    def count(self, fault: Fault) -> int:
        """Number of points with this fault."""
        return sum(finding.fault is fault for finding in self.findings)


def check(calls: Iterable[Call], before: Mapping[int, PointState], after: Mapping[int, PointState]) -> Verdict:
    """
    Judge every point that existed, was written, or exists now.

    Args:
        calls: Every call of every process; each process's in its order.
        before: The points before the first call.
        after: The points after the last call.

    Returns:
        The wrong points, by id; points nobody touched must be exactly as before.
    """
    histories = _histories(list(calls), before)
    findings: list[Finding] = []
    contradictions: list[int] = []
    undecided: list[int] = []
    for point in sorted({*before, *after, *histories}):
        found, initial, lanes = after.get(point), before.get(point), histories.get(point, [])
        try:
            allowed = allowed_states(initial, lanes)
            if not allowed:
                contradictions.append(point)
                allowed = allowed_states(initial, lanes, believe_answers=False)
        except TooManyOrdersError:
            undecided.append(point)
            continue
        if found not in allowed:
            upserted = any(step.effect.action is Action.UPSERT for lane in lanes for step in lane)
            was_there = initial is not None or upserted
            findings.append(Finding(point, _fault(found, allowed, was_there=was_there), found, allowed))
    return Verdict(tuple(findings), tuple(contradictions), tuple(undecided))


def _fault(found: PointState, allowed: frozenset[PointState], *, was_there: bool) -> Fault:
    if found is None:
        return Fault.MISSING
    if allowed != {None}:
        return Fault.STALE
    return Fault.RESURRECTED if was_there else Fault.EXTRA


def _histories(calls: list[Call], before: Mapping[int, PointState]) -> dict[int, list[list[Step]]]:
    """Sort the effects by point, and each point's by lane."""
    members = _points_by_group(calls, before)
    lanes: dict[int, dict[tuple[str, int], list[Step]]] = defaultdict(lambda: defaultdict(list))
    for call in calls:
        for effect in call.effects:
            step = _step(call, effect)
            # A call that may take effect after its process went on (or died) is not in line with the
            # process's other calls: it gets a lane of its own.
            lane = (call.process, call.number if step.end == NEVER_ENDED else 0)
            touched = members[str(effect.group)] if effect.point is None else {effect.point}
            for point in touched:
                lanes[point][lane].append(step)
    return {point: list(by_lane.values()) for point, by_lane in lanes.items()}


def _step(call: Call, effect: Effect) -> Step:
    if call.outcome in (None, Outcome.UNKNOWN) or call.end_ns is None:
        return Step(effect, call.start_ns, NEVER_ENDED, Fate.PERHAPS)
    if call.outcome is Outcome.OK:
        return Step(effect, call.start_ns, call.end_ns, Fate.APPLIED)
    # "No such point" names one point; a call with more effects may have done some of them before it stopped.
    if call.outcome is Outcome.NOT_FOUND and len(call.effects) == 1:
        return Step(effect, call.start_ns, call.end_ns, Fate.FOUND_NOTHING)
    return Step(effect, call.start_ns, call.end_ns, Fate.PERHAPS)


def _points_by_group(calls: list[Call], before: Mapping[int, PointState]) -> dict[str, set[int]]:
    """The points that ever carried each group number: those a filter write may have touched."""
    members: dict[str, set[int]] = defaultdict(set)
    for point, state in before.items():
        for key, value in state[1] if state is not None else ():
            if key == GROUP_KEY:
                members[value].add(point)
    for effect in (effect for call in calls for effect in call.effects):
        for key, value in effect.payload:
            if key != GROUP_KEY:
                continue
            if effect.point is None:
                raise ValueError("A filter write set the group number: which points later ones reach is unknown.")
            members[value].add(effect.point)
    return members
