import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ebft.comparison.statistics import Estimate, difference, estimate, t_probability, t_quantile


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 7, 10, 29, 100, 999])
def test_quantiles_are_those_of_scipy(degrees: int) -> None:
    for probability in (0.6, 0.9, 0.975, 0.9995):
        assert t_quantile(probability, degrees) == pytest.approx(stats.t.ppf(probability, degrees), rel=1e-9)


# below 1e-3 scipy loses digits: at 1e-9 and one degree it says 0.5, where 0.5 + 1e-9 / pi is right
@given(st.just(0.0) | st.floats(1e-3, 50), st.integers(1, 200))
def test_probabilities_are_those_of_scipy(t: float, degrees: int) -> None:
    assert t_probability(t, degrees) == pytest.approx(stats.t.cdf(t, degrees), abs=1e-12)


@pytest.mark.slow
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=13))
def test_an_estimate_is_that_of_scipy(values: list[float]) -> None:
    found = estimate(values)
    assert found is not None
    assert found.half_width is not None
    assert (found.n, found.mean) == (len(values), pytest.approx(np.mean(values), abs=1e-12))
    assert found.sd == pytest.approx(np.std(values, ddof=1), abs=1e-9)
    if np.std(values) > 1e-6:
        low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
        assert (found.mean - found.half_width, found.mean + found.half_width) == (
            pytest.approx(low, abs=1e-9),
            pytest.approx(high, abs=1e-9),
        )


def test_an_interval_worked_out_by_hand() -> None:
    """Mean 2, deviation 1, t_{0.975, 2} = 4.302653, so 4.302653 / sqrt(3) on either side."""
    found = estimate([1.0, 2.0, 3.0])
    assert found is not None
    assert (found.n, found.mean, found.sd, found.half_width) == (
        3,
        2.0,
        1.0,
        pytest.approx(4.302653 / math.sqrt(3), rel=1e-6),
    )
    assert not found.excludes_zero


def test_one_value_has_no_interval_and_nothing_no_estimate() -> None:
    assert estimate([3.0]) == Estimate(1, 3.0, None, None)
    assert estimate([]) is None
    assert not Estimate(1, 3.0, None, None).excludes_zero


def test_differences_are_taken_within_a_seed() -> None:
    """Seeds spread by 10 and the pairs differ by 1 +- 0.1: unpaired the interval would hold 0. A paired t-test of scipy
    agrees."""
    ours, theirs = {0: 11.0, 1: 21.1, 2: 30.9, 7: 5.0}, {0: 10.0, 1: 20.0, 2: 30.0, 3: 99.0}
    found = difference(ours, theirs)
    assert found is not None
    assert (found.n, found.mean) == (3, pytest.approx(1.0))
    assert found.excludes_zero
    interval = stats.ttest_rel([11.0, 21.1, 30.9], [10.0, 20.0, 30.0]).confidence_interval(0.95)
    assert found.half_width == pytest.approx((interval.high - interval.low) / 2)
    assert difference({0: 1.0}, {1: 1.0}) is None
