"""The figures of a run, each as SVG for the report and as PNG in `plots/`. A figure whose metrics a run does not have
is left out.

Text and axes are drawn in one placeholder colour, which the SVG turns into `currentColor`, so that it follows a light
or dark page.
"""

import io
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebft.output.files import atomic_file
from ebft.output.tracking import Metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#24292f"
BLUE, VERMILION, GREEN, PURPLE = (
    "#2a7fba",
    "#d55e00",
    "#009e73",
    "#b8659a",
)  # after Okabe and Ito; told apart with any colour vision
COLOURS = (BLUE, VERMILION, GREEN, PURPLE)
LOSS, ENTROPY, TEXT_ENTROPY = "eval/feature_matching_loss@", "eval/entropy@", "eval/text_cross_entropy@"
STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": "none",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "ebft",
}


def write(
    folder: Path, rows: Sequence[dict[str, Any]], base: Metrics, final: Metrics, generate_length: int
) -> dict[str, str]:
    """Draws what the rows of metrics.jsonl hold, writes `folder/NAME.png` and returns the SVG of each name."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figures = {
            "cross_entropy": _cross_entropy(rows),
            "feature_matching_by_step": _feature_matching_by_step(rows, generate_length),
            "feature_matching_by_horizon": _feature_matching_by_horizon({"base": base, "final": final}),
            "calibration": _calibration({"base": base, "final": final}),
            "reward": _reward(rows),
        }
        return {name: save(figure, folder, name) for name, figure in figures.items() if figure is not None}


def compare(folder: Path, models: Mapping[str, Metrics]) -> None:
    """Feature matching by horizon and calibration by depth of several models, as `folder/NAME.png`."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figures = {
            "feature_matching_by_horizon": _feature_matching_by_horizon(models),
            "calibration": _calibration(models),
        }
        for name, figure in figures.items():
            if figure is not None:
                save(figure, folder, name)


def horizons(metrics: Metrics) -> list[int]:
    """The horizons at which the metrics hold a feature-matching loss, ascending."""
    return sorted(int(name.removeprefix(LOSS)) for name in metrics if re.fullmatch(LOSS + r"\d+", name))


def _cross_entropy(rows: Sequence[dict[str, Any]]) -> "Figure | None":
    if not any("eval/cross_entropy" in row or "train/cross_entropy" in row for row in rows):
        return None
    figure, axes = new_axes("Cross-entropy", "nats per token")
    _line(axes, rows, "train/cross_entropy", "training batches", BLUE, alpha=0.55, linewidth=1)
    _line(axes, rows, "eval/cross_entropy", "held-out data", VERMILION, marker="o")
    legend(axes)
    return figure


def _feature_matching_by_step(rows: Sequence[dict[str, Any]], generate_length: int) -> "Figure | None":
    lengths = horizons({name: 0 for row in rows for name in row})
    if not lengths:
        return None
    import matplotlib

    figure, axes = new_axes("Feature-matching loss by step", "held-out loss")
    shade = matplotlib.colormaps["viridis"]
    for place, length in reversed(list(enumerate(lengths))):
        if length == generate_length:
            _line(axes, rows, f"{LOSS}{length}", f"G = {length} (in training)", VERMILION, marker="o", zorder=3)
        else:
            _line(
                axes,
                rows,
                f"{LOSS}{length}",
                f"G = {length}",
                shade(0.3 + 0.5 * place / len(lengths)),
                band=False,
                linewidth=1.2,
            )
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _feature_matching_by_horizon(models: Mapping[str, Metrics]) -> "Figure | None":
    lengths = horizons({name: 0.0 for metrics in models.values() for name in metrics})
    if not lengths:
        return None
    figure, axes = new_axes("Feature-matching loss by horizon", "held-out loss", "horizon G (tokens)")
    for place, (label, metrics) in enumerate(models.items()):
        _by_length(axes, metrics, LOSS, lengths, label, place, len(models))
    axes.set_xticks(range(len(lengths)), [str(length) for length in lengths])
    legend(axes)
    return figure


