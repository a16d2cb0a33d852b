"""How a step's seconds grow with the row's length, the rows and the rollouts, beside what its arithmetic says."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from benchmark_contenders import FEATURES, OURS, Runs, Setting, race
from benchmark_models import Sizes, multiply_adds, supervised_multiply_adds
from transformers import PreTrainedModel

from ebft.objective.features import tap_indices

LENGTHS, DOCUMENTS, SAMPLES = (256, 512, 1024, 2048, 4096), (1, 2, 4), (2, 4, 8)
LENGTH_OF_OTHERS = 512
HEADER = (
    "grows",
    "T",
    "rows",
    "N",
    "reuse",
    "share reused",
    "tokens",
    "seconds",
    "times before",
    "G multiply-adds",
    "seconds / multiply-adds",
)

Point = tuple[str, int, int, int]  # what grows, T, B, N


def points(n_samples: int) -> list[Point]:
    """One row and `n_samples` rollouts, but for what grows."""
    return [
        *(("T", length, 1, n_samples) for length in LENGTHS),
        *(("rows", LENGTH_OF_OTHERS, num_documents, n_samples) for num_documents in DOCUMENTS),
        *(("N", LENGTH_OF_OTHERS, 1, n_samples) for n_samples in SAMPLES),
    ]


def measure_growth(model: PreTrainedModel, setting: Setting, repetitions: int) -> Iterator[dict[str, Any]]:
    """A line for every point, without reuse and with it. The last figure is relative to the first line of the same
    reuse: 1 is linear growth."""
    first: dict[str, float] = {}
    before: dict[str, float] = {}
    grows = ""
    for point in points(setting.n_samples):
        if point[0] != grows:
            before, grows = {}, point[0]
        _, length, num_documents, n_samples = point
        here = replace(setting, num_documents=num_documents, n_samples=n_samples)
        for name, runs in race(OURS, model, here, here.rows(model, length), repetitions).items():
            seconds, work = runs.seconds["step"], arithmetic(model, here, length, name, runs)
            pace = seconds / work
            yield {
                "grows": grows,
                "T": length,
                "rows": num_documents,
                "N": n_samples,
                "contender": name,
                "reused_share": runs.reused_share,
                "tokens_forwarded": runs.tokens["step"],
                "seconds": seconds,
                "seconds_over_line_before": seconds / before[name] if name in before else None,
                "multiply_adds": work,
                "seconds_over_multiply_adds": pace / first.setdefault(name, pace),
            }
            before[name] = seconds


def arithmetic(model: PreTrainedModel, setting: Setting, length: int, name: str, runs: Runs) -> float:
    """Multiply-adds of a step of `ours` or `reuse` at the share that it reused."""
    num_layers = model.config.num_hidden_layers
    depth = max(tap_indices(list(FEATURES.feature_layers), num_layers)) / num_layers
    assert runs.reused_share is not None
    live, is_kept = 1 - runs.reused_share, setting.is_one_micro_batch(length)
    return setting.num_documents * multiply_adds(
        Sizes.of(model), setting.sampler(name == "reuse"), length, depth, live, is_kept
    )


def work_of(model: PreTrainedModel, setting: Setting, length: int, name: str, runs: Runs) -> float | None:
    """Multiply-adds of a step of any contender; the twin's are not counted."""
    if name == "sft":
        return setting.num_documents * supervised_multiply_adds(Sizes.of(model), length)
    return arithmetic(model, setting, length, name, runs) if name in OURS else None


def growth_row(line: dict[str, Any]) -> list[str]:
    before = line["seconds_over_line_before"]
    return [
        line["grows"],
        *(str(line[name]) for name in ("T", "rows", "N")),
        "on" if line["contender"] == "reuse" else "off",
        f"{line['reused_share']:.2f}",
        f"{line['tokens_forwarded']:,.0f}",
        f"{line['seconds']:.3f}",
        "" if before is None else f"{before:.2f}",
        f"{line['multiply_adds'] / 1e9:,.1f}",
        f"{line['seconds_over_multiply_adds']:.2f}",
    ]


def in_order(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What grows stands together, without reuse first."""
    return sorted(lines, key=lambda line: (("T", "rows", "N").index(line["grows"]), OURS.index(line["contender"])))
