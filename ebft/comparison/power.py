"""How many seeds and held-out rows would tell a difference of a given size from 0, as pilot runs let expect.

The pilots' paired differences have the variances of `crossed.py`: of seeds A' = (A - E) / C, of documents
B' = (B - E) / S, each at least 0, and of the rest E. With S seeds and C documents the mean's variance is
A' / S + B' / C + E / (S C), its degrees of freedom those of `crossed.py` at the expected mean squares, and the smallest
difference told apart at 5 % with a chance of 80 % is (t_0.975 + t_0.8) times its root. Pilots of few seeds know A'
badly: take the numbers as an order of magnitude.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ebft.comparison.columns import LEAST_SEEDS
from ebft.comparison.crossed import degrees_of
from ebft.comparison.statistics import Estimate, smallest_difference
from ebft.comparison.tables import Compared, Table
from ebft.config.schema import UserError
from ebft.output.console import aligned
from ebft.output.metric_names import is_share, short
from ebft.report.html_parts import figure, quantity, unit

SEEDS = (2, 3, 4, 5, 6, 8, 10, 15, 20)
TIMES = (0.5, 1, 2, 4, 8)  # the pilots' rows
LEAST_DOCUMENTS, MOST_DOCUMENTS = 2, 10**6


@dataclass(frozen=True)
class Components:
    """Variances of a paired difference's parts, and how many rows a document has."""

    of_seeds: float
    of_documents: float
    of_rest: float
    rows_per_document: float

    def smallest(self, num_seeds: int, num_documents: int) -> float:
        """The smallest difference that so many seeds and documents tell apart."""
        a = num_documents * self.of_seeds + self.of_rest
        b = num_seeds * self.of_documents + self.of_rest
        of = degrees_of(np.array([a]), np.array([b]), np.array([self.of_rest]), num_seeds - 1, num_documents - 1)
        error = math.sqrt((a + b - self.of_rest) / (num_seeds * num_documents))
        return smallest_difference(error, float(of[0]))

    def documents_for(self, difference: float, num_seeds: int) -> int | None:
        """The fewest documents with which so many seeds tell `difference` apart; None: no number does."""
        if self.smallest(num_seeds, MOST_DOCUMENTS) > difference:
            return None
        low, high = LEAST_DOCUMENTS - 1, MOST_DOCUMENTS
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.smallest(num_seeds, middle) <= difference else (middle, high)
        return high


def components(gap: Estimate) -> Components:
    """Of a difference that covers seeds and rows."""
    assert gap.covers == "seeds and rows"
    assert gap.documents is not None
    assert gap.rows is not None
    cells = gap.n * gap.documents
    a, b, e = (cells * (error or 0.0) ** 2 for error in (gap.seeds_error, gap.rows_error, gap.rest_error))
    return Components(
        max(a - e, 0.0) / gap.documents, max(b - e, 0.0) / gap.n, e, rows_per_document=gap.rows / gap.documents
    )


def text(compared: Compared, metric: str, difference: float | None) -> str:
    """For every cell with pilots, a table for the terminal. Raises UserError where no cell has any."""
    parts = [part for table in compared.tables for part in _of_table(table, metric, difference)]
    if not parts:
        raise UserError(
            f"mode=power found no pilots for {metric}: it needs a cell and its reference with {LEAST_SEEDS} finished "
            "seeds each whose runs kept scores by row; run them first, or name another metric with sweep.metric."
        )
    return "\n\n".join(parts)


def _of_table(table: Table, metric: str, difference: float | None) -> Iterator[str]:
    for row in table.cells:
        found_here = row.figures.get(metric)
        gap = None if found_here is None else found_here.difference
        if gap is None or gap.covers != "seeds and rows":
            continue
        found, title = components(gap), f"{table.title}: " if table.title else ""
        seeds, documents, rest = (
            figure(metric, math.sqrt(variance)) for variance in (found.of_seeds, found.of_documents, found.of_rest)
        )
        head = (
            f"{title}{short(metric)}, {row.name} minus {table.reference}: {quantity(metric, gap.mean, sign='+')} in "
            f"{gap.n} seeds x {gap.rows} rows{'' if gap.documents == gap.rows else f' of {gap.documents} documents'}; "
            f"standard deviation of seeds {seeds}, of documents {documents}, of the rest {rest}{unit(metric, '+')}."
        )
        if found.of_seeds == found.of_documents == found.of_rest == 0:
            lines = ["It is the same in every seed and row, which says nothing of the spread: these are no pilots."]
        else:
            lines = _smallest(found, gap, metric) if difference is None else _needed(found, difference, metric)
        yield "\n".join([head, *lines])


def _smallest(found: Components, gap: Estimate, metric: str) -> list[str]:
    assert gap.documents is not None
    documents = sorted({max(LEAST_DOCUMENTS, round(times * gap.documents)) for times in TIMES})
    header = ["seeds", *(f"{round(each * found.rows_per_document):,} rows" for each in documents)]
    rows = [[str(seeds), *(figure(metric, found.smallest(seeds, each)) for each in documents)] for seeds in SEEDS]
    in_points = " in percentage points" if is_share(metric) else ""
    title = f"Smallest difference{in_points} told apart from 0 at 5 % with a chance of 80 %:"
    return [title, *aligned([header, *rows])]


def _needed(found: Components, difference: float, metric: str) -> list[str]:
    rows = [["seeds", "rows"]]
    for seeds in SEEDS:
        documents = found.documents_for(difference, seeds)
        needed = "no number is enough" if documents is None else f"{math.ceil(documents * found.rows_per_document):,}"
        rows.append([str(seeds), needed])
    size = f"{figure(metric, difference)}{unit(metric, '+')}"
    return [f"To tell a difference of {size} from 0 at 5 % with a chance of 80 %:", *aligned(rows)]
