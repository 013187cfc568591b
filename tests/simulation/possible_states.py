"""
Which states of a point are possible, and when: every order of its writes that real time allows.

A write that was acknowledged took effect once, between its start and its end.  One that failed without a verdict may
have taken effect at any time since it began, or may never; one that the server rejected may have taken effect in
part, before it ended.

For reads a partial update changes nothing where the point is absent, whatever was answered; the answer is judged by
itself.  That makes the two sides judgeable one by one: of two writes that overlap each side may have its own order, and
what a later partial update does there follows from that order.  For what is left in the end, one order must explain the
answers too: a partial update is acknowledged only if it found the point.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from typing import Any

Items = tuple[tuple[str, Any], ...]
State = tuple[Items, Items] | None  # payload and vectors, or absent
# A delete that takes longer may be sent once more before it ends (flows/write.py), by clocks that differ.
SLOW_S = 0.3
# More orders than this and the search is given up; counted, so that a run cannot pass by giving up.
NODES_MAX = 200_000


@dataclass(frozen=True)
class Step:
    """One update: what it does, to which ids or where a payload value matches, and with what."""

    kind: str
    ids: tuple[int, ...] = ()
    where: tuple[str, Any] | None = None
    payload: Mapping[str, Any] = field(default_factory=dict)
    vectors: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    def touches(self, point: int) -> bool:
        """Whether it may change the point."""
        return self.where is not None or point in self.ids

    @property
    def names_what_must_exist(self) -> bool:
        """Whether the server refuses it for a point that is missing."""
        return self.where is None and self.kind not in ("upsert", "delete")

    def applied(self, state: State) -> State:
        """The state it makes of a state."""
        if self.where is not None and (state is None or self.where not in state[0]):
            return state
        if self.kind == "delete":
            return None
        if self.kind == "upsert":
            return as_state(self.payload, self.vectors)
        if state is None:
            return None
        payload, vectors = dict(state[0]), dict(state[1])
        if self.kind == "set_payload":
            payload |= self.payload
        elif self.kind == "overwrite_payload":
            payload = dict(self.payload)
        elif self.kind == "delete_payload":
            payload = {k: v for k, v in payload.items() if k not in self.names}
        elif self.kind == "clear_payload":
            payload = {}
        elif self.kind == "update_vectors":
            vectors |= self.vectors
        else:
            vectors = {k: v for k, v in vectors.items() if k not in self.names}
        return as_state(payload, vectors)


def as_state(payload: Mapping[str, Any], vectors: Mapping[str, Any]) -> State:
    """Payload and vectors in the form states are compared in."""
    return tuple(sorted(payload.items())), tuple(sorted((k, tuple(v)) for k, v in vectors.items()))


@dataclass
class Call:
    """
    One call of the application.

    Args:
        who: The process.
        start: When it began.
        steps: What it writes; empty for a read.
        ids: What it reads.
        end: When it ended; infinite while it has not, and if its process died.
        outcome: `ok`, `missing` (a point was not found), `rejected`, or `unknown`.
        answer: What a read returned.
        seen_by: When at the latest readers must see it: its end, or later if it asked not to wait.
        excuse: Why an error is nobody's fault but the faults'; empty if it has none.
        error: The error it ended in, for the report.
        served_by: The collection a read was answered from.
        outlived_lease: Whether its process lost its lease meanwhile; a write is then carried out again.
        waited: Whether it asked to hear of the write only when it is applied.
    """

    who: str
    start: float
    steps: tuple[Step, ...] = ()
    ids: tuple[int, ...] = ()
    end: float = inf
    outcome: str = "unknown"
    answer: dict[int, State] = field(default_factory=dict)
    seen_by: float = inf
    excuse: str = ""
    error: str = ""
    served_by: str = ""
    waited: bool = True
    outlived_lease: bool = False


@dataclass(frozen=True)
class _Write:
    step: Step
    start: float
    end: float
    seen_by: float
    required: bool
    latest: float  # by when it has taken effect, if ever
    found: bool = False  # it was acknowledged, which it is only if the point was there
    after: int | None = None  # the step of the same call that precedes it
    not_after: int | None = None  # the step that, once done, rules it out


class PointHistory:
    """Every order of the writes to one point that is possible, and the states it leads through."""

    def __init__(self, point: int, initial: State, calls: Iterable[Call]) -> None:
        self.point = point
        self.initial = initial
        self._writes: list[_Write] = []
        self._gave_up = False
        for call in calls:
            self._add(call)

    def _add(self, call: Call) -> None:
        steps = [step for step in call.steps if step.touches(self.point)]
        ok = call.outcome == "ok"
        latest = inf if call.outcome == "unknown" else call.end
        slow_delete = call.end - call.start > SLOW_S and any(step.kind == "delete" for step in steps)
        if (ok and len(steps) > 1) or call.outlived_lease or (ok and slow_delete):
            # It may be carried out twice within its call, and show its first states again.
            second_pass = len(self._writes) + len(steps) if not call.outlived_lease else None
            for step in steps:
                self._writes.append(
                    _Write(step, call.start, call.end, inf, required=False, latest=latest, not_after=second_pass)
                )
        previous = None
        for step in steps:
            found = ok and call.waited and step.names_what_must_exist
            self._writes.append(_Write(step, call.start, call.end, call.seen_by, ok, latest, found, previous))
            previous = len(self._writes) - 1 if ok else None

    @cached_property
    def _nodes(self) -> dict[tuple[int, State], list[int]]:
        return self._explored(strictly=False)

    @cached_property
    def _strict_nodes(self) -> dict[tuple[int, State], list[int]]:
        if not any(write.found for write in self._writes):
            return self._nodes
        return self._explored(strictly=True)

    def _explored(self, *, strictly: bool) -> dict[tuple[int, State], list[int]]:
        """
        What may have been reached: the required writes done and the state, with the optional writes that were used.

        A node is left out if another has the same state, and has used fewer of the optional writes: whatever can
        still happen after the one can happen after the other.
        """
        writes = self._writes
        before = [self._before(i) for i in range(len(writes))]
        later = [
            _mask(j for j, other in enumerate(writes) if other.start > w.latest or j == w.not_after) for w in writes
        ]
        required = _mask(i for i, w in enumerate(writes) if w.required)
        made: dict[tuple[int, State], State] = {}
        found: dict[tuple[int, State], list[int]] = {(0, self.initial): [0]}
        queue: deque[tuple[int, State]] = deque([(0, self.initial)])
        size = 1
        while queue and size <= NODES_MAX:
            done, state = queue.popleft()
            if done & ~required not in found[done & required, state]:
                continue
            for i, write in enumerate(writes):
                if done >> i & 1 or before[i] & ~done or later[i] & done:
                    continue
                if strictly and state is None and write.found:
                    continue
                if (i, state) not in made:
                    made[i, state] = write.step.applied(state)
                new = made[i, state]
                if new == state and not write.required:
                    continue
                after = done | 1 << i
                used, known = after & ~required, found.setdefault((after & required, new), [])
                if any(other & ~used == 0 for other in known):
                    continue
                known[:] = [other for other in known if used & ~other] + [used]
                size += 1
                queue.append((after, new))
        self._gave_up = self._gave_up or size > NODES_MAX
        return found

    def _before(self, index: int) -> int:
        write = self._writes[index]
        earlier = _mask(i for i, other in enumerate(self._writes) if other.required and other.end < write.start)
        return earlier | (1 << write.after if write.after is not None else 0)

    @property
    def exhausted(self) -> bool:
        """Whether every order was looked at."""
        return bool(self._nodes and self._strict_nodes) and not self._gave_up

    def states(self, start: float, end: float, *, strictly: bool = False) -> set[State]:
        """
        The states the point may have been in at some moment between `start` and `end`.

        Args:
            start: The first of the moments.
            end: The last.
            strictly: Whether a partial update that was acknowledged must have found the point.
        """
        must = _mask(i for i, w in enumerate(self._writes) if w.required and w.seen_by < start)
        may_not = _mask(i for i, w in enumerate(self._writes) if w.start > end)
        return {
            state
            for (done, state), choices in (self._strict_nodes if strictly else self._nodes).items()
            if not must & ~done and any(not may_not & (done | used) for used in choices)
        }

    def final_states(self) -> set[State]:
        """The states it may be left in."""
        return self.states(inf, inf, strictly=True)


def _mask(indexes: Iterable[int]) -> int:
    mask = 0
    for index in indexes:
        mask |= 1 << index
    return mask
