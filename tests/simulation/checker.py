"""
The judge: whether what the application was told, and what is left at the end, keep the promises.

Independent of qferry on purpose: it knows calls, their times and their answers, and nothing of how they were carried
out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import inf

from .possible_states import Call, PointHistory, State


@dataclass(frozen=True)
class Seal:
    """
    Both sides at the moment after which there is no way back.

    Args:
        at: When that was.
        cycle_began: When the last journal cycle before it began.
        source: What the source held.
        target: What the target held.
    """

    at: float
    cycle_began: float
    source: Mapping[int, State]
    target: Mapping[int, State]


@dataclass(frozen=True)
class Violation:
    """A promise that was broken."""

    promise: str
    point: int | None
    at: float
    text: str


@dataclass
class Judgement:
    """
    The four promises, judged over one run.

    Args:
        initial: The points before the run.
        calls: Everything the application did.
    """

    initial: Mapping[int, State]
    calls: Sequence[Call]
    gave_up: int = 0

    @cached_property
    def _points(self) -> dict[int, PointHistory]:
        named = {i for call in self.calls for step in call.steps for i in step.ids}
        read = {i for call in self.calls for i in call.ids}
        writes = [call for call in self.calls if call.steps]
        return {i: PointHistory(i, self.initial.get(i), writes) for i in sorted({*self.initial, *named, *read})}

    def violations(self, surviving: Mapping[int, State], where: str, seal: Seal | None = None) -> list[Violation]:
        """Everything that is wrong with the run, given what the surviving collection holds."""
        found = [*self._judge_errors(), *self._judge_reads(), *self._judge_content(surviving, where)]
        if seal is not None:
            found += self._judge_seal(seal)
        self.gave_up = sum(not history.exhausted for history in self._points.values())
        return sorted(found, key=lambda v: v.at)

    def _judge_errors(self) -> Iterable[Violation]:
        """A call fails only by a fault of a server, or because a point is missing that may have been missing."""
        for call in self.calls:
            unexplained = not self._explained(call) if call.outcome == "missing" else not call.excuse
            if not call.error or not unexplained:
                continue
            yield Violation("1: no call fails because of the migration", None, call.end, f"{call.who}: {call.error}")

    def _explained(self, call: Call) -> bool:
        named = {i for step in call.steps for i in step.ids if step.kind not in ("upsert", "delete")}
        return any(None in self._points[i].states(call.start, call.end) for i in named)

    def _judge_reads(self) -> Iterable[Violation]:
        """A read returns a state that was possible at some moment of the read."""
        for call in self.calls:
            if call.steps or call.outcome != "ok":
                continue
            for point, state in call.answer.items():
                possible = self._points[point].states(call.start, call.end)
                if state in possible:
                    continue
                yield Violation(
                    "2: readers see every acknowledged write",
                    point,
                    call.end,
                    f"{call.who} read {state} from `{call.served_by}`; possible: {_told(possible)}",
                )

    def _judge_content(self, surviving: Mapping[int, State], where: str) -> Iterable[Violation]:
        for point in sorted({*self._points, *surviving}):
            state = surviving.get(point)
            possible = self._points[point].final_states() if point in self._points else {None}
            if state not in possible:
                yield Violation(
                    "3 and 4: nothing is missing, stale, resurrected or invented",
                    point,
                    inf,
                    f"`{where}` holds {state}; possible: {_told(possible)}",
                )

    def _judge_seal(self, seal: Seal) -> Iterable[Violation]:
        """
        At the finish the target holds exactly what the source holds.

        Exempt: what was written since the last journal cycle began, if it is still being written, ended without a
        verdict, or was written twice at the same time: nobody has checked it since, and nothing will.  Each side is
        legal by itself then, which `_judge_content` sees to.
        """
        for point in sorted({*seal.source, *seal.target}):
            ours, theirs = seal.source.get(point), seal.target.get(point)
            if ours != theirs and not self._in_motion(point, seal):
                text = f"the source held {ours}, the target {theirs}"
                yield Violation("3: at finish both sides are equal", point, seal.at, text)

    def _in_motion(self, point: int, seal: Seal) -> bool:
        recent = [
            call
            for call in self.calls
            if call.start <= seal.at and call.end >= seal.cycle_began and _touches(call, point)
        ]
        ended_well = all(call.end < seal.at and call.outcome == "ok" for call in recent)
        return bool(recent) and (_overlap(recent) or not ended_well)


def _touches(call: Call, point: int) -> bool:
    return any(step.touches(point) for step in call.steps)


def _overlap(calls: Iterable[Call]) -> bool:
    return any(a.start <= b.end and b.start <= a.end for a, b in combinations(calls, 2))


def _told(states: Iterable[State]) -> str:
    return " or ".join(sorted("absent" if s is None else str(s) for s in states)) or "nothing"
