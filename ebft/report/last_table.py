"""What a run says at its end in the terminal: its main figures in a fixed order, once each; the rest is in
`report.html`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ebft.output.metric_names import LOSS, WAYS, family, in_own_set, lower_is_better, short
from ebft.report.html_parts import quantity

HEADER = ("metric", "base", "final", "change", "standard error")
LEGEND = (
    "* changed by more than 1.96 standard errors over held-out documents; ↓ lower is better, ↑ higher; the report has "
    "all figures; pp: percentage points"
)
ARROWS = {True: " ↓", False: " ↑", None: ""}
NOISE = 1.96
RIGHT_ANSWERS = "eval/greedy"
# Kinds in their order; of the feature-matching loss the training length alone. What a user's own task measures comes
# before the last two.
ORDER = (
    "eval/cross_entropy", LOSS, "eval/greedy", "eval/score", "eval/pass@", "eval/parse_rate", "eval/exact_match",
    "eval/bleu", "eval/chrf", "own", "eval/truncated_share", "eval/verifier_errors",
)  # fmt: skip


def rows(summary: Mapping[str, Any], trained_length: int) -> list[tuple[str, ...]]:
    """Rows of HEADER from the summary's base, final, change and directions: the run's own held-out rows, then set by
    set. A figure that is 0 before and after is left out, but for that of right answers, and one that equals an earlier
    one of its set before and after. A dash stands for what was not measured."""
    return [_row(name, summary) for name in chosen(summary, trained_length)]


def chosen(summary: Mapping[str, Any], trained_length: int) -> list[str]:
    """The metrics that `rows` shows."""
    base, final, own = summary["base"], summary["final"], summary.get("directions", {})
    sets: dict[str, list[str]] = {}
    for name in (name for name in {**base, **final} if not name.endswith("_stderr")):
        sets.setdefault(name.removesuffix(in_own_set(name).removeprefix("eval/")), []).append(name)
    found: list[str] = []
    for names in sets.values():
        ranked = sorted((rank, name) for name in names if (rank := _rank(name, own, trained_length)) is not None)
        found += _distinct([name for _, name in ranked], base, final)
    return found


def shown(
    header: Sequence[str], summary: Mapping[str, Any], results: Sequence[tuple[str, ...]]
) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    """Header and rows, without the columns of what has not happened where nothing was evaluated after the base."""
    columns = len(header) if summary["final"] or not summary["base"] else header.index("final")
    return header[:columns], [row[:columns] for row in results]


def evaluated(summary: Mapping[str, Any]) -> str:
    """Of a run that ended early, what its figures are of; nothing for others."""
    if summary["status"] != "interrupted":
        return ""
    step = summary["evaluated"]
    return ", never evaluated" if step is None else f", evaluated last at step {step}"


def _rank(metric: str, own: Mapping[str, str], trained_length: int) -> int | None:
    """The place of a metric's kind; None for what the report alone shows."""
    kind = "own" if short(in_own_set(metric)) in own else family(metric)
    if kind not in ORDER or (kind == LOSS and in_own_set(metric) != f"{LOSS}{trained_length}"):
        return None
    return ORDER.index(kind)


def _distinct(names: list[str], base: Mapping[str, float], final: Mapping[str, float]) -> Iterator[str]:
    seen: set[tuple[float | None, float | None]] = {(0.0, 0.0), (None, 0.0), (0.0, None)}
    for name in names:
        pair = base.get(name), final.get(name)
        if pair not in seen or in_own_set(name) == RIGHT_ANSWERS:
            yield name
        seen.add(pair)


def _row(metric: str, summary: Mapping[str, Any]) -> tuple[str, ...]:
    change, error = (summary["change"].get(f"{metric}{suffix}") for suffix in ("", "_stderr"))
    return (
        f"{short(metric)}{ARROWS[lower(metric, summary)]}",
        quantity(metric, summary["base"].get(metric)),
        quantity(metric, summary["final"].get(metric)),
        quantity(metric, change, sign="+") + ("*" if is_beyond_noise(metric, summary) else ""),
        quantity(metric, error, sign="-"),
    )


def lower(metric: str, summary: Mapping[str, Any]) -> bool | None:
    """Whether lower is better, as the task of the run says it of its own."""
    way = summary.get("directions", {}).get(short(in_own_set(metric)))
    return lower_is_better(metric) if way is None else WAYS[way]


def is_beyond_noise(metric: str, summary: Mapping[str, Any]) -> bool:
    """Whether a metric has changed by more than NOISE standard errors over held-out documents."""
    change, error = (summary["change"].get(f"{metric}{suffix}") for suffix in ("", "_stderr"))
    return change is not None and error is not None and abs(change) > NOISE * error
