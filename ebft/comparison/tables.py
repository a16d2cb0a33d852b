"""From run folders to the figures of a comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ebft.comparison import metrics
from ebft.comparison.cells import BASE, Group, check_comparable, disagreement, groups
from ebft.comparison.runs import Outcome, Planned, read
from ebft.comparison.statistics import Estimate, difference, estimate
from ebft.config import GridConfig, UserError

LOSS = "eval/feature_matching_loss@"
# What a table shows where sweep.metrics names nothing, beside feature matching at the training length.
USUAL = ("eval/cross_entropy", LOSS, "eval/greedy", "eval/pass@", "eval/parse_rate", "eval/exact_match", "eval/bleu", "eval/chrf")

Values = Mapping[int, float]  # by seed


@dataclass(frozen=True)
class Figure:
    """One metric of one cell, over its seeds."""

    estimate: Estimate | None  # None where no run of the cell has it
    difference: Estimate | None  # to the reference cell, in pairs of one seed
    is_best: bool  # the interval of its paired difference to every other cell lies on the better side of 0
    reported: float | None  # by a publication


@dataclass(frozen=True)
class Row:
    """One cell."""

    name: str
    outcomes: Sequence[Outcome]  # none for a base
    finals: Sequence[Mapping[str, float]]  # what was measured in the end; of a base, before training
    planned: int  # runs that it should have; 0 for a base
    figures: Mapping[str, Figure]  # by metric
    tokens: Estimate | None  # forwarded in training
    seconds: Estimate | None  # of training alone

    @property
    def is_base(self) -> bool:
        return not self.planned


@dataclass(frozen=True)
class Table:
    title: str
    metrics: Sequence[str]
    reference: str
    rows: Sequence[Row]  # the base's first
    trained_length: int | None  # tokens of a rollout in training, where all runs have the same
    left_out: Mapping[str, str]  # kinds of metrics that cannot be compared here -> the key in which the runs differ

    @property
    def cells(self) -> Sequence[Row]:
        """Rows of runs that are done."""
        return [row for row in self.rows if row.outcomes]

    def has_reported(self, metric: str) -> bool:
        return any(row.figures[metric].reported is not None for row in self.rows)


@dataclass(frozen=True)
class Compared:
    name: str
    tables: Sequence[Table]
    missing: Sequence[tuple[str, Planned]]  # cell and run
    reported_source: str | None


def compare(directory: Path, sweep: GridConfig, planned: Sequence[Planned] | None) -> Compared:
    """The comparison of the runs below `directory`; those of `planned` where a plan is given. Raises UserError."""
    outcomes, missing = read(directory, planned)
    by_folder = {outcome.plan.folder: outcome for outcome in outcomes}
    order = {plan.folder: place for place, plan in enumerate(planned or [])}
    plans = sorted([*(outcome.plan for outcome in outcomes), *missing], key=lambda plan: (order.get(plan.folder, 0), plan.folder))
    check_comparable(plans, sweep)
    bases = _bases(outcomes)
    together = groups(plans, sweep)
    tables = [_table(group, by_folder, bases, sweep) for group in together]
    cells = {plan.folder: name for group in together for name, members in group.cells.items() for plan in members}
    kept = [table for table in tables if table.cells]
    if unmeasured := [metric for metric in sweep.metrics if kept and not any(row.figures[metric].estimate for table in kept for row in table.rows)]:
        raise UserError(f"sweep.metrics names {unmeasured[0]}, which no finished run has; leave it out.")
    name = sweep.name if planned is not None else directory.absolute().name
    return Compared(name, kept, [(cells[plan.folder], plan) for plan in missing], sweep.reported_source)


@dataclass(frozen=True)
class _Base:
    """What a run's figures are changes of: the model before any training of this comparison."""

    model: str
    metrics: Mapping[str, float]


def _bases(outcomes: Sequence[Outcome]) -> dict[str, _Base]:
    """By run folder. A run that starts from another's model has that one's base."""
    names = {Path(outcome.plan.folder).name: outcome for outcome in outcomes}

    def root(outcome: Outcome) -> Outcome:
        start = Path(outcome.config["model.path"])
        return root(names[start.parent.name]) if start.name == "model" and start.parent.name in names else outcome

    roots = {outcome.plan.folder: root(outcome) for outcome in outcomes}
    return {folder: _Base(_model(first.config), first.base) for folder, first in roots.items()}


def _model(config: Mapping[str, Any]) -> str:
    changes = [f"{key.removeprefix('model.config_overrides.')}={value}" for key, value in config.items() if key.startswith("model.config_overrides.")]
    return " ".join([str(config["model.path"]), *([str(config["model.revision"])] if config["model.revision"] else []), *changes])


