"""Tests of the computation behind search parity: ties, recall, figures, and what passes for noise."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qferry.protocol.parity import GATES, SCORE_ERROR, Figures, Hit, agree, judged, recall

K = 3
# Few scores, so that ties are common.
scored = st.dictionaries(st.integers(0, 8), st.sampled_from([1.0, 2.0, 3.0]), max_size=9)


def ranked(points: dict[int, float], order: list[int]) -> list[Hit]:
    """An exact search; ties come in the given order."""
    best = sorted(points, key=lambda i: (-points[i], order.index(i)))[:K]
    return [(i, points[i]) for i in best]


@given(scored, st.permutations(range(9)), st.permutations(range(9)))
def test_exact_searches_of_equal_data_agree(points: dict[int, float], one: list[int], other: list[int]) -> None:
    """Whatever order each side has its ties in, also where they are cut off."""
    assert agree(ranked(points, one), ranked(points, other), K)


@given(scored, scored, st.permutations(range(9)), st.permutations(range(9)))
def test_what_agrees_could_be_a_search_of_equal_data(
    ours: dict[int, float], theirs: dict[int, float], one: list[int], other: list[int]
) -> None:
    """There is a ranking of all points known to both, by their scores, of which both lists are the best."""
    first, second = ranked(ours, one), ranked(theirs, other)
    together = {**dict(first), **dict(second)}
    consistent = all(score == together[i] for i, score in first)
    best = sorted(together.values(), reverse=True)[:K]
    possible = consistent and [s for _, s in first] == best and [s for _, s in second] == best
    # A list that is not full is all there is, so the other one cannot know more.
    possible = possible and (len(first) == K or {i for i, _ in first} == {i for i, _ in second})
    assert agree(first, second, K) is possible


@given(st.lists(st.floats(0.1, 1.0), min_size=1, max_size=5), st.floats(-0.4, 0.4))
def test_a_processor_s_last_bits_are_no_difference(scores: list[float], part: float) -> None:
    """Scores that differ by a fraction of the tolerance are equal."""
    one = [(n, s) for n, s in enumerate(sorted(scores, reverse=True))]
    other = [(n, s + part * SCORE_ERROR * one[0][1]) for n, s in one]
    assert agree(one, other)


@pytest.mark.parametrize(
    "other",
    [
        [(1, 3.0), (2, 2.0)],  # one is missing
        [(1, 3.0), (2, 2.0), (4, 1.0)],  # not tied with the last place, which it takes
        [(1, 3.0), (2, 2.001), (3, 1.5)],  # another score
        [(1, 3.0), (3, 2.0), (2, 1.5)],  # two have changed places
        [],
    ],
)
def test_a_difference_is_no_tie(other: list[Hit]) -> None:
    """Whatever the scores of the rest."""
    assert not agree([(1, 3.0), (2, 2.0), (3, 1.5)], other, K)


@given(scored, st.permutations(range(9)), st.sets(st.integers(0, 8), max_size=K))
def test_recall_is_the_best_over_all_orders_of_ties(
    points: dict[int, float], order: list[int], found: set[int]
) -> None:
    """Held against its definition: the share of some exact answer that was found."""
    exact = ranked(points, order)
    found &= set(points)
    best = sorted(points.values(), reverse=True)[:K]
    answers = [c for c in combinations(points, len(best)) if sorted((points[i] for i in c), reverse=True) == best]
    expected = max(len(found.intersection(answer)) / len(best) for answer in answers) if best else 1.0
    assert recall(found, exact, {i: points[i] for i in found}) == pytest.approx(expected)


def test_a_tied_point_does_not_make_up_for_a_better_one() -> None:
    """Three of three are found, and yet the best is not among them."""
    assert recall([2, 3, 4], [(1, 3.0), (2, 2.0), (3, 2.0)], {4: 2.0}) == pytest.approx(2 / 3)


@given(st.lists(st.sampled_from([n / 10 for n in range(11)]), min_size=1, max_size=60))
def test_figures_are_those_of_the_sorted_list(recalls: list[float]) -> None:
    """The median has as many at or above it as at or below; at least a twentieth are at or below P5, fewer below it."""
    found, n = Figures.of(recalls), len(recalls)
    assert (found.queries, found.min) == (n, min(recalls))
    assert found.mean == pytest.approx(sum(recalls) / n)
    assert 2 * sum(r <= found.median + 1e-9 for r in recalls) >= n
    assert 2 * sum(r >= found.median - 1e-9 for r in recalls) >= n
    assert 20 * sum(r <= found.p5 for r in recalls) >= n
    assert 20 * sum(r < found.p5 for r in recalls) < n


def test_a_target_above_the_gates_passes_whatever_the_source_is() -> None:
    """Quantization was asked for: the target may be worse than the source, not worse than the gates."""
    verdict = judged([0.9] * 50, [1.0] * 50, [1.0] * 50)
    assert (verdict.short, verdict.excused) == ((), ())


def test_a_target_below_the_gates_fails_if_the_source_is_better() -> None:
    """Each gate that is missed is named."""
    verdict = judged([0.4] * 50, [1.0] * 50, [1.0] * 50)
    assert verdict.short == tuple(GATES)
    assert verdict.excused == ()


def test_a_target_as_bad_as_the_source_is_excused() -> None:
    """It was no better before."""
    verdict = judged([0.4] * 50, [0.4] * 50, [0.4] * 50)
    assert verdict.short == ()
    assert verdict.excused == tuple(GATES)


def test_what_two_runs_on_the_source_differ_by_is_noise() -> None:
    """A source that cannot repeat itself proves less."""
    steady = judged([0.7] * 50, [0.9] * 50, [0.9] * 50)
    unsteady = judged([0.7] * 50, [0.9] * 50, [0.7] * 50)
    assert "mean" in steady.short
    assert "mean" in unsteady.excused


def test_a_mean_is_not_excused_by_a_single_step() -> None:
    """Fifty searches that are all one point worse are no accident, unless the source's index is bad itself."""
    verdict = judged([0.8] * 50, [0.9] * 50, [0.9] * 50)
    assert verdict.short == ("mean",)
    assert verdict.excused == ("median",)
    verdict = judged([0.7] * 50, [0.8] * 50, [0.8] * 50)
    assert (verdict.short, verdict.excused) == ((), ("mean", "median"))
    assert "mean" in judged([0.6] * 50, [0.8] * 50, [0.8] * 50).short


@given(st.lists(st.tuples(*[st.sampled_from([n / 10 for n in range(11)])] * 3), min_size=1, max_size=40))
def test_a_better_target_is_never_judged_worse(runs: list[tuple[float, float, float]]) -> None:
    """The source's own recalls pass wherever the source is the target."""
    source, again = [run[1] for run in runs], [run[2] for run in runs]
    assert judged(source, source, again).short == ()
    assert judged([1.0] * len(runs), source, again).short == ()
