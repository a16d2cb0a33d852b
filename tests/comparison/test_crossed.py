"""Intervals over seeds and rows: by hand, and by how often they hold the truth."""

import math

import numpy as np
import pytest
from scipy import stats

from ebft.comparison.crossed import (
    by_document,
    crossed,
    crossed_estimate,
    effective_number,
    layout,
    pseudo_values,
)
from ebft.output.row_scores import RowScores


def scores(values: list[float], rows: str, documents: str = "", counts: list[float] | None = None) -> RowScores:
    return RowScores("eval/x", list(rows), list(documents or rows), values, counts or [1.0] * len(rows))


def test_a_two_way_layout_by_hand() -> None:
    """Seeds 0 2 4 and 4 4 10: means 2 and 6, of documents 2, 3 and 7, of all 4.

    A = 3 (4 + 4) / 1 = 24, B = 2 (4 + 1 + 9) / 2 = 14, E = (0 + 1 + 1 + 0 + 1 + 1) / 2 = 2, so the variance of the mean
    is (24 + 14 - 2) / 6 = 6. For the degrees A is 24 / chi^2_{0.3, 1}: (A + 12)^2 / (A^2 / 1 + 14^2 / 2 + 2^2 / 2).
    """
    found = crossed(np.array([[0.0, 2, 4], [4, 4, 10]]), 3)
    assert (found.mean, found.variance) == (4, 6)
    assert (found.over_seeds, found.over_documents, found.together) == (24 / 6, 14 / 6, 2 / 6)
    high = 24 / stats.chi2.ppf(0.3, 1)
    assert found.degrees == pytest.approx((high + 12) ** 2 / (high**2 + 98 + 2), rel=1e-2)


def test_where_rows_add_nothing_beyond_the_rest_the_interval_is_that_of_seeds() -> None:
    """Document means are equal, so B = 0 is below E: variance A / (S C) = sd^2 / S with S - 1 degrees."""
    units = np.array([[1.0, 3], [4, 2], [7, 7]])
    found = crossed(units, 2)
    assert (units.mean(0) == 4).all()
    assert found.variance == pytest.approx(np.var(units.mean(1), ddof=1) / 3)
    assert found.degrees == 2


def test_seeds_that_agree_to_the_digit_do_not_know_the_figure() -> None:
    """Two seeds with one right answer of four, each to another question: A = 0, B = 2 (4 / 16) / 3 = 1 / 6 is
    below E, and the interval had no width. Of the rest 1/2 is left in four places: E = 4 (1 / 4) / 3 = 1 / 3."""
    found = crossed(np.array([[1.0, 0, 0, 0], [0, 1, 0, 0]]), 4)
    assert found.mean == 0.25
    assert found.variance == pytest.approx(1 / 3 / 8)
    assert found.over_seeds == found.together


def test_one_seed_is_a_t_interval_over_rows() -> None:
    values = [1.0, 4, 2, 9, 5]
    found = crossed_estimate(layout([scores(values, "abcde")]))  # type: ignore[arg-type]
    assert found is not None
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert (found.mean - found.half_width, found.mean + found.half_width) == (pytest.approx(low), pytest.approx(high))  # type: ignore[operator]
    assert (found.n, found.rows, found.sd, found.seeds_error, found.covers) == (1, 5, None, None, "rows only")


def test_pseudo_values_of_documents_by_hand() -> None:
    """Sums 1 4 7 over counts 1 2 3 are 12 / 6 = 2. Documents {1, 2} and {3}: 2 + 2 (5 - 2 * 3) / 6 = 5 / 3 and
    2 + 2 (7 - 6) / 6 = 7 / 3, whose mean is 2."""
    sums, counts, document = np.array([[1.0, 4, 7]]), np.array([[1.0, 2, 3]]), np.array([0, 0, 1])
    assert pseudo_values(sums, counts, document)[0].tolist() == pytest.approx([5 / 3, 7 / 3])
    assert by_document(sums[0], np.array([1, 0, 1])).tolist() == [4, 8]


def test_documents_of_unequal_weight_count_for_fewer() -> None:
    assert effective_number(np.array([3.0, 3, 3, 3])) == 4
    assert effective_number(np.array([1.0, 0, 0, 0])) == 1
    assert effective_number(np.array([2.0, 1, 1])) == 6**2 / 18


