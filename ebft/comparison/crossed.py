"""Intervals that cover training seeds and held-out rows: two crossed random factors.

Seed s of a cell gives a figure v_s = sum_r sums_sr / sum_r counts_sr over R rows that all seeds share; rows of one
document, module or conversation are not independent, so the unit is the document c = 1..C. Its pseudo-value

    u_sc = v_s + C (sums_sc - v_s counts_sc) / sum_c counts_sc        (linearised ratio; their mean over c is v_s)

is taken for mu + seed_s + document_c + rest_sc, and so is a difference of two pseudo-values of the same seed and
document. The variance of the mean is estimated from the mean squares of that layout (two-way, one observation a cell,
both factors random; Searle, Casella and McCulloch, Variance Components, 1992, chapter 4; for evaluation on shared
items Brennan, Generalizability Theory, 2001, chapter 3):

    A = C sum_s (u_s. - u..)^2 / (S - 1)        B = S sum_c (u_.c - u..)^2 / (C - 1)
    E = sum_sc (u_sc - u_s. - u_.c + u..)^2 / ((S - 1) (C - 1))
    var(u..) = (A + max(B - E, 0)) / (S C)

with Satterthwaite's degrees of freedom (Biometrics Bulletin 2, 1946), var^2 over the sum of squared parts over theirs.
Three things are added, each because coverage without it was too small. Seeds that agree to the last digit, as counts
of right answers do, have A = 0, which says no more than that A is near E: it takes E's place. Few seeds that happen
to lie close make A small and the degrees too many, so for the degrees alone A is taken at the upper end of its own
one-sided 70 % interval, A (S - 1) / chi^2_{0.3, S-1}. And documents of unequal weight count for fewer, C' = (sum_c
w_c^2)^2 / sum_c w_c^4 with w the counts. Simulations (tests/comparison/test_crossed.py): 95 % intervals cover in 94
to 97 % of cases for 3 to 10 seeds and 50 to 500 documents, with normal effects and with heavy tails (Student's t with
3 degrees). Seed effects that are badly skewed (exponential) are covered in 88 to 93 % only, whatever the estimator:
no interval from three seeds knows of a rare bad seed. With one seed the interval covers rows alone, by the variance
over documents.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ebft.comparison.statistics import CONFIDENCE, Estimate, t_quantile
from ebft.output.row_scores import RowScores

ROUNDING = 1e-12
LOW_NORMAL = -0.524400512708041  # the normal's quantile at 0.3


@dataclass(frozen=True)
class Crossed:
    """The mean of a layout of seeds and documents, its variance, and that variance's parts. Arrays over layouts."""

    mean: Float[np.ndarray, "*b"]
    variance: Float[np.ndarray, "*b"]  # of the mean
    degrees: Float[np.ndarray, "*b"]  # of freedom
    over_seeds: Float[np.ndarray, "*b"]  # A / (S C): as if documents were fixed; 0 for one seed
    over_documents: Float[np.ndarray, "*b"]  # B / (S C): as if seeds were fixed
    together: Float[np.ndarray, "*b"]  # E / (S C), which is part of both


def pseudo_values(
    sums: Float[np.ndarray, "*b S R"], counts: Float[np.ndarray, "*b S R"], document: Int[np.ndarray, "R"]
) -> Float[np.ndarray, "*b S C"]:
    """u_sc of the documents 0..C-1 that rows belong to."""
    sums, counts = by_document(sums, document), by_document(counts, document)
    whole = counts.sum(-1, keepdims=True)
    value = sums.sum(-1, keepdims=True) / whole
    return value + sums.shape[-1] * (sums - value * counts) / whole


def by_document(x: Float[np.ndarray, "*b R"], document: Int[np.ndarray, "R"]) -> Float[np.ndarray, "*b C"]:
    """Sums over the rows of each document."""
    order = np.argsort(document, kind="stable")
    starts = np.flatnonzero(np.diff(document[order], prepend=-1))
    return np.add.reduceat(x[..., order], starts, axis=-1)


def effective_number(weights: Float[np.ndarray, "C"]) -> float:
    """C' = (sum w^2)^2 / sum w^4: C for equal weights, fewer otherwise."""
    squares = np.square(weights)
    return float(squares.sum() ** 2 / np.square(squares).sum())


def crossed(units: Float[np.ndarray, "*b S C"], num_effective: float) -> Crossed:
    """Mean and variance of layouts of at least two documents; `num_effective` is C'."""
    num_seeds, num_documents = units.shape[-2:]
    mean, by_seed, by_column = (units.mean(axes, keepdims=True) for axes in ((-2, -1), (-1,), (-2,)))
    b = num_seeds * _mean_square(by_column - mean, num_documents - 1)
    column_degrees = max(num_effective - 1, 1.0)
    cells = num_seeds * num_documents
    if num_seeds == 1:
        zero = np.zeros_like(b)
        return Crossed(*map(_flat, (mean, b / cells, zero + column_degrees, zero, b / cells, zero)))
    e = _mean_square(units - by_seed - by_column + mean, (num_seeds - 1) * (num_documents - 1))
    a = num_documents * _mean_square(by_seed - mean, num_seeds - 1)
    a = np.where(a > ROUNDING * e, a, e)
    own = np.maximum(b - e, 0)
    degrees = degrees_of(a, b, e, num_seeds - 1, column_degrees)
    return Crossed(*map(_flat, (mean, (a + own) / cells, degrees, a / cells, b / cells, e / cells)))


