"""The charts of a table: every metric by step and by cost, feature matching by horizon, calibration by depth, one loss
against the other."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ebft.comparison.runs import SECONDS, TOKENS, RunResult
from ebft.comparison.statistics import Estimate, estimate
from ebft.comparison.tables import Table, TableRow
from ebft.output.metric_names import LOSS, in_own_set, is_share, lower_is_better, short
from ebft.report import charts, plots
from ebft.report.charts import Chart, Line, Panel

MAX_CELLS = 12  # in one chart
ENTROPY = "eval/cross_entropy"
PLACES = {"step": "optimiser steps", TOKENS: "tokens forwarded in training", SECONDS: "seconds of training"}


@dataclass(frozen=True)
class Plot:
    name: str
    caption: str
    chart: Chart


@dataclass(frozen=True)
class Point:
    """All runs of a cell at one evaluation: mean place, and the metric's estimate over seeds."""

    place: float
    value: Estimate


def draw(folder: Path, table: Table, prefix: str) -> list[Plot]:
    """Writes `folder/PREFIX_NAME.png` of every chart that the runs have figures for."""
    cells, bases = leading(table), [row for row in table.rows if row.is_base]
    left_out = (
        f" The {len(cells)} of {len(table.cells)} cells that lead in {short(table.metrics[0])}."
        if len(cells) < len(table.cells)
        else ""
    )
    found = [
        Plot(name, caption + left_out, chart)
        for name, caption, chart in _charts(table, cells, bases)
        if chart is not None
    ]
    for plot in found:
        charts.picture(plot.chart, folder / f"{prefix}{plot.name.replace('@', '_').replace('/', '_')}.png")
    return found


def _charts(
    table: Table, cells: Sequence[TableRow], bases: Sequence[TableRow]
) -> Iterator[tuple[str, str, Chart | None]]:
    """Name, caption and chart, which is None where the runs lack its figures."""
    seeds_only = "95 % intervals over seeds alone, rows not covered"
    for metric in table.metrics:
        caption = f"{short(metric)} by step, tokens and seconds: means with {seeds_only}."
        yield short(metric), caption, _course(cells, metric)
    if table.incomparable is None:
        caption = (
            f"Feature-matching loss after training, by rollout length, {seeds_only}; dotted: the length in training."
        )
        yield "feature_matching_by_horizon", caption, _by_horizon([*bases, *cells], table.trained_length)
        caption = "Whether cross-entropy follows the feature-matching loss: means from evaluation to evaluation."
        yield "losses", caption, _losses(cells, f"{LOSS}{table.trained_length}")
    for metric in (metric for metric in table.metrics if in_own_set(metric) == ENTROPY != metric):
        caption = (
            f"{short(metric)} against the run's own cross_entropy: what a method knows elsewhere when it knows as much "
            "here."
        )
        yield f"elsewhere_{short(metric)}", caption, _losses(cells, metric)
    caption = (
        "Entropy of the model's own answers minus its loss on the real ones, by token of the answer; 0 is calibrated."
    )
    yield "calibration", caption, _calibration([*bases, *cells])


def leading(table: Table) -> Sequence[TableRow]:
    """The cells to show: all, or those best in the table's first metric, in the table's order."""
    if len(table.cells) <= MAX_CELLS or not table.metrics:
        return table.cells
    metric = table.metrics[0]
    sign = 1 if lower_is_better(metric) else -1

    def rank(row: TableRow) -> float:
        figure = row.figures[metric].estimate
        return float("inf") if figure is None else sign * figure.mean

    kept = {row.name for row in sorted(table.cells, key=rank)[:MAX_CELLS]}
    return [row for row in table.cells if row.name in kept]


def course(outcomes: Sequence[RunResult], metric: str, place: str) -> list[Point]:
    """Means over the runs of a cell, by the steps at which all runs of a cell were evaluated; `place` is what the
    metric is drawn against."""
    by_step = [
        {int(row["step"]): row for row in outcome.course if metric in row and place in row} for outcome in outcomes
    ]
    steps = sorted(set(by_step[0]).intersection(*by_step[1:]))
    points = []
    for step in steps:
        rows = [rows[step] for rows in by_step]
        value = estimate([row[metric] for row in rows])
        assert value is not None
        points.append(Point(sum(row[place] for row in rows) / len(rows), value))
    return points


