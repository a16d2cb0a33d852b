"""Seeds and rows that a difference needs, by hand and by simulation."""

from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest

from ebft.comparison import compare, power
from ebft.comparison.crossed import Layout, crossed_estimate
from ebft.comparison.power import Components, components
from ebft.config.schema import UserError
from tests.comparison.helpers import cross_entropy, keep_rows, run
from tests.comparison.test_rows import METRIC, SFT, one, pilots
from tests.sweep.helpers import grid


def test_components_are_those_of_the_mean_squares() -> None:
    """The layout worked out in test_crossed.py: A = 24, B = 14, E = 2 with S = 2 and C = 3."""
    found = crossed_estimate(Layout(np.array([[0.0, 2, 4], [4, 4, 10]]), np.ones(3), 6, 6))
    assert found is not None
    assert astuple(components(found)) == pytest.approx((22 / 3, 12 / 2, 2, 2))


def test_more_rows_do_not_help_against_seeds_and_more_seeds_do() -> None:
    seeds_alone = Components(1.0, 0.0, 0.0, 1.0)
    assert seeds_alone.smallest(3, 10) == pytest.approx(seeds_alone.smallest(3, 10**5))
    assert seeds_alone.documents_for(0.5, 3) is None
    rows_alone = Components(0.0, 1.0, 0.0, 1.0)
    assert rows_alone.smallest(3, 400) == pytest.approx(rows_alone.smallest(10, 400), rel=0.01)
    # (1.96 + 0.84)^2 / 0.1^2
    assert rows_alone.documents_for(0.1, 5) == pytest.approx(785, rel=0.02)


@pytest.mark.slow
def test_a_difference_of_that_size_is_seen_in_80_of_100_cases() -> None:
    """Three seeds and 60 documents, with the variances that the pilots are taken to have."""
    draw, draws, of = np.random.default_rng(3), 4000, Components(0.01, 0.5, 1.0, 1.0)
    difference = of.smallest(3, 60)
    units = difference + draw.standard_normal((draws, 3, 1)) * of.of_seeds**0.5
    units = units + draw.standard_normal((draws, 1, 60)) * of.of_documents**0.5
    units = units + draw.standard_normal((draws, 3, 60)) * of.of_rest**0.5
    found = [crossed_estimate(Layout(each, np.ones(60), 60, 60)) for each in units]
    assert np.mean([each is not None and each.excludes_zero for each in found]) == pytest.approx(0.8, abs=0.05)


def test_pilots_give_a_table_and_a_difference_gives_numbers_of_rows(tmp_path: Path) -> None:
    pilots(tmp_path, SFT, "sft")
    compared = compare(tmp_path, one(), None)
    shown = power.text(compared, METRIC, None)
    assert shown.startswith("cross_entropy, runs minus base: -1.2500 in 2 seeds x 4 rows; standard deviation of seeds ")
    assert "  seeds  2 rows  4 rows  8 rows  16 rows  32 rows" in shown
    needed = power.text(compared, METRIC, 0.5)
    assert "To tell a difference of 0.5000 from 0 at 5 % with a chance of 80 %:" in needed
    assert "  2      no number is enough" in needed


def test_shares_are_in_percentage_points(tmp_path: Path) -> None:
    for seed in range(2):
        made = run(tmp_path / f"sft{seed}", {"eval/greedy": 0.5 + seed / 4}, base={"eval/greedy": 0.25}, seed=seed)
        keep_rows(made, {"eval/greedy": [1.0, 1, seed, 0]}, {"eval/greedy": [0.0, 1, 0, 0]})
    compared = compare(tmp_path, grid(metrics=["eval/greedy"]), None)
    shown = power.text(compared, "eval/greedy", None)
    assert shown.startswith("greedy, runs minus base: +37.50 pp in 2 seeds x 4 rows; standard deviation of seeds ")
    assert "Smallest difference in percentage points told apart" in shown
    assert "To tell a difference of 2.00 pp from 0" in power.text(compared, "eval/greedy", 0.02)


def test_pilots_without_a_spread_say_nothing(tmp_path: Path) -> None:
    """Their table said that any number of seeds and rows sees a difference of 0."""
    pilots(tmp_path, [[0.5] * 4, [0.5] * 4], "sft")
    for difference in (None, 0.1):
        shown = power.text(compare(tmp_path, one(), None), METRIC, difference).splitlines()
        assert shown[1:] == [
            "It is the same in every seed and row, which says nothing of the spread: these are no pilots."
        ]


def test_without_pilots_there_is_no_answer(tmp_path: Path) -> None:
    for seed in range(2):
        run(tmp_path / str(seed), cross_entropy(1.0 + seed), seed=seed)
    with pytest.raises(UserError, match="mode=power found no pilots for eval/cross_entropy: it needs a cell and its"):
        power.text(compare(tmp_path, one(), None), METRIC, None)