def _table(group: Group, by_folder: Mapping[str, Outcome], bases: Mapping[str, _Base], sweep: GridConfig) -> Table:
    cells = {name: [by_folder[plan.folder] for plan in members if plan.folder in by_folder] for name, members in group.cells.items()}
    outcomes = [outcome for members in cells.values() for outcome in members]
    lengths = {outcome.config["sampler.generate_length"] for outcome in outcomes}
    trained = lengths.pop() if len(lengths) == 1 else None
    chosen, left_out = _metrics(outcomes, trained, sweep)
    columns = {metric: _column(metric, cells, bases, sweep) for metric in chosen}
    starts = _base_names(outcomes, bases)
    finals = {name: _distinct([base.metrics for base in bases.values() if starts.get(base.model) == name]) for name in starts.values()}
    finals |= {name: [outcome.final for outcome in members] for name, members in cells.items()}
    rows = [
        Row(
            name,
            cells.get(name, []),
            own,
            len(group.cells.get(name, [])),
            {metric: column[name] for metric, column in columns.items()},
            estimate([outcome.tokens for outcome in cells.get(name, [])]),
            estimate([outcome.seconds for outcome in cells.get(name, [])]),
        )
        for name, own in finals.items()
    ]
    return Table(group.title, chosen, sweep.reference or BASE, rows, trained, left_out)


def _distinct(models: Sequence[Mapping[str, float]]) -> list[Mapping[str, float]]:
    return [model for place, model in enumerate(models) if model not in models[:place]]


def _metrics(outcomes: Sequence[Outcome], trained: int | None, sweep: GridConfig) -> tuple[list[str], dict[str, str]]:
    """Those of the table, and kinds of metrics that were left out with the key that makes them incomparable."""
    configs = {outcome.plan.folder: outcome.config for outcome in outcomes}
    left_out = {kind: key for kind in metrics.ADDITIONAL if configs and (key := disagreement(kind, configs)) is not None}
    if sweep.metrics or not outcomes:
        return list(sweep.metrics), left_out
    common = [name for name in outcomes[0].final if all(name in outcome.final for outcome in outcomes)]
    shown = [name for kind in USUAL for name in common if metrics.family(name) == kind and (kind != LOSS or name == f"{LOSS}{trained}")]
    return [name for name in shown if metrics.family(name) not in left_out], left_out


def _base_names(outcomes: Sequence[Outcome], bases: Mapping[str, _Base]) -> dict[str, str]:
    """The name of the row of every model that a run started from."""
    models = dict.fromkeys(bases[outcome.plan.folder].model for outcome in outcomes)
    return {model: BASE if len(models) == 1 else f"{BASE} {model}" for model in models}


def _column(metric: str, cells: Mapping[str, Sequence[Outcome]], bases: Mapping[str, _Base], sweep: GridConfig) -> dict[str, Figure]:
    """The figures of one metric by cell."""
    outcomes = [outcome for members in cells.values() for outcome in members]
    names = _base_names(outcomes, bases)
    values: dict[str, dict[int, float]] = {name: {} for name in (*names.values(), *cells)}
    starts: dict[str, dict[int, float]] = {name: {} for name in values}  # of each cell's own runs, before training
    for cell, members in cells.items():
        for outcome in members:
            base = bases[outcome.plan.folder]
            if metric in outcome.final:
                values[cell][outcome.seed] = outcome.final[metric]
            if metric in base.metrics:
                values[names[base.model]][outcome.seed] = starts[cell][outcome.seed] = base.metrics[metric]
    best, reference = _best(metric, values), sweep.reference or BASE

    def gap(name: str) -> Estimate | None:
        """To the reference; a run's base is its own model's, and a base has none."""
        if name == reference or (reference == BASE and name not in cells):
            return None
        return difference(values[name], starts[name] if reference == BASE else values.get(reference, {}))

    return {
        name: Figure(_estimate(own, name not in cells), gap(name), name == best, sweep.reported.get(name, {}).get(metric))
        for name, own in values.items()
    }


def _estimate(values: Values, is_base: bool) -> Estimate | None:
    """A base that every seed shares is one figure, however often it was measured."""
    distinct = set(values.values())
    return estimate([*distinct] if is_base and len(distinct) == 1 else [*values.values()])


def _best(metric: str, values: Mapping[str, Values]) -> str | None:
    """The cell that is better than every other one with a figure, as far as the interval of each paired difference says; None where none is."""
    lower = metrics.lower_is_better(metric)
    measured = {name: own for name, own in values.items() if own}
    if lower is None or len(measured) < 2:
        return None
    sign = -1 if lower else 1

    def beats(one: str, other: str) -> bool:
        gap = difference(measured[one], measured[other])
        return gap is not None and gap.excludes_zero and sign * gap.mean > 0

    leader = max(measured, key=lambda name: sign * fmean(measured[name].values()))
    return leader if all(beats(leader, other) for other in measured if other != leader) else None


def short(metric: str) -> str:
    return metric.removeprefix("eval/")
