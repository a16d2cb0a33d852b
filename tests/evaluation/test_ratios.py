"""Means over documents with unequal counts, by hand and against numpy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ebft.evaluation import Evaluation
from ebft.evaluation.names import Names, joined
from ebft.evaluation.ratios import Ratio, concatenate


def ratio(sums: list[float], counts: list[float]) -> Ratio:
    return Ratio(torch.tensor(sums, dtype=torch.float64), torch.tensor(counts, dtype=torch.float64))


def test_value_and_standard_error_by_hand() -> None:
    """r = 10 / 4; deviations 1 - 2.5, 9 - 7.5, 0 - 0: sqrt(3 / 2 * (2.25 + 2.25)) / 4."""
    figure = ratio([1, 9, 0], [1, 3, 0])
    assert figure.value == 2.5
    assert figure.stderr == pytest.approx(np.sqrt(6.75) / 4, abs=1e-12)


def test_with_equal_counts_it_is_the_textbook_standard_error_of_a_mean() -> None:
    means = np.random.default_rng(0).normal(size=7)
    figure = ratio((5 * means).tolist(), [5] * 7)
    assert figure.value == pytest.approx(means.mean(), abs=1e-12)
    assert figure.stderr == pytest.approx(means.std(ddof=1) / np.sqrt(7), abs=1e-12)


@pytest.mark.slow
def test_standard_error_is_the_spread_of_the_figure_over_new_documents() -> None:
    """Over 2,000 draws of 101 documents the linearised error is the figure's actual standard deviation."""
    rng = np.random.default_rng(1)
    counts = rng.integers(1, 9, size=(2000, 101)).astype(float)
    sums = counts * 3 + rng.normal(size=counts.shape) * counts
    figures = [ratio(s.tolist(), c.tolist()) for s, c in zip(sums, counts, strict=True)]
    spread = np.std([figure.value for figure in figures])
    assert np.mean([figure.stderr for figure in figures]) == pytest.approx(spread, rel=0.05)


def test_the_error_of_a_change_is_that_of_the_paired_differences() -> None:
    """Documents differ a lot, the two policies little: 100, 200, 330 against 101, 203, 334 with one count each:
    differences 1, 3, 4."""
    base, final = ratio([100, 200, 330], [1, 1, 1]), ratio([101, 203, 334], [1, 1, 1])
    change, stderr = final.change(base)
    differences = np.array([1.0, 3.0, 4.0])
    assert change == pytest.approx(8 / 3, abs=1e-12)
    assert stderr == pytest.approx(differences.std(ddof=1) / np.sqrt(3), abs=1e-12)
    assert base.stderr > 50 * stderr
    assert base.change(base) == (0.0, 0.0)


def test_documents_of_batches_join_and_figures_without_any_count_go() -> None:
    parts = [{"a": ratio([1], [2]), "b": ratio([0], [0])}, {"a": ratio([3, 5], [4, 1]), "b": ratio([0, 0], [0, 0])}]
    whole = concatenate(parts)
    assert list(whole) == ["a"]
    assert whole["a"].sums.tolist() == [1, 3, 5]
    assert whole["a"].counts.tolist() == [2, 4, 1]


def test_rows_of_one_document_are_one_observation() -> None:
    """r = 12 / 6 = 2; deviations 1 - 2, 4 - 4 and 7 - 6 are -1, 0 and 1. The first two rows are of one document: -1 and
    1, sqrt(2 / 1 * (1 + 1)) / 6 = 1 / 3; as three documents sqrt(3 / 2 * 2) / 6."""
    alone = ratio([1, 4, 7], [1, 2, 3])
    together = replace(alone, names=Names(["a", "b", "c"], ["x", "x", "y"]))
    assert together.value == alone.value == 2
    assert together.stderr == pytest.approx(1 / 3)
    assert alone.stderr == pytest.approx(np.sqrt(3) / 6)


def test_one_document_has_no_standard_error() -> None:
    """It once was a division by zero."""
    only = replace(ratio([1, 4], [1, 2]), names=Names(["a", "b"], ["x", "x"]))
    assert (only.stderr, only.change(only)) == (None, (0.0, None))
    assert Evaluation({"greedy": only}, []).metrics() == {"eval/greedy": 5 / 3}


def test_a_ratio_survives_a_checkpoint_and_an_older_one_has_no_names() -> None:
    known = replace(ratio([1, 4], [1, 2]), names=Names(["a", "b"], ["x", "y"]))
    assert Ratio.from_state(known.state()).names == known.names
    assert Ratio.from_state({"sums": known.sums, "counts": known.counts}).names is None


def test_a_second_copy_of_a_row_is_another_row() -> None:
    parts = [Names(["a", "b"], ["x", "x"]), Names(["a"], ["x"])]
    assert joined(parts) == Names(["a", "b", "a-2"], ["x", "x", "x"])
