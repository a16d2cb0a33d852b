"""Which runs stand in one table, which of them are one cell, and whether their figures can be compared at all."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from ebft.comparison import known_metrics
from ebft.comparison.runs import Planned
from ebft.config.identity import CHANGEABLE_KEYS, LENGTH_KEYS
from ebft.config.schema import UserError
from ebft.config.sweeps import GridConfig
from ebft.output.metric_names import BY_DIRECTION, check_known

BASE = "base"  # the cell of the models before training
CHOOSES_METHOD = ("method", "method.name")  # keys whose values are a name by themselves
# Keys in which runs of one cell may differ: they say where and how a run is computed, or how it is evaluated, and the
# latter must agree anyway.
NO_CELL = ("seed", "eval.", "sandbox.", *(key for key in CHANGEABLE_KEYS if key not in LENGTH_KEYS))
CURE = "leave it out, or set what it needs under eval. and data.task."
ADVICE = "set it to one value for all runs, or name the key in sweep.split for a table each."


@dataclass(frozen=True)
class Group:
    """The runs of one table by cell."""

    title: str
    cells: Mapping[str, list[Planned]]

    @property
    def configs(self) -> dict[str, Mapping[str, Any]]:
        """The flat config of every run, by run folder."""
        return {plan.folder: plan.config for members in self.cells.values() for plan in members}


def label(variant: str, keys: Mapping[str, Any]) -> str:
    """The name of a cell, as `ebft optimizer.lr=0.0001`; the seed tells runs of one cell apart."""
    parts = [str(value) if key in CHOOSES_METHOD else f"{key}={value}" for key, value in keys.items() if key != "seed"]
    return " ".join([variant, *parts] if variant else parts) or "runs"


def groups(plans: Sequence[Planned], sweep: GridConfig) -> list[Group]:
    """Tables by the values of `sweep.split`, cells in the order of the plan."""
    members: dict[str, list[Planned]] = {}
    for plan in plans:
        title = " ".join(str(plan.config[key]) for key in sweep.split if plan.config.get(key) is not None)
        members.setdefault(title, []).append(plan)
    return [Group(title, _cells(inside, sweep)) for title, inside in members.items()]


def _cells(plans: Sequence[Planned], sweep: GridConfig) -> dict[str, list[Planned]]:
    keys = _keys(plans, sweep)
    constant = {key for key in keys[0] if len({str(own.get(key)) for own in keys}) == 1}  # they tell nothing
    cells: dict[str, list[Planned]] = {}
    for plan, own in zip(plans, keys, strict=True):
        cells.setdefault(
            label(plan.variant, {key: value for key, value in own.items() if key not in constant}), []
        ).append(plan)
    return cells


def _keys(plans: Sequence[Planned], sweep: GridConfig) -> list[dict[str, Any]]:
    """What each run is called by: the keys of `sweep.by`, the axes of a plan, or whatever differs."""
    if sweep.by:
        return [{key: _value(plan, key) for key in sweep.by if key in plan.config} for plan in plans]
    found = _differing([plan for plan in plans if plan.keys is None], sweep)
    return [found[plan.folder] if plan.keys is None else dict(plan.keys) for plan in plans]


def _differing(plans: Sequence[Planned], sweep: GridConfig) -> dict[str, dict[str, Any]]:
    """What runs without a plan are called by: the method, and the keys in which runs of one method differ."""
    by_method: dict[str, list[Planned]] = {}
    for plan in plans:
        by_method.setdefault(plan.config["method.name"], []).append(plan)
    found: dict[str, dict[str, Any]] = {}
    for method, members in by_method.items():
        names = dict.fromkeys(
            key for plan in members for key in plan.config if not key.startswith(NO_CELL) and key not in sweep.split
        )
        varying = [key for key in names if len({str(_value(plan, key)) for plan in members}) > 1]
        for plan in members:
            found[plan.folder] = {"method.name": method} | {
                key: _value(plan, key) for key in varying if key in plan.config
            }
    return found


def _value(plan: Planned, key: str) -> Any:
    """Runs that start from another's model start from one of their own seed, so the folder tells no cells apart."""
    return "run" if key == "model.path" and plan.starts_from is not None else plan.config.get(key)


