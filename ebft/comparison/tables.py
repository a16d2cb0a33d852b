"""From run folders to the figures of a comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebft.comparison.cells import BASE, Group, check_comparable, disagreement, groups
from ebft.comparison.columns import Cells, Figure, Measured, Standing, column
from ebft.comparison.equal_point import EqualPoint, equal_point
from ebft.comparison.runs import Planned, RunResult, read
from ebft.comparison.statistics import Estimate, estimate
from ebft.config.sweeps import GridConfig
from ebft.output.metric_names import LOSS, family, short

# What a table shows where sweep.metrics names nothing, beside feature matching at the training length.
USUAL = (
    "eval/cross_entropy",
    LOSS,
    "eval/greedy",
    "eval/pass@",
    "eval/parse_rate",
    "eval/exact_match",
    "eval/bleu",
    "eval/chrf",
)


@dataclass(frozen=True)
class TableRow:
    """One cell."""

    name: str
    outcomes: Sequence[RunResult]  # none for a base
    finals: Sequence[Mapping[str, float]]  # what was measured in the end; of a base, before training
    planned: int  # runs that it should have; 0 for a base
    figures: Mapping[str, Figure]  # by metric
    tokens: Estimate | None  # forwarded in training
    seconds: Estimate | None  # of training alone
    steps: tuple[int, ...]  # of the optimiser, those of its runs; none where runs are of an older version

    @property
    def is_base(self) -> bool:
        return not self.planned


@dataclass(frozen=True)
class Table:
    title: str
    metrics: Sequence[str]
    reference: str
    rows: Sequence[TableRow]  # the base's first
    trained_length: int | None  # tokens of a rollout in training, where all runs have the same
    incomparable: str | None  # the key in which runs differ so that their feature matching cannot be compared
    standings: Mapping[str, Standing]  # by metric, where there are cells to compare
    equal_point: EqualPoint | None  # figures at one cross-entropy; None where there are not two cells to compare at it
    notes: Sequence[str]  # what cannot be seen, and why

    @property
    def cells(self) -> Sequence[TableRow]:
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
    plans, outcomes = read(directory, planned)
    check_comparable(plans, sweep)
    together = groups(plans, sweep)
    missing = [
        (name, plan)
        for group in together
        for name, members in group.cells.items()
        for plan in members
        if plan.folder not in outcomes
    ]
    name = sweep.name if planned is not None else directory.absolute().name
    return Compared(name, [_table(group, outcomes, sweep) for group in together], missing, sweep.reported_source)


def _table(group: Group, done: Mapping[str, RunResult], sweep: GridConfig) -> Table:
    cells = {
        name: [done[plan.folder] for plan in members if plan.folder in done] for name, members in group.cells.items()
    }
    outcomes = [outcome for members in cells.values() for outcome in members]
    lengths = {config["sampler.generate_length"] for config in group.configs.values()}
    trained = lengths.pop() if len(lengths) == 1 else None
    incomparable = disagreement(LOSS, group.configs)
    kinds = [kind for kind in USUAL if kind != LOSS or incomparable is None]
    chosen = list(sweep.metrics) or _usual(outcomes, trained, kinds)
    bases = _bases(outcomes)
    planned = {name: len(members) for name, members in group.cells.items()}
    reference = sweep.reference or BASE
    columns = {
        metric: column(metric, _measured(metric, cells, bases, planned), reference, sweep.reported) for metric in chosen
    }
    finals = {
        name: _distinct([outcome.base for outcome in outcomes if bases[_model(outcome.root)] == name])
        for name in bases.values()
    }
    finals |= {name: [outcome.final for outcome in members] for name, members in cells.items()}
    rows = [
        TableRow(
            name,
            cells.get(name, []),
            own,
            planned.get(name, 0),
            {metric: found.figures[name] for metric, found in columns.items()},
            estimate([outcome.tokens for outcome in cells.get(name, [])]),
            estimate([outcome.seconds for outcome in cells.get(name, [])]),
            tuple(sorted({outcome.steps for outcome in cells.get(name, []) if outcome.steps is not None})),
        )
        for name, own in finals.items()
    ]
    matching = (
        []
        if incomparable is None
        else [f"Feature matching is not compared, because runs differ in {incomparable}, which shapes it."]
    )
    notes = [
        *matching,
        *_unshown(outcomes, chosen, kinds, trained, sweep),
        *_absent(reference, cells),
        *(note for found in columns.values() for note in found.notes),
    ]
    standings = {metric: found.standing for metric, found in columns.items() if found.standing is not None}
    point = equal_point(cells, chosen)
    return Table(group.title, chosen, reference, rows, trained, incomparable, standings, point, notes)


def _usual(outcomes: Sequence[RunResult], trained: int | None, kinds: Sequence[str]) -> list[str]:
    """What every run has, of the usual."""
    common = (
        [name for name in outcomes[0].final if all(name in outcome.final for outcome in outcomes)] if outcomes else []
    )
    return [name for kind in kinds for name in common if _is_usual(name, kind, trained)]


def _is_usual(metric: str, kind: str, trained: int | None) -> bool:
    return family(metric) == kind and (kind != LOSS or metric == f"{LOSS}{trained}")


def _unshown(
    outcomes: Sequence[RunResult], chosen: Sequence[str], kinds: Sequence[str], trained: int | None, sweep: GridConfig
) -> list[str]:
    """Metrics that are asked for and not measured, or usual and not measured by every run."""
    there = dict.fromkeys(name for outcome in outcomes for name in outcome.final)
    unmeasured = [f"{short(metric)}: no finished run has it." for metric in chosen if outcomes and metric not in there]
    usual = [name for kind in kinds for name in there if _is_usual(name, kind, trained) and name not in chosen]
    lacking = {
        name: next(outcome.plan.folder for outcome in outcomes if name not in outcome.final)
        for name in usual
        if not sweep.metrics
    }
    return [
        *unmeasured,
        *(
            f"{short(name)}: not shown, because {folder} lacks it; sweep.metrics shows it."
            for name, folder in lacking.items()
        ),
    ]


def _absent(reference: str, cells: Mapping[str, Sequence[RunResult]]) -> list[str]:
    if reference == BASE or cells.get(reference):
        return []
    why = "none of its runs is done" if reference in cells else "it is no cell of this table"
    return [f"No difference to {reference}: {why}."]


def _model(config: Mapping[str, Any]) -> str:
    """The model that a run starts from, as a name."""
    changes = [
        f"{key.removeprefix('model.config_overrides.')}={value}"
        for key, value in config.items()
        if key.startswith("model.config_overrides.")
    ]
    how = [] if config["model.init"] == "pretrained" else [str(config["model.init"])]
    return " ".join(
        [
            str(config["model.path"]),
            *([str(config["model.revision"])] if config["model.revision"] else []),
            *how,
            *changes,
        ]
    )


def _bases(outcomes: Sequence[RunResult]) -> dict[str, str]:
    """The name of the row of every model that a run started from."""
    models = dict.fromkeys(_model(outcome.root) for outcome in outcomes)
    return {model: BASE if len(models) == 1 else f"{BASE} {model}" for model in models}


def _distinct(models: Sequence[Mapping[str, float]]) -> list[Mapping[str, float]]:
    return [model for place, model in enumerate(models) if model not in models[:place]]


def _measured(
    metric: str, cells: Mapping[str, Sequence[RunResult]], bases: Mapping[str, str], planned: Mapping[str, int]
) -> Cells:
    """What all runs have for one metric."""
    values: dict[str, dict[int, Measured]] = {name: {} for name in (*bases.values(), *cells)}
    starts: dict[str, dict[int, Measured]] = {name: {} for name in values}
    for cell, members in cells.items():
        for outcome in members:
            if metric in outcome.final:
                values[cell][outcome.seed] = Measured(outcome.final[metric], outcome.final_rows.get(metric))
            if metric in outcome.base:
                start = Measured(outcome.base[metric], outcome.base_rows.get(metric))
                values[bases[_model(outcome.root)]][outcome.seed] = starts[cell][outcome.seed] = start
    complete = {name for name, own in values.items() if name not in cells or len(own) == planned[name]}
    return Cells(values, starts, frozenset(complete), frozenset(bases.values()))
