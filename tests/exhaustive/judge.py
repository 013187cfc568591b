"""What the application was told, in the order that matters, and whether that and what is left keep the promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from tests.simulation.possible_states import Call, PointHistory, State, Step, as_state

from qferry.protocol.phases import TARGET_IS_TRUTH, Phase
from qferry.protocol.records import CONTROL_COLLECTION

from .processes import SOURCE, TARGET, Event, Read
from .servers import Content, Servers

CHECK = "check"  # the command at the end of a run; whatever else has failed, it must not


class History:
    """
    What was told, each version of it known by a number.

    Only whether a call ended before another began matters to the judge: two beginnings with no end in between, and two
    ends with no beginning in between, are in no order.
    """

    NOTHING = 0

    def __init__(self) -> None:
        self.groups: list[tuple[tuple[str, tuple[Event, ...]], ...]] = [()]
        self._numbers: dict[Any, int] = {(): 0}
        self._after: dict[tuple[int, tuple[Event, ...]], int] = {}

    def and_then(self, number: int, events: tuple[Event, ...]) -> int:
        """The history with more told."""
        key = number, events
        if key not in self._after:
            groups = self.groups[number]
            for event in events:
                kind = "ends" if event[0].endswith("ends") else event[0]
                if groups and groups[-1][0] == kind:
                    groups = (*groups[:-1], (kind, tuple(sorted({*groups[-1][1], event}))))
                else:
                    groups = (*groups, (kind, (event,)))
            if groups not in self._numbers:
                self._numbers[groups] = len(self.groups)
                self.groups.append(groups)
            self._after[key] = self._numbers[groups]
        return self._after[key]

    def events(self, number: int) -> list[tuple[int, Event]]:
        """What was told, with a time for each group."""
        return [(at, event) for at, (_, group) in enumerate(self.groups[number]) for event in group]


class Verdict:
    """
    The judge.

    Args:
        initial: The application's points at the beginning.
        calls: By process, what it calls.
        refusals: How commands may end other than well, by name: a part of the error.
    """

    def __init__(
        self,
        initial: Mapping[int, State],
        calls: Mapping[str, tuple[Step | Read, ...]],
        refusals: Mapping[str, str] | None = None,
    ) -> None:
        self.initial = initial
        self.calls = calls
        self.history = History()
        self.has_reads = any(isinstance(call, Read) for planned in calls.values() for call in planned)
        self._refusals = refusals or {}
        self._known: dict[Any, str] = {}

    def of(self, servers: Servers, content: Content, history: int, *, faultless: bool) -> str:
        """What is wrong at the end of a run; empty if nothing is."""
        key = content, history, faultless
        if key not in self._known:
            self._known[key] = self._of(servers, content, history, faultless=faultless)
        return self._known[key]

    def unequal(self, servers: Servers, content: Content) -> str:
        """How the two sides differ; empty if they do not."""
        source, target = servers.states(content, SOURCE), servers.states(content, TARGET)
        return "" if source == target else f"the source holds {source}, the target {target}"

    def _of(self, servers: Servers, content: Content, history: int, *, faultless: bool) -> str:
        records = [payload for payload, _ in servers.points(content, CONTROL_COLLECTION).values()]
        phase = next(Phase(r["phase"]) for r in records if r["kind"] == "migration")
        if phase not in TARGET_IS_TRUTH and (why := self.unequal(servers, content)):
            return f"3: at finish both sides are equal: {why}"
        for _, event in self.history.events(history):
            if event[0] == "command ends" and event[2] != "ok" and (faultless or event[1] == CHECK):
                allowed = self._refusals.get(event[1])
                if allowed is None or allowed not in event[2]:
                    return f"a command failed: {event[1]}: {event[2]}"
        made = self._made(history)
        points = sorted({*self.initial, *(i for call in made for step in call.steps for i in step.ids)})
        writes = [call for call in made if call.steps]
        surviving = servers.states(content, TARGET)
        for point in points:
            possible = PointHistory(point, self.initial.get(point), writes)
            why = self._point(point, possible, surviving.get(point), made)
            if why:
                return why
        failed = [c for c in made if c.error and faultless and not _excused(c, writes)]
        return f"1: no call fails: {failed[0].who}: {failed[0].error}" if failed else ""

    def _point(self, point: int, history: PointHistory, surviving: State, made: list[Call]) -> str:
        allowed = history.final_states()
        if surviving not in allowed:
            return f"3 and 4: point {point} is {surviving}; possible: {sorted(map(str, allowed))}"
        for call in made:
            if call.outcome == "missing" and point in _named(call) and None not in history.states(call.start, call.end):
                return f"1: no call fails: {call.who} was told that point {point} is missing"
            if point in call.answer and call.answer[point] not in (seen := history.states(call.start, call.end)):
                return f"2: {call.who} read {call.answer[point]} of point {point}; possible: {sorted(map(str, seen))}"
        return ""

    def _made(self, history: int) -> list[Call]:
        """The calls, with the groups of the history as their times."""
        made: dict[tuple[str, int], Call] = {}
        mended = False
        for at, event in self.history.events(history):
            if event[0] == "begins":
                planned = self.calls[event[1]][event[2]]
                steps, ids = ((), planned.ids) if isinstance(planned, Read) else ((planned,), ())
                made[event[1:3]] = Call(f"{event[1]}'s call {event[2] + 1}", at, steps, ids)
            elif event[0] == "ends":
                call = made[event[1:3]]
                call.end = call.seen_by = at
                call.outcome = event[3] if event[3] in ("ok", "missing") else "unknown"
                call.error = event[3] if call.outcome == "unknown" else ""
                # What a repair has written may be of a moment before (docs/guarantee.md, limits).
                if call.ids and call.outcome == "ok" and not mended:
                    found = {r["id"]: as_state(r["payload"], {"": r["vector"]}) for r in orjson.loads(event[4])}
                    call.answer = {i: found.get(i) for i in call.ids}
            mended = mended or event[0] == "mended"
        return list(made.values())


def _named(call: Call) -> set[int]:
    return {i for step in call.steps for i in step.ids}


def _excused(call: Call, writes: list[Call]) -> bool:
    """
    Whether a write failed on the target while another one of the same point was under way for seconds.

    It may then name a point that only the source has, and must not be acknowledged while readers could not see it
    (docs/adr/0005); the other write's request is on its way for longer than `MISSING_PATIENCE_S`.
    """
    overlapping = [c for c in writes if c is not call and c.start <= call.end and call.start <= c.end]
    touched = _named(call)
    return call.error.startswith("TargetWriteFailed") and any(
        s.touches(i) for c in overlapping for s in c.steps for i in touched
    )
