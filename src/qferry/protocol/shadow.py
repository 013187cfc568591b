"""
Shadow reads: a share of the application's reads is repeated on the other side, and the two answers are compared.

Here is what an answer is reduced to, how two are compared, and what that amounts to.  Nothing of it ever reaches the
caller (docs/adr/0018).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from qferry.protocol.phases import Side

# The methods whose answers can be compared.  All of them take a `timeout`, in whole seconds.
SHADOWED = frozenset({"query_points", "query_batch_points", "query_points_groups", "scroll", "retrieve", "count"})
TIMEOUT_S = 5
# So many shadow reads of a client are under way, and so many more wait; what comes beyond that is dropped.
WORKERS = 2
QUEUE = 32
# The gate: with so many comparisons, the answers must overlap so far in the mean (Qdrant's own guide asks for this
# recall of a search), and errors must stay below what readers put up with.
COMPARED_MIN = 20
OVERLAP_MIN = 0.85
_HUNDRED = 100


@dataclass(frozen=True)
class Totals:
    """
    What shadow reads have found since they were asked for.

    Args:
        since: The epoch at which they were asked for.
        compared: Pairs of answers.
        overlap: The sum of their overlaps, each from 0 (nothing in common) to 1.
        mismatches: Pairs that did not overlap completely, also when both sides were asked once more.
        score_delta: The largest difference of a point's score on the two sides.
        source_s, target_s: What the answers have taken on each side, in seconds; the sums.
        errors: Reads that one side has answered and the other has not.
        dropped: Reads that were to be repeated and were not, because too many were under way.
    """

    since: int = 0
    compared: int = 0
    overlap: float = 0.0
    mismatches: int = 0
    score_delta: float = 0.0
    source_s: float = 0.0
    target_s: float = 0.0
    errors: int = 0
    dropped: int = 0

    def __add__(self, other: Totals) -> Totals:
        values = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return Totals(**{**values, "since": self.since, "score_delta": max(self.score_delta, other.score_delta)})

    @property
    def mean_overlap(self) -> float | None:
        """How far the answers overlap; None: none were compared."""
        return self.overlap / self.compared if self.compared else None

    @property
    def latency_ratio(self) -> float | None:
        """What the target has taken for what the source has taken 1 for; None: nothing was compared."""
        return self.target_s / self.source_s if self.source_s else None

    @property
    def repeated(self) -> int:
        """The reads that were repeated, with or without an answer to compare."""
        return self.compared + self.errors

    @property
    def errors_percent(self) -> float:
        """Of the reads that were repeated."""
        return self.errors / max(1, self.repeated) * _HUNDRED

    def worse(self, max_errors_percent: float) -> str:
        """In which way this is too bad for readers, in words; empty: it is not, or too little was compared."""
        if self.repeated < COMPARED_MIN:
            return ""
        if self.errors_percent > max_errors_percent:
            return (
                f"{self.errors} of {self.repeated} shadow reads have failed "
                f"({self.errors_percent:.1f} %, allowed {max_errors_percent:g} %)"
            )
        if self.mean_overlap is not None and self.mean_overlap < OVERLAP_MIN:
            return (
                f"the answers of the two sides overlap by {self.mean_overlap:.3f} in the mean of {self.compared} "
                f"shadow reads; {OVERLAP_MIN} is asked for"
            )
        return ""

    def plain(self) -> dict[str, float]:
        """As a record keeps it."""
        return {f.name: round(getattr(self, f.name), 6) for f in fields(self)}

    @classmethod
    def of(cls, values: Mapping[str, float]) -> Totals:
        """From a record; what a later version has added is left out."""
        known = {f.name for f in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})  # type: ignore[arg-type]


def total(reported: Iterable[Mapping[str, float]], since: int) -> Totals:
    """What all processes have found, of those that compare since then."""
    found = Totals(since)
    for values in reported:
        if values.get("since") == since:
            found += Totals.of(values)
    return found


@dataclass(frozen=True)
class Gist:
    """
    What of an answer is compared.

    Args:
        lists: For each list of points in it, the ids in order, with their scores where it has any.
        number: The number that a count has come to.
    """

    lists: tuple[tuple[tuple[Any, float | None], ...], ...] = ()
    number: int | None = None


def gist(method: str, answer: Any) -> Gist:
    """What of the answer of a shadowed method is compared; taken at once, as the caller may change it."""
    match method:
        case "count":
            return Gist(number=answer.count)
        case "scroll":
            return Gist((_points(answer[0]),))
        case "retrieve":
            return Gist((_points(answer),))
        case "query_batch_points":
            return Gist(tuple(_points(one.points) for one in answer))
        case "query_points_groups":
            groups = tuple(_points(group.hits) for group in answer.groups)
            return Gist((tuple((f"{group.id!r}", None) for group in answer.groups), *groups))
        case _:
            return Gist((_points(answer.points),))


def _points(points: Iterable[Any]) -> tuple[tuple[Any, float | None], ...]:
    return tuple((point.id, getattr(point, "score", None)) for point in points)


def compared(one: Gist, other: Gist) -> tuple[float, float]:
    """How far two answers overlap, from 0 to 1, and by how much the score of a point in both differs at most."""
    if one.number is not None and other.number is not None:
        most = max(one.number, other.number)
        return (min(one.number, other.number) / most if most else 1.0), 0.0
    common, places, delta = 0, 0, 0.0
    for mine, theirs in _paired(one, other):
        scores, found = dict(mine), dict(theirs)
        places += max(len(scores), len(found))
        for point_id in scores.keys() & found.keys():
            common += 1
            ours, others = scores[point_id], found[point_id]
            if ours is not None and others is not None:
                delta = max(delta, abs(ours - others))
    return (common / places if places else 1.0), delta


def _paired(one: Gist, other: Gist) -> Iterable[tuple[Any, Any]]:
    longest = max(len(one.lists), len(other.lists))
    padded = [(*g.lists, *((),) * (longest - len(g.lists))) for g in (one, other)]
    return zip(*padded, strict=True)


@dataclass(frozen=True)
class Pair:
    """Two answers to the same read."""

    answered: Side  # the side whose answer the caller has
    overlap: float
    score_delta: float
    answered_s: float
    other_s: float

    @property
    def totals(self) -> Totals:
        """As one more comparison."""
        on_source = self.answered is Side.SOURCE
        return Totals(
            compared=1,
            overlap=self.overlap,
            mismatches=int(self.overlap < 1),
            score_delta=self.score_delta,
            source_s=self.answered_s if on_source else self.other_s,
            target_s=self.other_s if on_source else self.answered_s,
        )
