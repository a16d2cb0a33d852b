"""The charts of a run, and of several models beside each other. One whose metrics a run does not have is left out."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ebft.output.metric_names import LOSS
from ebft.output.tracking import Metrics
from ebft.report import charts
from ebft.report.charts import BLUE, GREEN, PURPLE, VERMILION, Chart, Line, Panel, Point

ENTROPY, TEXT_ENTROPY = "eval/entropy@", "eval/text_cross_entropy@"
STEP = "optimiser step"


def of_run(rows: Sequence[dict[str, Any]], base: Metrics, final: Metrics, generate_length: int) -> dict[str, Chart]:
    """By name, from the rows of metrics.jsonl and the evaluations before training and at the latest step."""
    models = {"base": base, "final": final}
    found = {
        "cross_entropy": _cross_entropy(rows),
        "feature_matching_by_step": _feature_matching_by_step(rows, generate_length),
        "feature_matching_by_horizon": _feature_matching_by_horizon(models),
        "calibration": _calibration(models),
        "reward": _reward(rows),
    }
    return {name: chart for name, chart in found.items() if chart is not None}


def compare(folder: Path, models: Mapping[str, Metrics]) -> None:
    """Feature matching by horizon and calibration by depth of several models, as `folder/NAME.png`."""
    found = {"feature_matching_by_horizon": _feature_matching_by_horizon(models), "calibration": _calibration(models)}
    for name, chart in found.items():
        if chart is not None:
            charts.picture(chart, folder / f"{name}.png")


def numbers(names: Iterable[str], prefix: str) -> list[int]:
    """The numbers behind a prefix, such as the horizons of a feature-matching loss, ascending, each once."""
    return sorted({int(name.removeprefix(prefix)) for name in names if re.fullmatch(re.escape(prefix) + r"\d+", name)})


def _by_step(title: str, value: str, lines: Sequence[Line]) -> Chart | None:
    measured = [line for line in lines if line.points]
    return Chart(title, value, [Panel(STEP, measured)]) if measured else None


def _cross_entropy(rows: Sequence[dict[str, Any]]) -> Chart | None:
    lines = [
        Line("training batches", _points(rows, "train/cross_entropy"), BLUE, marked=False),
        Line("held-out data", _points(rows, "eval/cross_entropy"), VERMILION),
    ]
    return _by_step("Cross-entropy", "nats per token", lines)


def _feature_matching_by_step(rows: Sequence[dict[str, Any]], generate_length: int) -> Chart | None:
    names = (name for row in rows for name in row)
    others = [length for length in numbers(names, LOSS) if length != generate_length]
    lines = [Line(f"G = {generate_length} (in training)", _points(rows, f"{LOSS}{generate_length}"), VERMILION)]
    for number, length in enumerate(others):
        points: list[Point] = [(place, value, None) for place, value, _ in _points(rows, f"{LOSS}{length}")]
        lines.append(Line(f"G = {length}", points, **charts.many(number + 2), marked=False))
    return _by_step("Feature-matching loss by step", "held-out loss", lines)


def _feature_matching_by_horizon(models: Mapping[str, Metrics]) -> Chart | None:
    lengths = numbers((name for metrics in models.values() for name in metrics), LOSS)
    lines = [
        Line(label, by_length(metrics, LOSS, lengths, number, len(models)), number, bars=True)
        for number, (label, metrics) in enumerate(models.items())
    ]
    if not lengths:
        return None
    panel = Panel("horizon G (tokens)", lines, [str(length) for length in lengths])
    return Chart("Feature-matching loss by horizon", "held-out loss", [panel])


def by_length(metrics: Metrics, prefix: str, lengths: Sequence[int], number: int, total: int) -> list[Point]:
    """One model's points with their errors, a little beside the other models'."""
    return [
        (charts.beside(place, number, total), metrics[f"{prefix}{length}"], metrics.get(f"{prefix}{length}_stderr"))
        for place, length in enumerate(lengths)
        if f"{prefix}{length}" in metrics
    ]


def _calibration(models: Mapping[str, Metrics]) -> Chart | None:
    """Entropy of the model's own answers against its loss on the real ones, token by token: equal where it is
    calibrated."""
    depths = numbers((name for metrics in models.values() for name in metrics), ENTROPY)
    if not depths:
        return None
    lines = []
    for number, (label, metrics) in enumerate(models.items()):
        own, real = (by_length(metrics, prefix, depths, number, len(models)) for prefix in (ENTROPY, TEXT_ENTROPY))
        lines.append(Line(f"{label}: entropy of its own", own, number, bars=True))
        lines.append(Line(f"{label}: loss on the real ones", real, number, dash=1, bars=True))
    return Chart("Calibration by depth", "nats", [Panel("token of the answer", lines, [str(each) for each in depths])])


def _reward(rows: Sequence[dict[str, Any]]) -> Chart | None:
    parts = {
        "reward": ("train/reward", VERMILION, 0),
        "alignment": ("train/alignment", BLUE, 0),
        "diversity": ("train/diversity", GREEN, 0),
        "advantage, standard deviation": ("train/advantage_std", PURPLE, 1),
    }
    lines = [
        Line(label, _points(rows, name), colour, dash, marked=False) for label, (name, colour, dash) in parts.items()
    ]
    return _by_step("Reward and its parts", "mean over rollouts", lines)


def _points(rows: Sequence[dict[str, Any]], name: str) -> list[Point]:
    """A metric by step, with its standard error where the rows hold one."""
    found = [(row["step"], row[name], row.get(f"{name}_stderr")) for row in rows if name in row]
    assert all(before[0] <= after[0] for before, after in pairwise(found)), f"{name} runs backwards"
    return found
