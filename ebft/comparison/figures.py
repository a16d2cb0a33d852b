"""The plots of a table: every metric by step and by cost, feature matching by horizon, calibration by depth, one loss
against the other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebft.comparison.runs import SECONDS, TOKENS, RunResult
from ebft.comparison.statistics import Estimate, estimate
from ebft.comparison.tables import LOSS, Table, TableRow
from ebft.output.metric_names import family, in_own_set, lower_is_better, short
from ebft.output.visible import visible
from ebft.report import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (*plots.COLOURS, "#e69f00", "#56b4e9", "#8c564b", "#7f7f7f")  # after Okabe and Ito, then brown and grey
LINES = ("-", "--", ":")
MAX_CELLS = 12  # in one plot
ENTROPY = "eval/cross_entropy"
PLACES = {"step": "optimiser steps", TOKENS: "tokens forwarded in training", SECONDS: "seconds of training"}


@dataclass(frozen=True)
class Plot:
    name: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Point:
    """All runs of a cell at one evaluation: mean place, and the metric's estimate over seeds."""

    place: float
    value: Estimate


def draw(folder: Path, table: Table, prefix: str) -> list[Plot]:
    """Writes `folder/PREFIX_NAME.png` of every plot that the runs have figures for."""
    import matplotlib

    cells = leading(table)
    bases = [row for row in table.rows if row.is_base]
    left_out = (
        f" The {len(cells)} of {len(table.cells)} cells that lead in {short(table.metrics[0])}."
        if len(cells) < len(table.cells)
        else ""
    )
    with matplotlib.rc_context(plots.STYLE):
        figures: dict[str, tuple[str, Figure | None]] = {
            short(metric): (
                f"{short(metric)} by step, tokens and seconds: means with 95 % intervals over seeds alone.",
                _course(cells, metric),
            )
            for metric in table.metrics
        }
        if table.incomparable is None:
            figures["feature_matching_by_horizon"] = (
                "Feature-matching loss after training, by rollout length, 95 % intervals over seeds alone; dotted: "
                "the length in training.",
                _by_horizon([*bases, *cells], table.trained_length),
            )
            figures["losses"] = (
                "Whether cross-entropy follows the feature-matching loss: means from evaluation to evaluation.",
                _losses(table, cells, f"{LOSS}{table.trained_length}"),
            )
        for metric in (metric for metric in table.metrics if in_own_set(metric) == ENTROPY != metric):
            figures[f"elsewhere_{short(metric)}"] = (
                f"{short(metric)} against the run's own cross_entropy: what a method knows elsewhere when it knows as "
                "much here.",
                _losses(table, cells, metric),
            )
        figures["calibration"] = (
            "Entropy of the model's own answers minus its loss on the real ones, by token of the answer; 0 is "
            "calibrated.",
            _calibration([*bases, *cells]),
        )
        return [
            Plot(
                name,
                caption + left_out,
                plots.save(figure, folder, f"{prefix}{name.replace('@', '_').replace('/', '_')}"),
            )
            for name, (caption, figure) in figures.items()
            if figure is not None
        ]


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


def _plain(label: str) -> str:
    """Matplotlib leaves out labels that begin with _, and takes what is between dollars for mathematics."""
    return visible(label).replace("$", r"\$").removeprefix("_")


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


def _course(cells: Sequence[TableRow], metric: str) -> "Figure | None":
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    if not any(course(row.outcomes, metric, "step") for row in cells):
        return None
    figure = Figure(figsize=(10.4, 3.6), layout="constrained")
    panels = figure.subplots(1, len(PLACES), sharey=True)
    for axes, (place, label) in zip(panels, PLACES.items(), strict=True):
        for number, row in enumerate(cells):
            _band(axes, course(row.outcomes, metric, place), _plain(row.name), number)
        axes.set_xlabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    panels[0].set_ylabel(short(metric))
    _legend_above(figure, panels[0])
    return figure


def _band(axes: "Axes", points: Sequence[Point], label: str, number: int) -> None:
    places, means = [point.place for point in points], [point.value.mean for point in points]
    axes.plot(places, means, marker="o", markersize=3.5, linewidth=1.5, label=label, **_look(number))
    halves = [point.value.half_width or 0.0 for point in points]
    lower, upper = ([mean + sign * half for mean, half in zip(means, halves, strict=True)] for sign in (-1, 1))
    axes.fill_between(places, lower, upper, color=COLOURS[number % len(COLOURS)], alpha=0.14, linewidth=0)


