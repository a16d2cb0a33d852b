"""What a comparison shows, before it becomes Markdown, LaTeX, HTML or plain text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ebft.comparison.cells import BASE
from ebft.comparison.known_metrics import lower_is_better
from ebft.comparison.statistics import Estimate
from ebft.comparison.tables import Compared, Table, TableRow, short
from ebft.report.html_parts import count, number

BEST, BETTER, WORSE = "best", "better", "worse"
ARROWS = {True: " ↓", False: " ↑", None: ""}
LEGEND = (
    "Mean over seeds ± half-width of its 95 % interval (Student's t), in brackets the standard deviation. ↓ lower is "
    "better, ↑ higher. "
    "Marked as best: all its runs are done, and it is better than the base and every other cell with a figure, each "
    "by a paired difference whose "
    "95 % interval excludes 0; where none is marked, the runs do not say. Tokens and seconds are those of training, "
    "with those of the run whose "
    "model a run starts from."
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
    header = ["cell", "n"]
    for metric in table.metrics:
        header += [arrow(metric), *([f"{short(metric)}, reported"] if table.has_reported(metric) else [])]
    return Grid([*header, "tokens", "seconds"], [_measured_row(table, row) for row in table.rows])


def _measured_row(table: Table, row: TableRow) -> list[Entry]:
    entries = [Entry(row.name), Entry("" if row.is_base else _number_of(row))]
    for metric in table.metrics:
        figure = row.figures[metric]
        deviation = "" if figure.estimate is None or figure.estimate.sd is None else number(figure.estimate.sd)
        n = None if row.is_base else len(row.outcomes)
        entries.append(Entry(spread(figure.estimate, "", n), BEST if figure.is_best else "", deviation))
        if table.has_reported(metric):
            entries.append(Entry("" if figure.reported is None else f"{figure.reported:g}"))
    tokens = "" if row.tokens is None else count(row.tokens.mean)
    return [*entries, Entry(tokens), Entry("" if row.seconds is None else f"{row.seconds.mean:,.0f}")]


def _number_of(row: TableRow) -> str:
    return str(row.planned) if len(row.outcomes) == row.planned else f"{len(row.outcomes)} of {row.planned}"


def differences(table: Table) -> Grid:
    """Every cell minus the reference, in pairs of one seed; no rows where there is nothing to subtract."""
    grid = []
    for row in table.rows:
        gaps = [row.figures[metric].difference for metric in table.metrics]
        pairs = max((gap.n for gap in gaps if gap is not None), default=0)
        entries = [
            Entry(spread(gap, "+", pairs), _verdict(metric, gap))
            for metric, gap in zip(table.metrics, gaps, strict=True)
        ]
        if row.name != table.reference and not (row.is_base and table.reference == BASE):
            grid.append([Entry(row.name), Entry(str(pairs)), *entries])
    has_any = any(row.figures[metric].difference is not None for row in table.rows for metric in table.metrics)
    return Grid(["cell", "pairs", *map(arrow, table.metrics)], grid if has_any else [])


def spread(estimate: Estimate | None, sign: str, n: int | None) -> str:
    """Mean and interval, and the number of values where it is not the `n` that the row has."""
    if estimate is None:
        return number(None)
    interval = "" if estimate.half_width is None else f" ± {number(estimate.half_width)}"
    return f"{number(estimate.mean, sign)}{interval}{'' if n in (None, estimate.n) else f' [n = {estimate.n}]'}"


def _verdict(metric: str, gap: Estimate | None) -> str:
    lower = lower_is_better(metric)
    if gap is None or lower is None or not gap.excludes_zero:
        return ""
    return BETTER if (gap.mean < 0) == lower else WORSE


def missing(compared: Compared) -> list[str]:
    return [f"{cell}, seed {plan.seed} ({plan.folder}): {plan.note}" for cell, plan in compared.missing]


COLUMNS = (
    "table", "cell", "metric", "better", "n", "planned", "mean", "sd", "low", "high",
    "reference", "pairs", "difference", "difference_low", "difference_high", "best", "reported",
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
                    {"reference": table.reference, **_numbers(figure.difference, "difference", "pairs")}
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
    return {n: estimate.n, mean: estimate.mean, **interval, **({"sd": estimate.sd} if mean == "mean" else {})}


def _interval(mean: float, half_width: float, prefix: str) -> dict[str, float]:
    return {f"{prefix}low": mean - half_width, f"{prefix}high": mean + half_width}
