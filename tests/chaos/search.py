"""
Which states one point may be in, moment by moment: every order of its writes that real time allows.

A sweep over time.  What may have happened so far is a set of *configurations*: a state, and which of the writes under
way have already taken effect in it.  A write that was acknowledged took effect once between its start and its end;
when it ends, the configurations without it are dropped.  One without a verdict may take effect until its `latest`, or
never.

It knows the same rules as tests/simulation/possible_states.py and gives the same answers (test_search.py holds them
together), but that one looks at all orders of a whole history, and here a point sees thousands of writes.  Two things
keep the sets small: a write is put in order as late as possible, when it ends; and of two configurations with the
same state, the one that has used fewer of the optional writes can do whatever the other can.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from .calls import Changes
from .content import State

# More configurations than this and the point is given up; counted, so that a run cannot pass by giving up.
CONFIGURATIONS_MAX = 20_000

PointState: TypeAlias = State | None
_Configurations: TypeAlias = set[tuple[PointState, int]]


@dataclass(eq=False)
class Write:
    """
    What one effect may do to one point.

    Args:
        start: When its call began.
        end: By when it has taken effect, if ever.
        required: Whether it has taken effect by then.
        group: It changes only a point that carries this group; None: any.
        whole: What the point becomes, if the write replaces it; None in it deletes the point.
        changes: What a partial update changes otherwise.
        after: The write of the same call that precedes it.
        found: Whether its call was told that the point was there.
    """

    start: int
    end: int
    required: bool
    group: int | None = None
    whole: tuple[PointState] | None = None
    changes: Changes = ()
    after: Write | None = None
    found: bool = False
    bit: int = field(default=0, repr=False)

    def applied(self, state: PointState) -> PointState:
        """The state it makes of a state."""
        if self.group is not None and (state is None or state.group != self.group):
            return state
        if self.whole is not None:
            return self.whole[0]
        if state is None:
            return None
        values = list(state)
        for position, value in self.changes:
            values[position] = value
        return State(*values)


@dataclass(eq=False)
class Question:
    """
    Whether the point may have been in a state that fits at some moment from `start` to `end`.

    Args:
        start: When the read began.
        end: When it ended.
        fits: Tells for a state.
        about: What was read, for the report.
        answer: Filled in by the search.
        possible: The states at its last moment, where the answer is no.
    """

    start: int
    end: int
    fits: Callable[[PointState], bool]
    about: PointState = None
    answer: bool | None = None
    possible: frozenset[PointState] = frozenset()


class TooManyError(Exception):
    """So many writes without a verdict touched the point that the search was given up."""


class PointSearch:
    """One point's history, swept once."""

    def __init__(self, initial: PointState, *, strictly: bool = False) -> None:
        """
        Prepare the sweep.

        Args:
            initial: The point before the first write.
            strictly: Whether an order must explain the answers too: what was told that it found the point has met
                it.  That holds for what is left in the end.  Reads may see the other side meanwhile, which may have
                writes that overlapped in another order.
        """
        self._strictly = strictly
        self._configurations: _Configurations = {(initial, 0)}
        self._open: list[Write] = []
        self._pending: list[Question] = []

    def run(self, writes: Iterable[Write], questions: Iterable[Question] = ()) -> frozenset[PointState]:
        """
        Answer the questions.

        Returns:
            The states the point may be left in after all of it; none if no order explains the answers.

        Raises:
            TooManyError: more than CONFIGURATIONS_MAX configurations would have to be kept.
        """
        # At the same instant starts come before ends: calls that touch are taken to overlap.
        events: list[tuple[int, int, int, Write | Question]] = []
        everything: list[Write | Question] = [*writes, *questions]
        for number, about in enumerate(everything):
            events += [(about.start, 0, number, about), (about.end, 1, number, about)]
        heapq.heapify(events)
        while events:
            _, ends, _, about = heapq.heappop(events)
            if isinstance(about, Write):
                self._end(about) if ends else self._begin(about)
            elif ends:
                self._conclude(about)
            else:
                self._ask(about)
        return frozenset(state for state, _ in self._configurations)

    def _begin(self, write: Write) -> None:
        taken = 0
        for other in self._open:
            taken |= other.bit
        write.bit = ~taken & (taken + 1)  # the lowest one that is free
        self._open.append(write)
        self._look()

    def _ask(self, question: Question) -> None:
        self._pending.append(question)
        self._look()

    def _look(self) -> None:
        """Answer what the states that are possible by now can answer, as soon as they can."""
        if not self._pending:
            return
        for state, _ in self._reachable(self._open):
            for question in self._pending:
                if question.answer is None and question.fits(state):
                    question.answer = True
            if all(question.answer for question in self._pending):
                break
        self._pending = [question for question in self._pending if not question.answer]

    def _conclude(self, question: Question) -> None:
        if question.answer is None:
            question.answer = False
            question.possible = frozenset(state for state, _ in self._reachable(self._open))
            self._pending.remove(question)

    def _end(self, write: Write) -> None:
        """Put `write` in order, after whatever may have come before it; what may come after it waits for its end."""
        bit = write.bit
        done = {(state, used & ~bit) for state, used in self._configurations if used & bit}
        if not write.required:
            done |= {(state, used) for state, used in self._configurations if not used & bit}
        # What replaces the point leaves nothing of a write before it; only which required ones are done matters then.
        replaces = write.whole is not None and write.group is None
        earlier = [w for w in self._open if w is not write and (w.required or not replaces)]
        for state, used in self._reachable(earlier):
            if not used & bit and self._may_follow(write, state, used):
                done.add((write.applied(state), used))
        self._open.remove(write)
        self._configurations = self._pruned(done)

    def _may_follow(self, write: Write, state: PointState, used: int) -> bool:
        if self._strictly and write.found and state is None:
            return False
        return write.after is None or write.after not in self._open or bool(used & write.after.bit)

    def _reachable(self, usable: Sequence[Write]) -> Iterator[tuple[PointState, int]]:
        """The present configurations, and those that any order of some of the open writes leads to."""
        optional = self._mask(required=False)
        kept: dict[tuple[PointState, int], list[int]] = {}
        for state, used in self._configurations:
            kept.setdefault((state, used & ~optional), []).append(used & optional)
        queue = deque(self._configurations)
        size = len(queue)
        while queue:
            state, used = queue.popleft()
            yield state, used
            for write in usable:
                if used & write.bit or not self._may_follow(write, state, used):
                    continue
                new = write.applied(state)
                if new == state and not write.required:
                    continue
                after = used | write.bit
                known = kept.setdefault((new, after & ~optional), [])
                if any(other & ~after == 0 for other in known):
                    continue
                known.append(after & optional)
                queue.append((new, after))
                size += 1
            if size > CONFIGURATIONS_MAX:
                raise TooManyError

    def _pruned(self, configurations: _Configurations) -> _Configurations:
        """Without those that have used more of the optional writes than another one with the same state."""
        optional = self._mask(required=False)
        best: dict[tuple[PointState, int], list[int]] = {}
        for state, used in configurations:
            known = best.setdefault((state, used & ~optional), [])
            chosen = used & optional
            if any(other & ~chosen == 0 for other in known):
                continue
            known[:] = [other for other in known if chosen & ~other] + [chosen]
        return {(state, required | chosen) for (state, required), choices in best.items() for chosen in choices}

    def _mask(self, *, required: bool) -> int:
        mask = 0
        for write in self._open:
            if write.required is required:
                mask |= write.bit
        return mask