def check_comparable(plans: Sequence[Planned], sweep: GridConfig) -> None:
    """Raises UserError where runs of one table were, or would be, evaluated differently, where none measures what is
    asked for, where runs are judged against others that they cannot be compared with, and for cells and keys that do
    not exist."""
    together = groups(plans, sweep)
    _check_keys(plans, sweep)
    for group in together:
        settings = {
            folder: known_metrics.evaluation_settings(config, sweep.split) for folder, config in group.configs.items()
        }
        _check_agreement("the evaluation", settings, ADVICE)
        for key, metric in _wanted(sweep):
            settings = {
                folder: known_metrics.feature_settings(metric, config) for folder, config in group.configs.items()
            }
            _check_agreement(
                f"{metric}, which {key} names,", settings, "choose another metric, or set the key to one value."
            )
        for name, members in group.cells.items():
            _check_seeds(name, members)
    if is_judged(sweep) and len(together) > 1:
        what = "sweep.search=optuna" if sweep.search == "optuna" else "sweep.early_stopping=median"
        raise UserError(
            f"{what} holds runs against one another, but here are "
            f"{' and '.join(group.title for group in together[:2])}; sweep one by one."
        )
    _check_names(together, sweep)
    _check_measured([plan.config for plan in plans], sweep)


def is_judged(sweep: GridConfig) -> bool:
    """Whether runs are stopped or chosen by the others' figures."""
    return sweep.search == "optuna" or sweep.early_stopping == "median"


def _wanted(sweep: GridConfig) -> list[tuple[str, str]]:
    """Metrics that must be comparable, with the key that names them."""
    return [
        *(("sweep.metric" if metric == sweep.metric else "sweep.metrics", metric) for metric in sweep.metrics),
        *([("sweep.metric", sweep.metric)] if is_judged(sweep) else []),
    ]


def _check_keys(plans: Sequence[Planned], sweep: GridConfig) -> None:
    there = dict.fromkeys(key for plan in plans for key in plan.config)
    optional = {"data.path"}  # of the default split; embedded data have none
    for name, keys in (("sweep.by", sweep.by), ("sweep.split", sweep.split)):
        for key in keys:
            if plans and key not in there and key not in optional:
                close = get_close_matches(key, there, 1)
                advice = (
                    f"did you mean {close[0]}?" if close else "name a key of ebft-train --cfg job, such as method.name."
                )
                raise UserError(f"{name} names {key}, which is no key of these runs; {advice}")


def _check_seeds(name: str, members: Sequence[Planned]) -> None:
    seed, count = Counter(plan.seed for plan in members).most_common(1)[0]
    if count > 1:
        folders = [plan.folder for plan in members if plan.seed == seed]
        raise UserError(
            f"{folders[0]} and {folders[1]} are both seed {seed} of cell {name}; tell them apart with sweep.by, or "
            "leave one out."
        )


def _check_agreement(what: str, settings: Mapping[str, Mapping[str, Any]], advice: str) -> None:
    for first, second, key in _disagreements(settings):
        here, there = (settings[folder].get(key, "absent") for folder in (first, second))
        raise UserError(f"{key} shapes {what} and is {here} in {first}, {there} in {second}; {advice}")


def _disagreements(settings: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Two folders and the key in which they differ."""
    (first, expected), *others = settings.items()
    for folder, own in others:
        if own != expected:
            yield from (
                (first, folder, key)
                for key in dict.fromkeys((*expected, *own))
                if expected.get(key, "absent") != own.get(key, "absent")
            )


def disagreement(metric: str, configs: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The first key that makes figures of this metric incomparable between those runs."""
    return next(
        (
            key
            for _, _, key in _disagreements(
                {name: known_metrics.feature_settings(metric, config) for name, config in configs.items()}
            )
        ),
        None,
    )


def _check_names(together: Sequence[Group], sweep: GridConfig) -> None:
    cells = dict.fromkeys(name for group in together for name in group.cells)
    if taken := [name for name in cells if name == BASE or name.startswith(f"{BASE} ")]:
        raise UserError(f"The cell {taken[0]} has the name of the models before training; call it otherwise.")
    for key, name in [
        ("sweep.reference", sweep.reference or BASE),
        *(("sweep.reported", name) for name in sweep.reported),
    ]:
        if together and name != BASE and name not in cells:
            raise UserError(
                f"{key} names the cell {name}, which no run belongs to; cells are {', '.join((BASE, *cells))}."
            )
    for metric in {metric for reported in sweep.reported.values() for metric in reported}:
        check_known(metric)


def _check_measured(configs: Sequence[Mapping[str, Any]], sweep: GridConfig) -> None:
    there = set().union(*map(known_metrics.expected, configs))
    for key, metric in _wanted(sweep):
        if configs and metric not in there and not metric.startswith(tuple(f"{name}_" for name in BY_DIRECTION)):
            cure = f"did you mean eval/{metric}?" if f"eval/{metric}" in there else CURE
            raise UserError(f"{key} names {metric}, which no run measures; {cure}")
