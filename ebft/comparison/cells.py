"""Which runs stand in one table, which of them are one cell, and whether their figures can be compared at all."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ebft.comparison import metrics
from ebft.comparison.runs import Planned
from ebft.config import GridConfig, UserError
from ebft.identity import CHANGEABLE_KEYS, LENGTH_KEYS

BASE = "base"  # the cell of the models before training
CHOOSES_METHOD = ("method", "method.name")  # keys whose values are a name by themselves
# Keys in which runs of one cell may differ: they say where and how a run is computed, or how it is evaluated, and the latter must agree anyway.
NO_CELL = ("seed", "eval.", "sandbox.", *(key for key in CHANGEABLE_KEYS if key not in LENGTH_KEYS))


@dataclass(frozen=True)
class Group:
    """The runs of one table by cell."""

    title: str
    cells: Mapping[str, list[Planned]]


def label(variant: str, keys: Mapping[str, Any]) -> str:
    """As `ebft optimizer.lr=0.0001`; the seed tells runs of one cell apart."""
    parts = [str(value) if key in CHOOSES_METHOD else f"{key}={value}" for key, value in keys.items() if key != "seed"]
    return " ".join([variant, *parts] if variant else parts) or "runs"


def groups(plans: Sequence[Planned], sweep: GridConfig) -> list[Group]:
    """Tables by the values of `sweep.split`, cells in the order of the plan. A run without a configuration, which was never begun, goes where
    others of its cell are, or else to all tables."""
    titles_of_cell: dict[str, dict[str, None]] = {}
    for plan in plans:
        if plan.config is not None:
            titles_of_cell.setdefault(label(plan.variant, plan.keys), {})[_title(plan.config, sweep.split)] = None
    everywhere = list(dict.fromkeys(title for titles in titles_of_cell.values() for title in titles)) or ([""] if plans else [])
    members: dict[str, list[Planned]] = {title: [] for title in everywhere}
    for plan in plans:
        own = titles_of_cell.get(label(plan.variant, plan.keys), everywhere)
        for title in own if plan.config is None else [_title(plan.config, sweep.split)]:
            members[title].append(plan)
    return [Group(title, _cells(inside, sweep)) for title, inside in members.items()]


def _title(config: Mapping[str, Any], split: Sequence[str]) -> str:
    return " ".join(str(config[key]) for key in split if config.get(key) is not None)


def _cells(plans: Sequence[Planned], sweep: GridConfig) -> dict[str, list[Planned]]:
    keys = {id(plan): _keys(plan, sweep) for plan in plans}
    if not sweep.by and not any(plan.variant or plan.keys for plan in plans):
        keys = _found_keys(plans, sweep)
    constant = _constant(list(keys.values()))
    cells: dict[str, list[Planned]] = {}
    for plan in plans:
        own = {key: value for key, value in keys[id(plan)].items() if key not in constant}
        cells.setdefault(label(plan.variant, own), []).append(plan)
    return cells


def _keys(plan: Planned, sweep: GridConfig) -> dict[str, Any]:
    """On the axes of a plan, or those that `sweep.by` names."""
    if not sweep.by or plan.config is None:
        return dict(plan.keys)
    return {key: plan.config[key] for key in sweep.by if key in plan.config}


def _found_keys(plans: Sequence[Planned], sweep: GridConfig) -> dict[int, dict[str, Any]]:
    """Of runs without a plan: the method, and the keys in which runs of one method differ."""
    by_method: dict[str, list[Planned]] = {}
    for plan in plans:
        assert plan.config is not None, plan.folder
        by_method.setdefault(plan.config["method.name"], []).append(plan)
    found: dict[int, dict[str, Any]] = {}
    for method, members in by_method.items():
        names = dict.fromkeys(key for plan in members for key in plan.config or {} if not key.startswith(NO_CELL) and key not in sweep.split)
        varying = [key for key in names if len({str((plan.config or {}).get(key)) for plan in members}) > 1]
        for plan in members:
            found[id(plan)] = {"method.name": method} | {key: plan.config[key] for key in varying if plan.config and key in plan.config}
    return found


def _constant(keys: Sequence[Mapping[str, Any]]) -> set[str]:
    """Keys that have one value in all of several runs; they tell nothing."""
    return {key for key in (keys[0] if keys else {}) if len({str(own.get(key)) for own in keys}) == 1}


def check_comparable(plans: Sequence[Planned], sweep: GridConfig) -> None:
    """Raises UserError where runs of one table were, or would be, evaluated differently, where none has a metric that is asked for, and for names of
    cells that do not exist. Plans without a configuration are passed over."""
    known = [plan for plan in plans if plan.config is not None]
    together = groups(known, sweep)
    for group in together:
        configs = {plan.folder: plan.config for members in group.cells.values() for plan in members if plan.config is not None}
        _check_agreement("the evaluation", {folder: metrics.evaluation_settings(config, sweep.split) for folder, config in configs.items()}, ADVICE)
        for metric in sweep.metrics:
            settings = {folder: metrics.feature_settings(metric, config) for folder, config in configs.items()}
            _check_agreement(f"{metric}, which sweep.metrics names,", settings, "leave the metric out, or set the key to one value.")
        for name, members in group.cells.items():
            _check_seeds(name, members)
    _check_names(together, sweep)
    wanted = [("sweep.metrics", metric) for metric in sweep.metrics]
    wanted += [("sweep.metric", sweep.metric)] if sweep.search == "optuna" or sweep.early_stopping == "median" else []
    _check_measured([plan.config for plan in known if plan.config is not None], wanted)


ADVICE = "set it to one value for all runs, or name the key in sweep.split for a table each."


def _check_seeds(name: str, members: Sequence[Planned]) -> None:
    seed, count = Counter(plan.seed for plan in members).most_common(1)[0]
    if count > 1:
        folders = [plan.folder for plan in members if plan.seed == seed]
        raise UserError(f"{folders[0]} and {folders[1]} are both seed {seed} of cell {name}; tell them apart with sweep.by, or leave one out.")


def _check_agreement(what: str, settings: Mapping[str, Mapping[str, Any]], advice: str) -> None:
    for first, second, key in _disagreements(settings):
        here, there = (settings[folder].get(key, "absent") for folder in (first, second))
        raise UserError(f"{key} shapes {what} and is {here} in {first}, {there} in {second}; {advice}")


def _disagreements(settings: Mapping[str, Mapping[str, Any]]) -> Iterable[tuple[str, str, str]]:
    """Two folders and the key in which they differ."""
    (first, expected), *others = settings.items()
    for folder, own in others:
        if own != expected:
            yield from ((first, folder, key) for key in dict.fromkeys((*expected, *own)) if expected.get(key, "absent") != own.get(key, "absent"))


def disagreement(metric: str, configs: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The first key that makes figures of this metric incomparable between those runs."""
    return next((key for _, _, key in _disagreements({name: metrics.feature_settings(metric, config) for name, config in configs.items()})), None)


def _check_names(together: Sequence[Group], sweep: GridConfig) -> None:
    names = [BASE, *dict.fromkeys(name for group in together for name in group.cells)]
    for key, name in [("sweep.reference", sweep.reference or BASE), *(("sweep.reported", name) for name in sweep.reported)]:
        if name not in names:
            raise UserError(f"{key} names the cell {name}, which no run belongs to; cells are {', '.join(names)}.")
    for metric in {metric for reported in sweep.reported.values() for metric in reported}:
        metrics.check_known(metric)


def _check_measured(configs: Sequence[Mapping[str, Any]], wanted: Sequence[tuple[str, str]]) -> None:
    there = set().union(*map(metrics.expected, configs))
    for key, metric in wanted:
        if configs and metric not in there and not metric.startswith(tuple(f"{name}_" for name in metrics.BY_DIRECTION)):
            raise UserError(f"{key} names {metric}, which no run measures; leave it out, or set what it needs under eval. and data.task.")