def _look(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": LINES[number // len(COLOURS) % len(LINES)]}


def _legend_above(figure: "Figure", axes: "Axes") -> None:
    handles, labels = axes.get_legend_handles_labels()
    longest = max(map(len, labels), default=0)
    figure.legend(
        handles, labels, loc="outside upper left", ncols=max(1, min(len(labels), 140 // (longest + 6))), fontsize=9
    )


def _by_horizon(rows: Sequence[TableRow], trained_length: int | None) -> "Figure | None":
    lengths = plots.horizons({name: 0.0 for row in rows for metrics in row.finals for name in metrics})
    figure = _points(
        rows,
        lengths,
        lambda metrics, length: metrics.get(f"{LOSS}{length}"),
        "horizon G (tokens)",
        "feature-matching loss",
    )
    if figure is not None and trained_length in lengths:
        figure.axes[0].axvline(lengths.index(trained_length), color=plots.INK, linewidth=0.8, linestyle=":", zorder=0)
    return figure


def _calibration(rows: Sequence[TableRow]) -> "Figure | None":
    depths = sorted(
        {
            int(name.rpartition("@")[2])
            for row in rows
            for metrics in row.finals
            for name in metrics
            if _is_entropy(name)
        }
    )

    def gap(metrics: Mapping[str, float], depth: int) -> float | None:
        pair = f"{plots.ENTROPY}{depth}", f"{plots.TEXT_ENTROPY}{depth}"
        return metrics[pair[0]] - metrics[pair[1]] if all(name in metrics for name in pair) else None

    figure = _points(rows, depths, gap, "token of the answer", "entropy minus loss (nats)")
    if figure is not None:
        figure.axes[0].axhline(0, color=plots.INK, linewidth=0.8, linestyle=":", zorder=0)
    return figure


def _is_entropy(name: str) -> bool:
    return family(name) == plots.ENTROPY


Measured = Callable[[Mapping[str, float], int], float | None]  # of metrics and a length


def _points(
    rows: Sequence[TableRow], lengths: Sequence[int], measured: Measured, place_label: str, value_label: str
) -> "Figure | None":
    """The final figures of every cell, and a base's before training, by a length in tokens, with 95 % intervals over
    seeds."""
    from matplotlib.figure import Figure

    if not lengths:
        return None
    figure = Figure(figsize=(10.4, 3.8), layout="constrained")
    axes = figure.subplots()
    num_bases = sum(row.is_base for row in rows)
    for number, row in enumerate(rows):
        found = {place: [measured(metrics, length) for metrics in row.finals] for place, length in enumerate(lengths)}
        estimates = {
            place: estimate([value for value in values if value is not None]) for place, values in found.items()
        }
        shown = {place: value for place, value in estimates.items() if value is not None}
        look = (
            _look(number - num_bases)
            if not row.is_base
            else {"color": plots.INK, "linestyle": LINES[number % len(LINES)]}
        )
        shift = 0.5 * (number / max(1, len(rows) - 1) - 0.5)
        axes.errorbar(
            [place + shift for place in shown],
            [value.mean for value in shown.values()],
            [value.half_width or 0.0 for value in shown.values()],
            label=_plain(row.name), marker="o", markersize=4, capsize=2, linewidth=1.2, **look,
        )  # fmt: skip
    axes.set_xticks(range(len(lengths)), [str(length) for length in lengths])
    axes.set(xlabel=place_label, ylabel=value_label)
    _legend_above(figure, axes)
    return figure


def _losses(table: Table, cells: Sequence[TableRow], loss: str) -> "Figure | None":
    """The run's own cross-entropy against another loss, from evaluation to evaluation."""
    from matplotlib.figure import Figure

    entropy = ENTROPY
    measured = [
        row for row in cells if all(loss in outcome.final and entropy in outcome.final for outcome in row.outcomes)
    ]
    if not measured:
        return None
    figure = Figure(figsize=(10.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, row in enumerate(measured):
        means = course(row.outcomes, entropy, loss)
        axes.plot(
            [point.place for point in means],
            [point.value.mean for point in means],
            marker="o",
            markersize=3,
            linewidth=1.2,
            label=_plain(row.name),
            **_look(number),
        )
        ends = ([outcome.final[metric] for outcome in row.outcomes] for metric in (loss, entropy))
        axes.plot(*ends, "o", markersize=5, alpha=0.45, markeredgewidth=0, color=COLOURS[number % len(COLOURS)])
    axes.set(xlabel=short(loss), ylabel="cross_entropy (nats per token)")
    _legend_above(figure, axes)
    return figure
