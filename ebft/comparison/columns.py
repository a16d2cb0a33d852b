"""The figures of one metric by cell: estimates, differences to the reference, and which cell is best.

Every interval covers seeds and held-out rows where the runs kept per-row scores (`crossed.py`), seeds alone where they
did not, rows alone where there is one seed. Nothing is called a difference unless its p-value after Holm's correction
over the cells is at most 5 %, and nothing that one seed says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from ebft.comparison.cells import BASE
from ebft.comparison.statistics import CONFIDENCE, Estimate, difference, estimate, holm
from ebft.output.metric_names import lower_is_better, short
from ebft.output.row_scores import RowScores

LEAST_SEEDS = 2  # of which anything can be said beyond them


@dataclass(frozen=True)
class Measured:
    """What one run has for a metric."""

    value: float
    rows: RowScores | None  # None: the run kept none


Values = Mapping[int, Measured]  # by seed


@dataclass(frozen=True)
class Cells:
    """All there is of one metric."""

    values: Mapping[str, Values]  # of bases and cells
    starts: Mapping[str, Values]  # of each cell's own runs, before training
    complete: frozenset[str]  # cells of which no run is missing, and bases
    bases: frozenset[str]


@dataclass(frozen=True)
class Figure:
    """One metric of one cell."""

    estimate: Estimate | None  # None where no run of the cell has it
    difference: Estimate | None  # to the reference cell, in pairs of one seed and one row
    p_value: float | None  # of that difference, after Holm's correction over cells; None where it is not tested
    detectable: float | None  # the smallest difference that would have been told apart with a chance of 80 %
    # the cell is complete, and told apart from every other one on the better side
    is_best: bool
    reported: float | None  # by a publication

    @property
    def is_told_apart(self) -> bool:
        return is_small(self.p_value)


@dataclass(frozen=True)
class Standing:
    """The cell with the best mean, beside every other one with a figure."""

    leader: str
    gaps: Mapping[str, Estimate]  # leader minus the other, in pairs
    p_values: Mapping[str, float]  # of the gaps, after Holm's correction over them; without those not tested
    is_best: bool


@dataclass(frozen=True)
class Column:
    figures: Mapping[str, Figure]
    standing: Standing | None  # None: there are not two cells to compare, or neither way is better
    notes: list[str]


def is_small(p_value: float | None) -> bool:
    return p_value is not None and p_value <= 1 - CONFIDENCE


def column(metric: str, cells: Cells, reference: str, reported: Mapping[str, Mapping[str, float]]) -> Column:
    notes: dict[str, None] = {}
    gaps: dict[str, Estimate] = {}
    for name, own in cells.values.items():
        other = cells.starts[name] if reference == BASE and cells.starts[name] else cells.values.get(reference, {})
        if name != reference and (found := paired(own, other, f"{name} and {reference}", notes)) is not None:
            gaps[name] = found
    tests = _tests(gaps)
    standing = _standing(metric, cells, notes)
    figures = {
        name: Figure(
            estimate=over_seeds(own, name in cells.bases),
            difference=gaps.get(name),
            p_value=tests.get(name),
            detectable=gaps[name].detectable(max(1, len(tests))) if name in gaps else None,
            is_best=standing is not None and standing.is_best and standing.leader == name,
            reported=reported.get(name, {}).get(metric),
        )
        for name, own in cells.values.items()
    }
    return Column(figures, standing, list(notes))


def _tests(gaps: Mapping[str, Estimate]) -> dict[str, float]:
    p_values = {name: gap.p_value for name, gap in gaps.items() if gap.n >= LEAST_SEEDS}
    return holm({name: p_value for name, p_value in p_values.items() if p_value is not None})


def over_seeds(values: Values, is_base: bool) -> Estimate | None:
    """A base that every seed shares is one figure, however often it was measured."""
    from ebft.comparison.crossed import crossed_estimate, layout  # numpy, which the plan of a sweep does not need

    runs = list(values.values())
    if is_base and len({run.value for run in runs}) == 1:
        runs = runs[:1]
    rows = [run.rows for run in runs if run.rows is not None]
    if runs and len(rows) == len(runs) and (found := layout(rows)) is not None:
        return crossed_estimate(found) or estimate([run.value for run in runs])
    return estimate([run.value for run in runs])


def paired(ours: Values, theirs: Values, who: str, notes: dict[str, None]) -> Estimate | None:
    """Ours minus theirs, seed by seed and row by row. None where they share no seed or, although they kept their rows,
    no row; rows of one that the other lacks are left out and noted."""
    from ebft.comparison.crossed import crossed_estimate, layout

    seeds = [seed for seed in ours if seed in theirs]
    mine, other = ([of[seed].rows for seed in seeds] for of in (ours, theirs))
    known = [rows for rows in (*mine, *other) if rows is not None]
    if not seeds or len(known) < 2 * len(seeds):
        return difference(*({seed: of[seed].value for seed in seeds} for of in (ours, theirs)))
    metric, found = short(known[0].metric), layout(known[: len(seeds)], known[len(seeds) :])
    if found is None:
        notes[f"{metric}: {who} are not compared, because they were evaluated on no common row."] = None
        return None
    if found.num_rows < found.num_rows_before:
        shared = f"the {found.num_rows} of {found.num_rows_before} rows that they share"
        notes[f"{metric}: {who} are compared on {shared}."] = None
    return crossed_estimate(found) or estimate(found.units.mean(-1).tolist())


def _standing(metric: str, cells: Cells, notes: dict[str, None]) -> Standing | None:
    lower = lower_is_better(metric)
    measured = {name: own for name, own in cells.values.items() if own}
    if lower is None or len(measured) < 2:
        return None
    sign = -1 if lower else 1
    leader = max(measured, key=lambda name: sign * fmean(run.value for run in measured[name].values()))
    others = {name: own for name, own in measured.items() if name != leader}
    found = {name: paired(measured[leader], own, f"{leader} and {name}", notes) for name, own in others.items()}
    gaps = {name: gap for name, gap in found.items() if gap is not None}
    p_values = _tests(gaps)
    beats_all = all(name in gaps and is_small(p_values.get(name)) and sign * gaps[name].mean > 0 for name in others)
    return Standing(leader, gaps, p_values, leader in cells.complete and beats_all)
