"""Tests of how the answers of both sides are compared, and of what that amounts to."""

from types import SimpleNamespace as Thing
from typing import Any

import pytest

from qferry.protocol.phases import Side
from qferry.protocol.shadow import COMPARED_MIN, OVERLAP_MIN, SHADOWED, Gist, Pair, Totals, compared, gist, total


def points(*ids: Any, score: float | None = 0.5) -> list[Any]:
    """Return points of an answer, with a score or without."""
    return [Thing(id=i) if score is None else Thing(id=i, score=score) for i in ids]


def answer(method: str, *ids: Any, score: float = 0.5) -> Any:
    """Return what a method answers."""
    match method:
        case "count":
            return Thing(count=len(ids))
        case "scroll":
            return (points(*ids, score=None), None)
        case "retrieve":
            return points(*ids, score=None)
        case "query_batch_points":
            return [Thing(points=points(*ids, score=score)), Thing(points=[])]
        case "query_points_groups":
            return Thing(groups=[Thing(id="g", hits=points(*ids, score=score))])
    return Thing(points=points(*ids, score=score))


@pytest.mark.parametrize("method", sorted(SHADOWED))
def test_equal_answers_overlap_completely(method: str) -> None:
    """Whatever was called."""
    one = gist(method, answer(method, 1, 2, "x"))
    assert compared(one, gist(method, answer(method, 2, "x", 1))) == (1.0, 0.0)


@pytest.mark.parametrize("method", sorted(SHADOWED))
def test_answers_that_differ_do_not(method: str) -> None:
    """Whatever was called."""
    overlap, _ = compared(gist(method, answer(method, 1, 2, 3, 4)), gist(method, answer(method, 1, 2)))
    assert overlap == {"query_points_groups": 3 / 5}.get(method, 0.5)


def test_largest_difference_of_a_score_is_found() -> None:
    """Of points that both sides have."""
    one, other = answer("query_points", 1, 2, score=0.5), answer("query_points", 2, 3, score=0.75)
    assert compared(gist("query_points", one), gist("query_points", other)) == (0.5, 0.25)


@pytest.mark.parametrize("method", ["count", "scroll", "query_batch_points"])
def test_nothing_on_both_sides_is_agreement(method: str) -> None:
    """There is nothing that either has and the other has not."""
    assert compared(gist(method, answer(method)), gist(method, answer(method))) == (1.0, 0.0)


def test_answer_with_less_lists_lacks_what_is_in_the_others() -> None:
    """A group that one side has not."""
    assert compared(Gist((((1, None),), ((2, None),))), Gist((((1, None),),))) == (0.5, 0.0)


@pytest.mark.parametrize("answered", list(Side))
def test_latencies_are_summed_by_side(answered: Side) -> None:
    """Whoever has answered the caller."""
    found = Totals(7) + Pair(answered, 0.5, 0.25, answered_s=1.0, other_s=4.0).totals
    found += Pair(answered.other, 1.0, 0.125, answered_s=4.0, other_s=1.0).totals
    assert (found.since, found.compared, found.mismatches, found.score_delta) == (7, 2, 1, 0.25)
    assert found.mean_overlap == 0.75
    assert found.latency_ratio == (4.0 if answered is Side.SOURCE else 0.25)


def test_without_a_comparison_there_is_no_mean() -> None:
    """Nor a ratio, nor a verdict."""
    found = Totals()
    assert (found.mean_overlap, found.latency_ratio, found.worse(5)) == (None, None, "")


def test_what_processes_report_is_added_up() -> None:
    """Of those that compare since the same moment; what a later version adds is left out."""
    mine, other = Totals(7, compared=2, overlap=2.0), Totals(7, compared=1, overlap=0.5, mismatches=1)
    reported = [mine.plain(), {**other.plain(), "later": 1.0}, Totals(6, compared=99).plain()]
    assert total(reported, 7) == Totals(7, compared=3, overlap=2.5, mismatches=1)


@pytest.mark.parametrize(
    ("found", "worse"),
    [
        (Totals(compared=COMPARED_MIN - 1, overlap=0.0), ""),
        (Totals(compared=COMPARED_MIN, overlap=OVERLAP_MIN * COMPARED_MIN), ""),
        (Totals(compared=100, overlap=84.0), "overlap by 0.840 in the mean of 100 shadow reads; 0.85 is asked for"),
        (Totals(compared=95, overlap=95.0, errors=5), ""),
        (Totals(compared=94, overlap=94.0, errors=6), "6 of 100 shadow reads have failed (6.0 %, allowed 5 %)"),
        (Totals(errors=COMPARED_MIN), "20 of 20 shadow reads have failed (100.0 %, allowed 5 %)"),
    ],
)
def test_gate_asks_for_answers_that_are_alike(found: Totals, worse: str) -> None:
    """From enough comparisons on."""
    assert worse in found.worse(5)
    assert bool(worse) is bool(found.worse(5))