def _course(cells: Sequence[TableRow], metric: str) -> Chart | None:
    panels = [
        Panel(label, [_line(row, course(row.outcomes, metric, place), number) for number, row in enumerate(cells)])
        for place, label in PLACES.items()
    ]
    if not any(line.points for line in panels[0].lines):
        return None
    return Chart(short(metric), short(metric), panels, is_share=is_share(metric), wide=True)


def _line(row: TableRow, points: Sequence[Point], number: int) -> Line:
    spread = [(point.place, point.value.mean, point.value.half_width) for point in points]
    return Line(row.name, spread, **charts.many(number))


def _by_horizon(rows: Sequence[TableRow], trained_length: int | None) -> Chart | None:
    lengths = plots.numbers((name for row in rows for metrics in row.finals for name in metrics), LOSS)
    place = None if trained_length is None or trained_length not in lengths else float(lengths.index(trained_length))
    lines = _by_length(rows, lengths, lambda metrics, length: metrics.get(f"{LOSS}{length}"))
    panel = Panel("horizon G (tokens)", lines, [str(length) for length in lengths])
    title, value = "Feature-matching loss by horizon", "feature-matching loss"
    return Chart(title, value, [panel], place=place, wide=True) if lengths else None


def _calibration(rows: Sequence[TableRow]) -> Chart | None:
    depths = plots.numbers((name for row in rows for metrics in row.finals for name in metrics), plots.ENTROPY)

    def gap(metrics: Mapping[str, float], depth: int) -> float | None:
        pair = f"{plots.ENTROPY}{depth}", f"{plots.TEXT_ENTROPY}{depth}"
        return metrics[pair[0]] - metrics[pair[1]] if all(name in metrics for name in pair) else None

    lines = _by_length(rows, depths, gap)
    panel = Panel("token of the answer", lines, [str(depth) for depth in depths])
    value = "entropy minus loss (nats)"
    return Chart("Calibration by depth", value, [panel], level=0.0, wide=True) if depths else None


Measured = Callable[[Mapping[str, float], int], float | None]  # of metrics and a length


def _by_length(rows: Sequence[TableRow], lengths: Sequence[int], measured: Measured) -> list[Line]:
    """The final figures of every cell, and a base's before training, by a length in tokens, with 95 % intervals over
    seeds."""
    num_bases, lines = sum(row.is_base for row in rows), []
    for number, row in enumerate(rows):
        points = []
        for place, length in enumerate(lengths):
            values = [measured(metrics, length) for metrics in row.finals]
            found = estimate([value for value in values if value is not None])
            if found is not None:
                points.append((charts.beside(place, number, len(rows)), found.mean, found.half_width))
        look = {"colour": None, "dash": number % len(charts.DASHES)} if row.is_base else charts.many(number - num_bases)
        lines.append(Line(row.name, points, bars=True, **look))
    return lines


def _losses(cells: Sequence[TableRow], loss: str) -> Chart | None:
    """The run's own cross-entropy against another loss, from evaluation to evaluation, and where each run ended."""
    lines = []
    for number, row in enumerate(cells):
        if not all(loss in outcome.final and ENTROPY in outcome.final for outcome in row.outcomes):
            continue
        means = [(point.place, point.value.mean, None) for point in course(row.outcomes, ENTROPY, loss)]
        ends = [(outcome.final[loss], outcome.final[ENTROPY], None) for outcome in row.outcomes]
        lines.append(Line(row.name, means, **charts.many(number)))
        lines.append(Line(row.name, ends, **charts.many(number), joined=False))
    value = "cross_entropy (nats per token)"
    return Chart(f"cross_entropy by {short(loss)}", value, [Panel(short(loss), lines)], wide=True) if lines else None