def _by_length(
    axes: "Axes", metrics: Metrics, prefix: str, lengths: Sequence[int], label: str, place: int, num: int, **style: Any
) -> None:
    """One model's points with their errors, a little beside the other models'."""
    measured = [length for length in lengths if f"{prefix}{length}" in metrics]
    if measured:
        places = [lengths.index(length) + 0.12 * (place - (num - 1) / 2) for length in measured]
        values = [metrics[f"{prefix}{length}"] for length in measured]
        errors = [metrics.get(f"{prefix}{length}_stderr", 0.0) for length in measured]
        colour = COLOURS[place % len(COLOURS)]
        axes.errorbar(
            places,
            values,
            errors,
            label=label,
            color=colour,
            marker="o",
            markersize=5,
            capsize=3,
            **({"linewidth": 1.5} | style),
        )


def _calibration(models: Mapping[str, Metrics]) -> "Figure | None":
    """Entropy of the model's own answers against its loss on the real ones, token by token: equal where it is
    calibrated."""
    depths = sorted(
        {
            int(name.rpartition("@")[2])
            for metrics in models.values()
            for name in metrics
            if re.fullmatch(ENTROPY + r"\d+", name)
        }
    )
    if not depths:
        return None
    figure, axes = new_axes("Calibration by depth", "nats", "token of the answer", num_legend_lines=len(models))
    for place, (label, metrics) in enumerate(models.items()):
        _by_length(axes, metrics, ENTROPY, depths, f"{label}: entropy of its own", place, len(models))
        _by_length(
            axes, metrics, TEXT_ENTROPY, depths, f"{label}: loss on the real ones", place, len(models), linestyle="--"
        )
    axes.set_xticks(range(len(depths)), [str(depth) for depth in depths])
    legend(axes, columns=2)
    return figure


def _reward(rows: Sequence[dict[str, Any]]) -> "Figure | None":
    if not any("train/reward" in row for row in rows):
        return None
    figure, axes = new_axes("Reward and its parts", "mean over rollouts")
    _line(axes, rows, "train/alignment", "alignment", BLUE)
    _line(axes, rows, "train/diversity", "diversity", GREEN)
    _line(axes, rows, "train/reward", "reward", VERMILION, linewidth=2)
    _line(axes, rows, "train/advantage_std", "advantage, standard deviation", PURPLE, linestyle="--")
    legend(axes)
    return figure


def new_axes(
    title: str, value_label: str, place_label: str = "optimiser step", num_legend_lines: int = 1
) -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.set(ylabel=value_label, xlabel=place_label)
    axes.set_title(title, pad=14 + 14 * num_legend_lines)
    if place_label == "optimiser step":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes


def _line(
    axes: "Axes", rows: Sequence[dict[str, Any]], name: str, label: str, colour: Any, band: bool = True, **style: Any
) -> None:
    """A metric by step, with its standard error as a band where the rows hold one. Nothing where no row holds the
    metric."""
    points = [row for row in rows if name in row]
    if not points:
        return
    steps, values = [row["step"] for row in points], [row[name] for row in points]
    assert all(before <= after for before, after in pairwise(steps)), f"{name} runs backwards"
    axes.plot(
        steps,
        values,
        **({"linewidth": 1.6, "markersize": 4, "marker": "o" if len(points) == 1 else None} | style),
        color=colour,
        label=label,
    )
    if band and all(f"{name}_stderr" in row for row in points):
        errors = [row[f"{name}_stderr"] for row in points]
        lower, upper = ([value + sign * error for value, error in zip(values, errors, strict=True)] for sign in (-1, 1))
        axes.fill_between(steps, lower, upper, color=colour, alpha=0.18, linewidth=0)


def legend(axes: "Axes", columns: int = 4) -> None:
    """Lines of labels between title and axes."""
    if axes.get_legend_handles_labels()[1]:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(-0.01, 1),
            ncols=columns,
            borderpad=0,
            handlelength=1.5,
            columnspacing=1.2,
            fontsize=9,
        )


def save(figure: "Figure", folder: Path, name: str) -> str:
    with atomic_file(folder / f"{name}.png") as file:
        figure.savefig(file, format="png", dpi=120, facecolor="white")
    figure.set_layout_engine("none")  # what was laid out for the one stays for the other
    text = io.StringIO()
    figure.savefig(
        text, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    # ids are per page, and a page holds several figures
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