def _mean_square(deviations: Float[np.ndarray, "*b s c"], degrees: int) -> Float[np.ndarray, "*b 1 1"]:
    return np.square(deviations).sum((-2, -1), keepdims=True) / degrees


def _flat(x: Float[np.ndarray, "*b 1 1"]) -> Float[np.ndarray, "*b"]:
    return np.asarray(x[..., 0, 0])


def degrees_of(
    a: Float[np.ndarray, "*b"],
    b: Float[np.ndarray, "*b"],
    e: Float[np.ndarray, "*b"],
    seed_degrees: int,
    column_degrees: float,
) -> Float[np.ndarray, "*b"]:
    """Satterthwaite's, with A at the upper end of its interval; never below those of A alone."""
    high, own = a * seed_degrees / _low_chi_square(seed_degrees), np.maximum(b - e, 0)
    of_own = np.square(b) / column_degrees + np.square(e) / (seed_degrees * column_degrees)
    parts = np.square(high) / seed_degrees + np.where(own > 0, of_own, 0)
    whole = np.square(high + own)
    return np.maximum(np.divide(whole, parts, out=np.zeros_like(whole), where=parts > 0), seed_degrees)


def _low_chi_square(degrees: int) -> float:
    """The quantile of chi^2 at 0.3, after Wilson and Hilferty (1931): within 1 % from one degree on."""
    spread = 2 / (9 * degrees)
    return float(degrees * (1 - spread + LOW_NORMAL * math.sqrt(spread)) ** 3)


@dataclass(frozen=True)
class Layout:
    """Pseudo-values of one or several seeds over the rows that all of them share."""

    units: Float[np.ndarray, "S C"]
    weights: Float[np.ndarray, "C"]  # counts of each document, mean over seeds
    num_rows: int
    num_rows_before: int  # of the seed that has most


def layout(ours: Sequence[RowScores], theirs: Sequence[RowScores] | None = None) -> Layout | None:
    """One entry a seed: a figure, or with `theirs` its difference to another one's of the same seed, in pairs of one
    row. None where they share no document, or a seed has nothing to count on what they share."""
    every = [*ours, *(theirs or ())]
    shared = _shared([scores.rows for scores in every])
    if not shared:
        return None
    places = [_places(scores.rows, shared) for scores in every]
    names = [every[0].documents[place] for place in places[0]]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    document = np.array([numbers[name] for name in names])
    sums = np.stack([np.array(scores.sums)[own] for scores, own in zip(every, places, strict=True)])
    counts = np.stack([np.array(scores.counts)[own] for scores, own in zip(every, places, strict=True)])
    if not (counts.sum(-1) > 0).all():
        return None
    units = pseudo_values(sums, counts, document)
    if theirs is not None:
        units = units[: len(ours)] - units[len(ours) :]
    most = max(len(scores.rows) for scores in every)
    return Layout(units, by_document(counts.mean(0), document), len(shared), most)


def _shared(rows: Sequence[Sequence[str]]) -> list[str]:
    first, *others = rows
    if all(other == first for other in others):
        return list(first)
    common = set(first).intersection(*others)
    return [row for row in first if row in common]


def _places(rows: Sequence[str], wanted: Sequence[str]) -> list[int]:
    places = {row: place for place, row in enumerate(rows)}
    return [places[row] for row in wanted]


def crossed_estimate(found: Layout) -> Estimate | None:
    """Mean and interval; None for rows of one document, which say nothing of others."""
    num_seeds, num_documents = found.units.shape
    if num_documents < 2:
        return None
    result = crossed(found.units, effective_number(found.weights))
    error, degrees = math.sqrt(float(result.variance)), float(result.degrees)
    values = found.units.mean(-1)
    return Estimate(
        n=num_seeds,
        mean=float(result.mean),
        sd=float(values.std(ddof=1)) if num_seeds > 1 else None,
        half_width=t_quantile(0.5 + CONFIDENCE / 2, degrees) * error,
        error=error,
        degrees=degrees,
        rows=found.num_rows,
        documents=num_documents,
        seeds_error=math.sqrt(float(result.over_seeds)) if num_seeds > 1 else None,
        rows_error=math.sqrt(float(result.over_documents)),
        rest_error=math.sqrt(float(result.together)) if num_seeds > 1 else None,
    )
