"""
Whether searches on the target find what they find on the source: the computation, on ranked lists of ids and scores.

Two exact searches of equal data may differ in one way: where several points have the same score, any of them may come
first, and any of them may fill the last places.  An approximate search is measured by its recall: the share of an exact
search's places that it fills, ties aside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from qferry.protocol.journal import PointId

Hit = tuple[PointId, float]

# How many points a search is asked for.
K = 10
# Scores this close, relative to the largest of a list, are the same: processors add floats in different orders.
SCORE_ERROR = 1e-5
# What the recall of the target must reach (Qdrant, "Migration guidance", search quality, tier 2).
GATES: Mapping[str, float] = {"mean": 0.85, "median": 0.90, "p5": 0.60, "min": 0.50}
_ROUNDING = 1e-9


def _slack(*lists: Sequence[Hit]) -> float:
    return SCORE_ERROR * max((abs(score) for hits in lists for _, score in hits), default=0.0)


def agree(one: Sequence[Hit], other: Sequence[Hit], k: int = K) -> bool:
    """
    Whether two exact searches of at most `k` points may be of equal data.

    Place by place they have the same score, a point that both have found has the same score in both, and one that only
    one of them has found is tied with the last place of a full list.
    """
    if len(one) != len(other):
        return False
    slack = _slack(one, other)
    if any(abs(ours - theirs) > slack for (_, ours), (_, theirs) in zip(one, other, strict=True)):
        return False
    scores, others = dict(one), dict(other)
    if any(abs(score - others[i]) > slack for i, score in one if i in others):
        return False
    strays = [abs(score - one[-1][1]) for i, score in one if i not in others]
    strays += [abs(score - other[-1][1]) for i, score in other if i not in scores]
    return not strays or (len(one) >= k and max(strays) <= slack)


def recall(found: Iterable[PointId], exact: Sequence[Hit], scores: Mapping[PointId, float] | None = None) -> float:
    """
    The share of an exact search's places that `found` fills.

    Args:
        found: What an approximate search has found.
        exact: What an exact one has found, best first.
        scores: Exact scores of points in `found` that are not in `exact`: one that is tied with the last place may fill
            any of the places that are.

    Returns:
        0 to 1; 1 where there is nothing to find.
    """
    if not exact:
        return 1.0
    last, slack = exact[-1][1], _slack(exact)
    known = {**(scores or {}), **dict(exact)}
    tied = {i for i, score in known.items() if abs(score - last) <= slack}
    places = sum(i in tied for i, _ in exact)
    present = {i for i in found if i in known}
    certain = sum(i in present and i not in tied for i, _ in exact)
    return (certain + min(places, len(present & tied))) / len(exact)


@dataclass(frozen=True)
class Figures:
    """The recalls of several searches in short."""

    queries: int
    mean: float
    median: float
    p5: float
    min: float

    @classmethod
    def of(cls, recalls: Sequence[float]) -> Figures:
        """
        Sum them up.

        Args:
            recalls: At least one.
        """
        ranked, n = sorted(recalls), len(recalls)
        median = (ranked[(n - 1) // 2] + ranked[n // 2]) / 2
        # The fifth percentile by nearest rank: the smallest that at least a twentieth do not exceed.
        return cls(n, sum(ranked) / n, median, ranked[-(-n // 20) - 1], ranked[0])

    def to_payload(self) -> dict[str, Any]:
        """For the record."""
        return {name: round(getattr(self, name), 4) for name in GATES}

    def __str__(self) -> str:
        return f"mean {self.mean:.3f}, median {self.median:.2f}, P5 {self.p5:.2f}, min {self.min:.2f}"


@dataclass(frozen=True)
class Verdict:
    """
    What the recall of one group of searches comes to.

    Args:
        target: On the target.
        source: On the source; the searches are the same.
        again: On the source once more.
        short: Gates that the target misses and the source, beyond noise, does not miss by as much.
        excused: Gates that it misses as the source does.
    """

    target: Figures
    source: Figures
    again: Figures
    short: tuple[str, ...]
    excused: tuple[str, ...]


def judged(target: Sequence[float], source: Sequence[float], again: Sequence[float], k: int = K) -> Verdict:
    """
    Hold the target's recalls against the gates, and where it misses one, against the source's.

    A target that is no worse than the source beyond noise passes.  Noise is what two runs on the source differ by, and
    what two indexes built of the same points may: one point in `k`.  That is too much for a mean; there it is twice the
    standard error of the differences, search by search, unless the source itself misses the gate: where an index finds
    that little, its segments alone make a difference (measured: 0.82 and 0.75, 50,000 random vectors of 128 numbers).

    Args:
        target: The recall of each search on the target; at least one.
        source: Of the same searches, in the same order, on the source.
        again: Of the same once more.
        k: How many points were asked for.
    """
    ours, theirs, twice = Figures.of(target), Figures.of(source), Figures.of(again)
    step = 1 / k
    allowed = dict.fromkeys(GATES, step)
    if theirs.mean >= GATES["mean"]:
        allowed["mean"] = _twice_standard_error(target, source, step)
    short: list[str] = []
    excused: list[str] = []
    for name, gate in GATES.items():
        value, reference = getattr(ours, name), getattr(theirs, name)
        if value >= gate - _ROUNDING:
            continue
        noise = abs(reference - getattr(twice, name)) + allowed[name]
        (excused if value >= reference - noise - _ROUNDING else short).append(name)
    return Verdict(ours, theirs, twice, tuple(short), tuple(excused))


def _twice_standard_error(one: Sequence[float], other: Sequence[float], single: float) -> float:
    """Of the mean of paired differences; at least what `single` in each comes to: a few say little of their scatter."""
    n = len(one)
    least = single / sqrt(n)
    if n == 1:
        return least
    differences = [a - b for a, b in zip(one, other, strict=True)]
    mean = sum(differences) / n
    variance = sum((d - mean) ** 2 for d in differences) / (n - 1)
    return max(least, 2 * sqrt(variance / n))
