"""Means over seeds with their intervals, and differences in pairs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds: `n` values, their standard deviation (with n - 1), and the half-width of the 95 % interval of
    the mean,

    t_{0.975, n-1} * sd / sqrt(n)        Student's t; None for one value, which says nothing of its spread
    """

    n: int
    mean: float
    sd: float | None
    half_width: float | None

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside the interval. False where there is none, or one of no width: equal values are too few
        to know their spread."""
        return self.half_width is not None and abs(self.mean) > self.half_width > 0


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean, spread and interval of the values; None where there are none."""
    if not values:
        return None
    if len(values) == 1:
        return Estimate(1, values[0], None, None)
    sd = stdev(values)
    return Estimate(
        len(values), fmean(values), sd, t_quantile(0.5 + CONFIDENCE / 2, len(values) - 1) * sd / math.sqrt(len(values))
    )


def difference(values: Mapping[int, float], reference: Mapping[int, float]) -> Estimate | None:
    """The estimate of the values minus the reference's of the same seed; None where they share no seed."""
    return estimate([value - reference[seed] for seed, value in values.items() if seed in reference])


@cache
def t_quantile(probability: float, degrees: int) -> float:
    """The quantile of Student's t, above the median, by bisection of `t_probability`."""
    assert 0.5 < probability < 1, probability
    low, high = 0.0, 1.0
    while t_probability(high, degrees) < probability:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability(middle, degrees) < probability else (low, middle)
    return high


def t_probability(t: float, degrees: int) -> float:
    """P(T <= t) for t >= 0. With theta = atan(t / sqrt(degrees)) the mass in [-t, t] is a finite sum (Abramowitz and
    Stegun 26.7.3 and 26.7.4):

    odd     2/pi (theta + sin(theta) (cos(theta) + 2/3 cos(theta)^3 + ... + p cos(theta)^(degrees-2))),
            p = (2 4 ... (degrees-3)) / (3 5 ... (degrees-2))
    even    sin(theta) (1 + 1/2 cos(theta)^2 + ... + p cos(theta)^(degrees-2)),
            p = (1 3 ... (degrees-3)) / (2 4 ... (degrees-2))
    """
    theta, odd = math.atan(t / math.sqrt(degrees)), degrees % 2
    term, total = math.cos(theta) if odd else 1.0, 0.0
    for power in range(odd, degrees - 1, 2):
        total += term
        term *= (power + 1) / (power + 2) * math.cos(theta) ** 2
    total *= math.sin(theta)
    return 0.5 + 0.5 * (2 / math.pi * (theta + total) if odd else total)
