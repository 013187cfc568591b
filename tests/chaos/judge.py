"""
The judge: whether what the applications were told, and what is left at the end, keep the promises.

It knows calls, their times and their answers, and when which fault was at work; nothing of how a call was carried
out.  Independent of qferry on purpose.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain
from operator import eq

from .calls import MISSING, OK, UNKNOWN, Call, Effect
from .content import State
from .search import PointSearch, PointState, Question, TooManyError, Write

SECOND_NS = 10**9
# A request without an answer lands within this time after its call ended and the faults on its path were over, or
# never: the server has worked through what it found by then, also what a restart made it read from its log.
LANDS_WITHIN_S = 10
# How long a fault may still be felt after it is over.  A gRPC channel that could not connect waits before it tries
# again, up to about as long as it has been failing; a lease of 5 s that ran out meanwhile has to be renewed.
FELT_S = 15
# Errors that a server or a network which is out of order may cause; by what the exception says, its causes included.
_OUT_OF_ORDER = (
    "ResponseHandlingException",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "CANCELLED",
    "INTERNAL",
    "UNKNOWN",
    "gave no answer",
    "Unexpected Response: 5",
    "answered 5",
    "answered 408",
    "Unexpected Response: 408",
    "it lacks ",
    # A documented limit: a lease that runs out in the middle of a call that cannot be carried out twice.
    "took longer than its lease",
    "has not answered and may still carry it out",
)


@dataclass(frozen=True)
class Window:
    """A fault at work on a subject, from `start` to `end`."""

    subject: str
    start: int
    end: int


@dataclass(frozen=True)
class Paths:
    """
    What a lane's calls depend on.

    Args:
        subjects: By application process: the servers, links and processes whose faults it feels.
        windows: Every fault that was at work.
    """

    subjects: Mapping[str, frozenset[str]] = field(default_factory=dict)
    windows: Sequence[Window] = ()

    def disturbed(self, call: Call) -> bool:
        """Whether a fault was at work on the path of a call that has ended, while it ran or shortly before."""
        end = call.end or call.start
        return any(w.start <= end and w.end + FELT_S * SECOND_NS >= call.start for w in self._concerning(call))

    def landed(self, call: Call, end: int) -> int:
        """By when a call that ended without an answer has taken effect, if ever."""
        for window in sorted(self._concerning(call), key=lambda w: w.start):
            if window.start <= end and window.end >= call.start:
                end = max(end, window.end)
        return end + LANDS_WITHIN_S * SECOND_NS

    def _concerning(self, call: Call) -> list[Window]:
        concerned = self.subjects.get(_process(call), frozenset())
        return [window for window in self.windows if window.subject in concerned]


@dataclass(frozen=True)
class Finding:
    """Something that must not be: `kind` is lost, stale, resurrected, extra, stale read or migration error."""

    kind: str
    text: str


@dataclass
class Verdict:
    """
    The outcome of one round.

    `server_errors` were a fault's doing.  `undecided` points were given up; they count as findings.
    """

    findings: list[Finding] = field(default_factory=list)
    acknowledged: int = 0  # point writes
    reads: int = 0
    server_errors: int = 0
    undecided: int = 0
    server_error_texts: Counter[str] = field(default_factory=Counter)

    def count(self, kind: str) -> int:
        """Number of findings of a kind."""
        return sum(finding.kind == kind for finding in self.findings)


class Judge:
    """Judges one round."""

    def __init__(
        self,
        calls: Sequence[Call],
        initial: Mapping[int, State],
        groups: int,
        *,
        paths: Paths | None = None,
        killed: Mapping[str, int] | None = None,
    ) -> None:
        """
        Prepare the case.

        Args:
            calls: Every call of every lane.
            initial: The points before the first call.
            groups: How many groups there are.
            paths: What the calls depended on, and the faults.
            killed: By application process: when it was killed; its calls under way ended then.
        """
        self._calls = calls
        self._initial = initial
        self._groups = groups
        self._paths = paths or Paths()
        self._killed = killed or {}
        self._writes: dict[int, list[Write]] = defaultdict(list)
        self._questions: dict[int, list[tuple[Question, Call]]] = defaultdict(list)
        self._late_checks: list[_GroupRead | _Missing] = []
        self._verdict = Verdict()

    def verdict(self, surviving: Mapping[int, State]) -> Verdict:
        """
        Judge every call, and every point that existed, was written, or exists now.

        Args:
            surviving: The points after the last call.
        """
        for call in self._calls:
            self._take(call)
        for point in sorted({*self._initial, *surviving, *self._writes, *self._questions}):
            self._judge_point(point, surviving.get(point))
        for check in self._late_checks:
            self._verdict.findings += check.findings()
        return self._verdict

    # -- taking in what happened

    def _take(self, call: Call) -> None:
        verdict = self._verdict
        if call.effects:
            self._take_writes(call)
        if call.outcome == OK:
            verdict.acknowledged += call.points
            verdict.reads += not call.effects
            if not call.effects:
                self._take_read(call)
        elif call.outcome == MISSING:
            self._late_checks.append(_Missing(call, self._ask_missing(call)))
        elif call.end is not None:
            self._take_error(call)

    def _take_error(self, call: Call) -> None:
        out_of_order = any(words in call.error for words in _OUT_OF_ORDER)
        explained = out_of_order and self._paths.disturbed(call)
        if explained:
            self._verdict.server_errors += 1
            self._verdict.server_error_texts[call.error[:90]] += 1
        else:
            self._verdict.findings.append(Finding("migration error", f"{_named(call)}: {call.error}"))

    def _take_writes(self, call: Call) -> None:
        end, required = self._ended(call), call.outcome == OK
        if call.outcome == UNKNOWN:
            end = self._paths.landed(call, end)
        if required and self._paths.disturbed(call):
            # It may have lost its lease meanwhile, and have been carried out twice.
            for effect in call.effects:
                for point, write in self._writes_of(effect, call.start, end, required=False):
                    self._writes[point].append(write)
        earlier: dict[int, Write] = {}
        for effect in call.effects:
            for point, write in self._writes_of(effect, call.start, end, required=required):
                if required and point in earlier:
                    write.after = earlier[point]
                earlier[point] = write
                self._writes[point].append(write)

    def _ended(self, call: Call) -> int:
        if call.end is not None:
            return call.end
        return max(call.start, self._killed.get(_process(call), call.start))

    def _writes_of(self, effect: Effect, start: int, end: int, *, required: bool) -> Iterable[tuple[int, Write]]:
        if effect.kind == "upsert":
            for point, state in effect.upserted(self._groups):
                yield point, Write(start, end, required, whole=(state,))
            return
        whole: tuple[PointState] | None = (None,) if effect.kind == "delete" else None
        changes = () if whole else effect.changes(self._groups)
        group = effect.group if not effect.ids else None
        found = required and not whole and group is None
        for point in effect.ids or self._candidates(effect.group):
            yield point, Write(start, end, required, group, whole, changes, found=found)

    def _candidates(self, group: int | None) -> list[int]:
        """The points that may ever be in a group: it is their own or the next one to it."""
        if group is None:
            return []
        return self._by_own_group[group] + self._by_own_group[(group - 1) % self._groups]

    @cached_property
    def _by_own_group(self) -> list[list[int]]:
        points = {*self._initial, *chain.from_iterable(e.ids for call in self._calls for e in call.effects)}
        lists: list[list[int]] = [[] for _ in range(self._groups)]
        for point in sorted(points):
            lists[point % self._groups].append(point)
        return lists

    def _take_read(self, call: Call) -> None:
        end = self._ended(call)
        if call.method == "count":
            self._late_checks.append(_GroupRead(call, self._ask_membership(call, end)))
            return
        for point in {*call.answer, *call.ids}:
            seen = call.answer.get(point)
            question = Question(call.start, end, partial(eq, seen), about=seen)
            self._questions[point].append((question, call))
        if call.method == "scroll" and len(call.answer) < call.limit:
            asked = self._ask_membership(call, end, without=call.answer)
            self._late_checks.append(_GroupRead(call, asked, missed=True))

    def _ask_membership(
        self, call: Call, end: int, without: Iterable[int] = ()
    ) -> list[tuple[int, Question, Question]]:
        group = call.group
        return [
            (
                point,
                self._plain_question(point, Question(call.start, end, lambda s: s is not None and s.group == group)),
                self._plain_question(point, Question(call.start, end, lambda s: s is None or s.group != group)),
            )
            for point in self._candidates(group)
            if point not in without
        ]

    def _ask_missing(self, call: Call) -> list[tuple[int, Question]]:
        named = {i for effect in call.effects if effect.kind not in ("upsert", "delete") for i in effect.ids}
        end = self._ended(call)
        return [(i, self._plain_question(i, Question(call.start, end, lambda s: s is None))) for i in sorted(named)]

    def _plain_question(self, point: int, question: Question) -> Question:
        self._plain.setdefault(point, []).append(question)
        return question

    @cached_property
    def _plain(self) -> dict[int, list[Question]]:
        """Questions whose answers are judged together with others."""
        return {}

    # -- judging

    def _judge_point(self, point: int, found: PointState) -> None:
        initial, writes = self._initial.get(point), self._writes.get(point, [])
        asked = self._questions.get(point, [])
        plain = self._plain.get(point, [])
        try:
            leniently = PointSearch(initial).run(writes, [*(q for q, _ in asked), *plain])
            strictly = leniently
            if any(write.found for write in writes):
                strictly = PointSearch(initial, strictly=True).run(writes)
        except TooManyError:
            self._verdict.undecided += 1
            for question in (*(q for q, _ in asked), *plain):
                question.answer = True
            self._verdict.findings.append(Finding("undecided", f"point {point}: too many writes without a verdict"))
            return
        for question, call in asked:
            if not question.answer:
                text = f"{_named(call)} read point {point} as {question.about}, possible was {_told(question.possible)}"
                self._verdict.findings.append(Finding("stale read", text))
        if not strictly:
            text = f"point {point}: no order of its writes explains that partial updates of it were acknowledged"
            self._verdict.findings.append(Finding("migration error", text))
        allowed = strictly or leniently
        if found not in allowed:
            was_there = point in self._initial or any(w.whole not in (None, (None,)) for w in writes)
            text = f"point {point} holds {found}, allowed is {_told(allowed)}"
            self._verdict.findings.append(Finding(_fault(found, allowed, was_there=was_there), text))


@dataclass
class _GroupRead:
    """A count or a scroll of a group: what it must have met and what it may have met."""

    call: Call
    asked: list[tuple[int, Question, Question]]
    missed: bool = False  # whether the candidates are those that did not come back

    def findings(self) -> list[Finding]:
        least = [point for point, _, out in self.asked if not out.answer]
        most = sum(bool(in_group.answer) for _, in_group, _ in self.asked)
        what = f"{_named(self.call)} of group {self.call.group}"
        if self.missed:
            return [Finding("stale read", f"{what} missed {least}, which were in it throughout")] if least else []
        if len(least) <= self.call.answer <= most:
            return []
        return [Finding("stale read", f"{what} was {self.call.answer}, not {len(least)} to {most}")]


@dataclass
class _Missing:
    """A "no such point": one of those named must have been absent."""

    call: Call
    asked: list[tuple[int, Question]]

    def findings(self) -> list[Finding]:
        if any(question.answer for _, question in self.asked):
            return []
        return [Finding("migration error", f"{_named(self.call)}: no point was missing, but: {self.call.error}")]


def _fault(found: PointState, allowed: frozenset[PointState], *, was_there: bool) -> str:
    if found is None:
        return "lost"
    if allowed != {None}:
        return "stale"
    return "resurrected" if was_there else "extra"


def _process(call: Call) -> str:
    return call.lane.rpartition(".")[0]


def _named(call: Call) -> str:
    return f"{call.lane} {call.method} at {call.start / SECOND_NS:.3f}"


def _told(states: Iterable[PointState]) -> str:
    return " or ".join(sorted("absent" if s is None else str(tuple(s)) for s in states)[:6]) or "nothing"
