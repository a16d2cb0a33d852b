"""What a comparison shows, before it becomes Markdown, LaTeX, HTML or plain text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ebft.comparison.cells import BASE
from ebft.comparison.columns import LEAST_SEEDS, Figure
from ebft.comparison.statistics import POWER, Estimate
from ebft.comparison.tables import Compared, Table, TableRow
from ebft.output.metric_names import lower_is_better, short
from ebft.report.html_parts import count, number, quantity, unit
from ebft.report.html_parts import figure as value_of

BEST, BETTER, WORSE = "best", "better", "worse"
ARROWS = {True: " ↓", False: " ↑", None: ""}
LEGEND = (
    "Mean over seeds ± half-width of its 95 % interval, in brackets the standard deviation over seeds. Intervals cover "
    "seeds and held-out rows as crossed random factors, rows by document; where one says seeds only or rows only, it "
    "does not cover the other. A base is one model, so its interval covers rows. ↓ lower is better, ↑ higher. "
    "Marked as best: all its runs are done, and it is better than the base and every other cell with a figure, each "
    "by a difference in pairs of one seed and one row that is told apart from 0 at 5 % after Holm's correction over "
    "the cells, with two seeds at least; where none is marked, the runs do not say. Two seeds are weak evidence. "
    "Tokens and seconds are those of training, with those of the run whose model a run starts from. pp: percentage "
    "points."
)
OLD = (
    "Intervals cover seeds only: these runs kept no scores by row, as older versions did. Run them again for intervals "
    "that cover rows too."
)


@dataclass(frozen=True)
class Entry:
    """One cell of a grid, and what is to be seen in it."""

    text: str
    kind: str = ""
    note: str = ""  # the standard deviation

    @property
    def whole(self) -> str:
        return f"{self.text} ({self.note})" if self.note else self.text


@dataclass(frozen=True)
class Grid:
    header: Sequence[str]
    rows: Sequence[Sequence[Entry]]


def arrow(metric: str) -> str:
    return f"{short(metric)}{ARROWS[lower_is_better(metric)]}"


def measured(table: Table) -> Grid:
    """Every cell's figures, with what a publication reports beside them."""
    header = ["cell", "n", *(["steps"] if differ_in_steps(table) else [])]
    for metric in table.metrics:
        header += [arrow(metric), *([f"{short(metric)}, reported"] if table.has_reported(metric) else [])]
    return Grid([*header, "tokens", "seconds"], [_measured_row(table, row) for row in table.rows])


def _measured_row(table: Table, row: TableRow) -> list[Entry]:
    entries = [Entry(row.name), Entry("" if row.is_base else _number_of(row))]
    entries += [Entry(" to ".join(map(str, row.steps)))] if differ_in_steps(table) else []
    for metric in table.metrics:
        figure = row.figures[metric]
        estimate = figure.estimate
        deviation = "" if estimate is None or estimate.sd is None else value_of(metric, estimate.sd)
        n = None if row.is_base else len(row.outcomes)
        shown = spread(metric, estimate, "", n, not row.is_base and keeps_rows(table))
        entries.append(Entry(shown, BEST if figure.is_best else "", deviation))
        if table.has_reported(metric):
            entries.append(Entry("" if figure.reported is None else f"{figure.reported:g}"))
    tokens = "" if row.tokens is None else count(row.tokens.mean)
    return [*entries, Entry(tokens), Entry("" if row.seconds is None else f"{row.seconds.mean:,.0f}")]


def _number_of(row: TableRow) -> str:
    number_of_runs = str(row.planned) if len(row.outcomes) == row.planned else f"{len(row.outcomes)} of {row.planned}"
    return f"{number_of_runs} (weak)" if len(row.outcomes) == LEAST_SEEDS else number_of_runs


def differ_in_steps(table: Table) -> bool:
    return len({steps for row in table.cells for steps in row.steps}) > 1


def keeps_rows(table: Table) -> bool:
    """Whether any run of the table kept scores by row."""
    return any(outcome.final_rows or outcome.base_rows for row in table.cells for outcome in row.outcomes)


def notes(table: Table) -> list[str]:
    return [*([OLD] if table.cells and not keeps_rows(table) else []), *table.notes]


def differences(table: Table) -> Grid:
    """Every cell minus the reference, in pairs of one seed and row; no rows where there is nothing to subtract."""
    grid = []
    for row in table.rows:
        figures = [row.figures[metric] for metric in table.metrics]
        pairs = max((figure.difference.n for figure in figures if figure.difference is not None), default=0)
        entries = [
            Entry(spread(metric, figure.difference, "+", pairs, keeps_rows(table)), _verdict(metric, figure))
            for metric, figure in zip(table.metrics, figures, strict=True)
        ]
        if row.name != table.reference and not (row.is_base and table.reference == BASE):
            grid.append([Entry(row.name), Entry(str(pairs)), *entries])
    has_any = any(row.figures[metric].difference is not None for row in table.rows for metric in table.metrics)
    return Grid(["cell", "pairs", *map(arrow, table.metrics)], grid if has_any else [])


def equal_points(table: Table) -> Grid:
    """Every cell's figures at the equal point; no rows where there is none."""
    point = table.equal_point
    if point is None:
        return Grid([], [])
    metrics = list(next(iter(point.figures.values())))
    rows = [
        [Entry(name), *(Entry(spread(metric, found[metric], "", None)) for metric in metrics)]
        for name, found in point.figures.items()
    ]
    return Grid(["cell", *map(arrow, metrics)], rows)


