"""Means with their intervals, differences in pairs, Holm's correction, and what could have been seen."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev
from typing import TypeVar

CONFIDENCE = 0.95
POWER = 0.8  # with which the smallest difference that could have been seen would have been
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` seeds, the standard deviation of their values (with n - 1), and the half-width of the 95 %
    interval of the mean,

    t_{0.975, degrees} * error        Student's t; None where nothing is known of the spread

    With `rows` the interval covers seeds and held-out rows (`crossed.py`), with one seed rows alone; without, seeds
    alone, with error = sd / sqrt(n) and n - 1 degrees of freedom.
    """

    n: int
    mean: float
    sd: float | None
    half_width: float | None
    error: float | None = None  # the standard error of the mean
    degrees: float | None = None  # of freedom of the error
    rows: int | None = None  # held-out rows that the interval covers; None: it does not
    documents: int | None = None  # that those rows belong to
    seeds_error: float | None = None  # the standard error over seeds as if the rows were fixed
    rows_error: float | None = None  # over rows, by document, as if the seeds were fixed
    rest_error: float | None = None  # of what seeds and rows are together, which is part of both

    @property
    def p_value(self) -> float | None:
        """The chance, were the expectation 0, of a mean as far from it. None where there is no interval, or one of no
        width: equal values are too few to know their spread."""
        if self.degrees is None or not self.error:
            return None
        return 2 * (1 - t_probability(abs(self.mean) / self.error, self.degrees))

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside the interval. False where there is none, or one of no width."""
        return self.half_width is not None and abs(self.mean) > self.half_width > 0

    @property
    def covers(self) -> str:
        """What the interval says something of: seeds and rows, seeds only, rows only, or nothing."""
        if self.half_width is None:
            return "nothing"
        return "seeds only" if self.rows is None else "rows only" if self.n == 1 else "seeds and rows"

    def detectable(self, num_comparisons: int) -> float | None:
        """The smallest difference from 0 that would have been told apart with a chance of POWER,
        (t_{1 - 0.025 / m} + t_{POWER}) * error, with the m comparisons of Holm's first step."""
        if self.degrees is None or not self.error:
            return None
        return smallest_difference(self.error, self.degrees, num_comparisons)


def smallest_difference(error: float, degrees: float, num_comparisons: int = 1) -> float:
    level = 1 - (1 - CONFIDENCE) / 2 / num_comparisons
    return (t_quantile(level, degrees) + t_quantile(POWER, degrees)) * error


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean, spread and interval over seeds alone; None where there are no values."""
    if not values:
        return None
    if len(values) == 1:
        return Estimate(1, values[0], None, None)
    sd, degrees = stdev(values), len(values) - 1
    error = sd / math.sqrt(len(values))
    half_width = t_quantile(0.5 + CONFIDENCE / 2, degrees) * error
    return Estimate(len(values), fmean(values), sd, half_width, error, degrees, seeds_error=error)


def difference(values: Mapping[int, float], reference: Mapping[int, float]) -> Estimate | None:
    """The estimate of the values minus the reference's of the same seed; None where they share no seed."""
    return estimate([value - reference[seed] for seed, value in values.items() if seed in reference])


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Holm's p-values for several comparisons of which none is to be called a difference by mistake (Scandinavian
    Journal of Statistics 6, 1979): sorted upwards, max over j <= i of min(1, (m - j + 1) p_(j))."""
    adjusted, largest = {}, 0.0
    for place, (key, p_value) in enumerate(sorted(p_values.items(), key=lambda pair: pair[1])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_value))
        adjusted[key] = largest
    return adjusted


@cache
def t_quantile(probability: float, degrees: float) -> float:
    """The quantile of Student's t, above the median, by bisection of `t_probability`."""
    assert 0.5 < probability < 1, probability
    low, high = 0.0, 1.0
    while t_probability(high, degrees) < probability:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability(middle, degrees) < probability else (low, middle)
    return high


def t_probability(t: float, degrees: float) -> float:
    """P(T <= t) for t >= 0 and any number of degrees of freedom above 0: 1 - I_x(degrees / 2, 1 / 2) / 2 with
    x = degrees / (degrees + t^2) (Abramowitz and Stegun 26.7.1)."""
    x = degrees / (degrees + t * t)
    if x > 0.5:  # where 1 - x has more digits
        return 0.5 + 0.5 * _incomplete_beta(t * t / (degrees + t * t), 0.5, degrees / 2)
    return 1 - 0.5 * _incomplete_beta(x, degrees / 2, 0.5)


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b), regularised, by its continued fraction (DLMF 8.17.22), which converges fast below the mean
    (a + 1) / (a + b + 2); above it by 1 - I_{1-x}(b, a)."""
    if x <= 0:
        return 0.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(1 - x, b, a)
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(scale) / (a * _beta_fraction(x, a, b))


def _beta_fraction(x: float, a: float, b: float) -> float:
    """1 + d_1 / (1 + d_2 / (1 + ...)) by Lentz's method, with d_2m = m (b - m) x / ((a + 2m - 1) (a + 2m)) and
    d_2m+1 = -(a + m) (a + b + m) x / ((a + 2m) (a + 2m + 1))."""
    value = above = 1.0
    below = 0.0
    for place in range(1, 10_000):
        m, even = place // 2, place % 2 == 0
        top = m * (b - m) if even else -(a + m) * (a + b + m)
        bottom = (a + 2 * m - 1) * (a + 2 * m) if even else (a + 2 * m) * (a + 2 * m + 1)
        term = top * x / bottom
        below, above = 1 / (1 + term * below), 1 + term / above
        value *= above * below
        if abs(above * below - 1) < 1e-16:
            break
    return value
