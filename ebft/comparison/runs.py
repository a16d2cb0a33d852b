"""Run folders read for a comparison: what was configured, what came out, and what is missing."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from ebft.config.identity import flat
from ebft.config.schema import UserError
from ebft.config.stored import read_config, text_of
from ebft.output import row_scores
from ebft.output.files import read_rows
from ebft.output.metric_names import add_own
from ebft.output.row_scores import RowScores

CONFIG, METRICS, SUMMARY = "config.yaml", "metrics.jsonl", "summary.json"
FROM_RUN = "run:"  # model.path=run:NAME, of a run that starts from another's model
TOKENS, SECONDS = "cost/tokens_forwarded", "cost/seconds"  # until an evaluation
FIELDS = {"status", "base", "final", "tokens_forwarded", "train_seconds"}  # of a summary, that are read here
KEYS = {  # of a config, that are read here
    "seed", "method.name", "model.path", "model.revision", "model.init", "data.source", "data.task",
    "features.feature_layers", "features.embed_method", "features.normalize", "features.whitening", "features.network",
    "features.path", "sampler.anchors", "sampler.generate_length", "eval.horizons", "eval.num_questions",
    "eval.num_completions", "eval.pass_at",
}  # fmt: skip
REWRITE = "take its folder out of the comparison, or run it again"
NOT_OURS = "was not written by this version of ebft-train"


@dataclass(frozen=True)
class Planned:
    """A run of a sweep's plan, or one that was found."""

    folder: str  # below the sweep's
    variant: str  # the name of its grid, or nothing
    keys: Mapping[str, str] | None  # its values on the sweep's axes; None where it was found without a plan
    # flat; model.path is run:FOLDER where it starts from another run's model
    config: Mapping[str, Any] = field(repr=False)
    note: str = ""  # why it is not done

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def starts_from(self) -> str | None:
        """The folder of the run whose model this one starts from."""
        path = str(self.config["model.path"])
        return path.removeprefix(FROM_RUN) if path.startswith(FROM_RUN) else None


@dataclass(frozen=True)
class RunResult:
    """A finished run. Where it starts from another run's model, its base and its cost are counted from where that one
    started."""

    plan: Planned
    base: Mapping[str, float]  # the evaluation of the model before any training
    final: Mapping[str, float]
    tokens: float  # forwarded in training
    seconds: float  # of training alone
    course: Sequence[Mapping[str, float]]  # every evaluation: step, metrics and cost until then
    base_rows: Mapping[str, RowScores] = field(repr=False)  # by metric; empty where the run kept none
    final_rows: Mapping[str, RowScores] = field(repr=False)
    steps: int | None  # of the optimiser; None where the summary is of an older version
    root: Mapping[str, Any]  # config of the run that the base belongs to, its own or the one it starts from

    @property
    def seed(self) -> int:
        return self.plan.seed


def read(directory: Path, planned: Sequence[Planned] | None) -> tuple[list[Planned], dict[str, RunResult]]:
    """Every run, with why it is not done, and the finished ones by folder. Without a plan every run folder below
    `directory` counts, but for links. Raises UserError."""
    plans = _linked(directory, list(_found(directory))) if planned is None else list(planned)
    outcomes: dict[str, RunResult] = {}
    noted = []
    for plan in plans:
        found = _read_marked(directory, plan)
        noted.append(plan if isinstance(found, RunResult) else found)
        if isinstance(found, RunResult):
            outcomes[plan.folder] = found
    if not outcomes and planned is None:
        raise UserError(
            f"sweep.dir={directory} holds no finished run{f', but {len(plans)} begun' if plans else ''}; name a "
            "folder of runs."
        )
    return noted, {folder: _from_the_start(outcome, outcomes) for folder, outcome in outcomes.items()}


def _found(directory: Path) -> Iterator[Planned]:
    """Every folder with a config and something of a run, in order of their names."""

    def refuse(error: OSError) -> NoReturn:
        raise UserError(
            f"{error.filename} cannot be read ({error.strerror}); put that right, or compare a folder without it."
        ) from error

    for folder, inner, names in os.walk(directory, onerror=refuse):
        inner.sort()
        if CONFIG in names and (METRICS in names or SUMMARY in names):
            inner.clear()
            yield Planned(os.path.relpath(folder, directory), "", None, _config(Path(folder) / CONFIG))


