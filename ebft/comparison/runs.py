"""Run folders read for a comparison: what was configured, what came out, and what is missing."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import yaml

from ebft.config import UserError
from ebft.files import read_rows
from ebft.identity import flat

CONFIG, METRICS, SUMMARY = "config.yaml", "metrics.jsonl", "summary.json"
TOKENS, SECONDS = "cost/tokens_forwarded", "cost/seconds"  # until an evaluation
FIELDS = {"status", "base", "final", "tokens_forwarded", "train_seconds"}  # of a summary, that are read here
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, where PyYAML was built with it, reads ten times as fast


@dataclass(frozen=True)
class Planned:
    """A run of a sweep's plan."""

    folder: str  # below the sweep's
    variant: str  # the name of its grid, or nothing
    keys: Mapping[str, str]  # its values on the sweep's axes
    seed: int
    note: str = ""  # why it is not done
    config: Mapping[str, Any] | None = field(default=None, repr=False)  # flat; None where it is to be read from the run folder


@dataclass(frozen=True)
class Outcome:
    """A finished run."""

    plan: Planned
    config: Mapping[str, Any]  # flat
    base: Mapping[str, float]  # its evaluation before training
    final: Mapping[str, float]
    tokens: float  # forwarded in training
    seconds: float  # of training alone
    course: Sequence[Mapping[str, float]]  # every evaluation: step, metrics and cost until then

    @property
    def seed(self) -> int:
        return self.plan.seed


def read(directory: Path, planned: Sequence[Planned] | None) -> tuple[list[Outcome], list[Planned]]:
    """Finished runs and those that are not, with why. Without a plan every run folder below `directory` counts. Raises UserError."""
    outcomes, missing = [], []
    for plan in _found(directory) if planned is None else planned:
        outcome = _read(directory, plan)
        if isinstance(outcome, Outcome):
            outcomes.append(outcome)
        else:
            missing.append(outcome)
    if not outcomes and planned is None:
        raise UserError(f"sweep.dir={directory} holds no finished run{f', but {len(missing)} begun' if missing else ''}; name a folder of runs.")
    return outcomes, missing


def _found(directory: Path) -> Iterator[Planned]:
    """Every folder with a config and metrics, in order of their names."""
    for folder, inner, names in os.walk(directory):
        inner.sort()
        if CONFIG in names and METRICS in names:
            inner.clear()
            yield Planned(os.path.relpath(folder, directory), "", {}, seed=0)


def _read(directory: Path, plan: Planned) -> Outcome | Planned:
    folder = directory / plan.folder
    config = _config(folder / CONFIG)
    summary = _summary(folder / SUMMARY)
    if config is None or summary is None or summary["status"] != "completed":
        note = plan.note or ("going on, or killed" if summary is None else f"{summary['status']}: {summary.get('error', 'stopped before its end')}")
        return replace(plan, note=note, config=config, seed=plan.seed if config is None else config["seed"])
    course = read_rows(folder / METRICS, mentioning='"eval/')
    plan = replace(plan, config=config, seed=config["seed"])
    return Outcome(plan, config, summary["base"], summary["final"], summary["tokens_forwarded"], summary["train_seconds"], course)


def _config(path: Path) -> dict[str, Any] | None:
    """Flat; None where there is no file."""
    if not path.is_file():
        return None
    try:
        nested = yaml.load(path.read_text(encoding="utf-8"), LOADER)
    except (yaml.YAMLError, UnicodeDecodeError):
        return _refuse(path)
    config = flat(nested) if isinstance(nested, dict) else {}
    return config if {"seed", "method.name"} <= config.keys() else _refuse(path)


def _summary(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        return _refuse(path)
    return summary if isinstance(summary, dict) and summary.keys() >= FIELDS else _refuse(path)


def _refuse(path: Path) -> NoReturn:
    raise UserError(f"{path} was not written by this version of ebft-train; take its folder out of the comparison, or run it again.")