def equal_point_title(table: Table) -> str:
    """What the table of `equal_points` shows, and which cells it leaves out."""
    assert table.equal_point is not None
    left_out = table.equal_point.never
    without = f"; without {', '.join(left_out)}, where a run never falls below its base" if left_out else ""
    return (
        f"At equal cross_entropy, {number(table.equal_point.place)}, interpolated between evaluations, with 95 % "
        f"intervals over seeds alone{without}"
    )


def detectable(table: Table) -> str:
    """The smallest difference to the reference that each cell's runs would have shown; nothing where none is known."""
    parts = []
    for metric in table.metrics:
        found = [row.figures[metric].detectable for row in table.rows if not row.is_base]
        known = sorted(value for value in found if value is not None)
        if known:
            ends = [value_of(metric, value) for value in dict.fromkeys((known[0], known[-1]))]
            parts.append(f"{short(metric)} {' to '.join(ends)}{unit(metric, '+')}")
    if not parts:
        return ""
    return f"Would have been seen with a chance of {POWER:.0%}, from cell to cell: {', '.join(parts)}.".replace(
        "%", " %"
    )


def parts(table: Table) -> Grid:
    """Where the intervals of the differences come from: standard errors over seeds as if rows were fixed, and over rows
    as if seeds were."""
    rows = []
    for row in table.rows:
        gaps = [row.figures[metric].difference for metric in table.metrics]
        if any(gap is not None and gap.rows is not None for gap in gaps):
            rows.append([Entry(row.name), *map(_parts, table.metrics, gaps)])
    return Grid(["cell", *map(short, table.metrics)], rows)


def _parts(metric: str, gap: Estimate | None) -> Entry:
    if gap is None:
        return Entry(value_of(metric, None))
    return Entry(f"{value_of(metric, gap.seeds_error)} / {value_of(metric, gap.rows_error)}{unit(metric, '+')}")


def spread(metric: str, estimate: Estimate | None, sign: str, n: int | None, says_what_it_covers: bool = False) -> str:
    """Mean and interval, the number of values where it is not the `n` that the row has, and what the interval does not
    cover."""
    if estimate is None:
        return value_of(metric, None)
    marks = [] if n in (None, estimate.n) else [f"n = {estimate.n}"]
    marks += [estimate.covers] if says_what_it_covers and estimate.covers in ("seeds only", "rows only") else []
    return quantity(metric, estimate.mean, estimate.half_width, sign) + (f" [{', '.join(marks)}]" if marks else "")


def _verdict(metric: str, figure: Figure) -> str:
    lower, gap = lower_is_better(metric), figure.difference
    if gap is None or lower is None or not figure.is_told_apart:
        return ""
    return BETTER if (gap.mean < 0) == lower else WORSE


def missing(compared: Compared) -> list[str]:
    return [f"{cell}, seed {plan.seed} ({plan.folder}): {plan.note}" for cell, plan in compared.missing]


COLUMNS = (
    "table", "cell", "metric", "better", "n", "planned", "mean", "sd", "low", "high",
    "covers", "rows", "seeds_error", "rows_error",
    "reference", "pairs", "difference", "difference_low", "difference_high", "difference_covers", "difference_rows",
    "difference_seeds_error", "difference_rows_error", "difference_p_holm", "detectable", "best", "reported",
)  # fmt: skip


def long_rows(compared: Compared) -> list[dict[str, Any]]:
    """For every cell and metric, and for what a cell costs, those of COLUMNS for which there is something."""
    rows = []
    for table in compared.tables:
        for row in table.rows:
            common = {"table": table.title or None, "cell": row.name, "planned": row.planned}
            for metric in table.metrics:
                figure, lower = row.figures[metric], lower_is_better(metric)
                difference = (
                    {
                        "reference": table.reference,
                        **_numbers(figure.difference, "difference", "pairs"),
                        "difference_p_holm": figure.p_value,
                        "detectable": figure.detectable,
                    }
                    if figure.difference
                    else {}
                )
                better = {
                    "better": None if lower is None else "lower" if lower else "higher",
                    "best": figure.is_best,
                    "reported": figure.reported,
                }
                rows.append(
                    {**common, "metric": metric, **better, **_numbers(figure.estimate, "mean", "n"), **difference}
                )
            rows += [
                {**common, "metric": f"cost/{name}", **_numbers(cost, "mean", "n")}
                for name, cost in (("tokens_forwarded", row.tokens), ("seconds", row.seconds))
                if cost is not None
            ]
    return rows


def _numbers(estimate: Estimate | None, mean: str, n: str) -> dict[str, Any]:
    if estimate is None:
        return {n: 0}
    prefix = "" if mean == "mean" else f"{mean}_"
    interval = {} if estimate.half_width is None else _interval(estimate.mean, estimate.half_width, prefix)
    basis = {
        "covers": estimate.covers,
        "rows": estimate.rows,
        "seeds_error": estimate.seeds_error,
        "rows_error": estimate.rows_error,
    }
    named = {f"{prefix}{name}": value for name, value in basis.items()}
    return {n: estimate.n, mean: estimate.mean, **interval, **named, **({"sd": estimate.sd} if not prefix else {})}


def _interval(mean: float, half_width: float, prefix: str) -> dict[str, float]:
    return {f"{prefix}low": mean - half_width, f"{prefix}high": mean + half_width}