def _linked(directory: Path, plans: list[Planned]) -> list[Planned]:
    """The plans, of which those that start from the model of another of them, or from its folder, say so."""
    folders = {plan.folder: directory / plan.folder for plan in plans}
    models = {str(path.resolve()): name for name, folder in folders.items() for path in (folder, folder / "model")}

    def link(plan: Planned) -> Planned:
        start = models.get(str(Path(plan.config["model.path"]).resolve()), plan.folder)
        return plan if start == plan.folder else replace(plan, config={**plan.config, "model.path": FROM_RUN + start})

    return [link(plan) for plan in plans]


def _from_the_start(
    outcome: RunResult, outcomes: Mapping[str, RunResult], after: frozenset[str] = frozenset()
) -> RunResult:
    """The run with what came before it, where it starts from others. Raises UserError where it starts from itself,
    which only a file that nobody's run has written says."""
    start = outcomes.get(outcome.plan.starts_from or "")
    if start is None:
        return outcome
    after |= {outcome.plan.folder}
    if start.plan.folder in after:
        raise UserError(f"{start.plan.folder} starts from its own model; take it out of the comparison.")
    first = _from_the_start(start, outcomes, after)
    course = [
        {
            **row,
            **{
                cost: row[cost] + total
                for cost, total in ((TOKENS, first.tokens), (SECONDS, first.seconds))
                if cost in row
            },
        }
        for row in outcome.course
    ]
    return replace(
        outcome,
        base=first.base,
        base_rows=first.base_rows,
        root=first.root,
        tokens=outcome.tokens + first.tokens,
        seconds=outcome.seconds + first.seconds,
        course=course,
    )


def _read_marked(directory: Path, plan: Planned) -> RunResult | Planned:
    """As `_read`; a run of a sweep's plan that is damaged says so where it has no result, and leaves the others
    readable."""
    try:
        return _read(directory, plan)
    except UserError as error:
        if plan.keys is None:
            raise
        return replace(plan, note=plan.note or f"damaged: {error}")


def _read(directory: Path, plan: Planned) -> RunResult | Planned:
    folder = directory / plan.folder
    summary = _summary(folder / SUMMARY)
    if summary is None or summary["status"] != "completed":
        return plan if plan.note else replace(plan, note=_why(summary))
    add_own(summary.get("directions", {}))
    course = read_rows(folder / METRICS, mentioning='"eval/')
    return RunResult(
        plan,
        summary["base"],
        summary["final"],
        summary["tokens_forwarded"],
        summary["train_seconds"],
        course,
        _rows(folder, row_scores.BASE),
        _rows(folder, row_scores.LATEST),
        summary.get("steps"),
        plan.config,
    )


def _rows(folder: Path, name: str) -> dict[str, RowScores]:
    """Scores by held-out row, by metric."""
    found = row_scores.read(folder / row_scores.FOLDER / name) or []
    return {scores.metric: scores for scores in found if scores.draw is None}


def _why(summary: Mapping[str, Any] | None) -> str:
    return (
        "going on, or killed"
        if summary is None
        else f"{summary['status']}: {summary.get('error', 'stopped before its end')}"
    )


def _config(path: Path) -> dict[str, Any]:
    """Flat."""
    config = flat(read_config(path, REWRITE, NOT_OURS))
    return config if config.keys() >= KEYS else _refuse(path)


def _summary(path: Path) -> dict[str, Any] | None:
    """The run's summary; None where there is none: a run that goes on takes it away."""
    try:
        summary = json.loads(text_of(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError):  # ValueError: no JSON, or no UTF-8
        _refuse(path)
    is_ours = (
        isinstance(summary, dict)
        and summary.keys() >= FIELDS
        and isinstance(summary["base"], dict)
        and isinstance(summary["final"], dict)
        and isinstance(summary.get("steps", 0), int)
        and isinstance(summary.get("directions", {}), dict)
        and all(isinstance(way, str) for way in summary.get("directions", {}).values())
    )
    return summary if is_ours else _refuse(path)


def _refuse(path: Path) -> NoReturn:
    raise UserError(f"{path} {NOT_OURS}; {REWRITE}.")