def test_differences_are_taken_by_row_whatever_the_order_on_the_rows_that_all_seeds_share() -> None:
    """a - a, c - c: 1 and 3, then 3 and 5; b and d are in one of them alone."""
    ours = [scores([2.0, 7, 5], "abc"), scores([7.0, 5], "ca")]
    theirs = [scores([2.0, 1], "ca"), scores([2.0, 9, 2], "adc")]
    found = layout(ours, theirs)
    assert found is not None
    assert found.units.tolist() == [[1, 3], [3, 5]]
    assert (found.num_rows, found.num_rows_before) == (2, 3)
    assert layout([scores([1.0], "a")], [scores([1.0], "b")]) is None
    assert layout([scores([0.0], "a", counts=[0.0])]) is None, "nothing to count"


def test_rows_of_one_document_have_no_interval() -> None:
    assert crossed_estimate(layout([scores([1.0, 2, 3], "abc", "xxx")] * 2)) is None  # type: ignore[arg-type]


KINDS = {
    "normal": lambda draw, size: draw.standard_normal(size),
    "heavy tails": lambda draw, size: draw.standard_t(3, size) / math.sqrt(3),
}
# variances of the mean that come from seeds, documents and the rest
SHARES = [(1, 0, 0.01), (0, 1, 0.01), (0, 0, 1), (1, 1, 1), (1, 0.1, 0.1), (0.1, 1, 0.1)]


def coverage(units: np.ndarray, num_effective: float) -> float:
    """The share of 95 % intervals that hold 0."""
    found = crossed(units, num_effective)
    return float(np.mean(np.abs(found.mean) <= stats.t.ppf(0.975, found.degrees) * np.sqrt(found.variance)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("seeds", "rows", "draws"), [(3, 50, 5000), (5, 50, 4000), (10, 50, 3000), (3, 500, 2500)])
def test_intervals_hold_the_truth_in_93_to_97_of_100_cases(kind: str, seeds: int, rows: int, draws: int) -> None:
    draw = np.random.default_rng(7)
    of_seed, of_row, of_rest = (
        KINDS[kind](draw, size) for size in ((draws, seeds, 1), (draws, 1, rows), (draws, seeds, rows))
    )
    for by_seed, by_row, rest in SHARES:
        units = of_rest * math.sqrt(rest * seeds * rows) + of_row * math.sqrt(by_row * rows)
        units += of_seed * math.sqrt(by_seed * seeds)
        assert 0.93 <= coverage(units, rows) <= 0.97, (by_seed, by_row, rest)


@pytest.mark.slow
def test_rows_of_one_module_are_taken_together_and_would_mislead_if_they_were_not() -> None:
    """240 rows of 60 modules of 1 to 10 rows, with token counts of 20 to 128, an effect of the module and three
    seeds."""
    draw, draws = np.random.default_rng(11), 1500
    document = np.repeat(np.arange(60), draw.permutation([1, 2, 3, 4, 10, 4] * 10))
    counts = np.broadcast_to(draw.integers(20, 129, (draws, 1, len(document))).astype(float), (draws, 3, len(document)))
    values = draw.standard_normal((draws, 1, 60))[..., document] + draw.standard_normal((draws, 1, len(document)))
    values = values + 0.5 * draw.standard_normal((draws, 3, len(document))) + 0.05 * draw.standard_normal((draws, 3, 1))
    by_module = pseudo_values(values * counts, counts, document)
    assert 0.93 <= coverage(by_module, effective_number(by_document(counts[0, 0], document))) <= 0.97
    alone = pseudo_values(values * counts, counts, np.arange(len(document)))
    assert coverage(alone, len(document)) < 0.8


@pytest.mark.slow
def test_verdicts_are_covered_too() -> None:
    """Questions that pass or not: differences of -1, 0 and 1, most of them 0, and five seeds."""
    draw, draws, rows = np.random.default_rng(13), 3000, 128
    ability = draw.beta(1, 1, (draws, 1, rows))
    ours, theirs = (draw.random((draws, 5, rows)) < ability for _ in range(2))
    assert 0.93 <= coverage(ours.astype(float) - theirs, rows) <= 0.97
