"""The axes of one grid as Optuna's search space, and its trials as jobs."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Override

from ebft.cli.grid import merged, parse, values
from ebft.cli.planning import Planner
from ebft.config import UserError
from ebft.sweep.jobs import Job


@dataclass(frozen=True)
class SearchPlan:
    """What is searched, with the rest of the grid, and how a choice of parameters becomes jobs."""

    axes: tuple[str, ...]
    fixed: tuple[str, ...]
    space: Mapping[str, Any]  # key -> Optuna's distribution
    planner: Planner

    def jobs(self, trial: int, parameters: Mapping[str, Any]) -> list[Job]:
        """One for every seed. Raises UserError."""
        cell = merged(self.fixed, [f"{key}={value}" for key, value in parameters.items()])
        seeded = itertools.product(*(values(override) for override in parse(cell)))
        return [self.planner.job("", list(one), [*parameters, "seed"], {}, trial) for one in seeded]


def plan(planner: Planner, runs: Sequence[str]) -> SearchPlan:
    """Raises UserError where there is nothing to search, or where what is searched first cannot run."""
    if planner.sweep.variants:
        raise UserError("sweep.search=optuna searches one grid; set sweep.variants={} or choose another sweep.")
    (grid,) = planner.grids(runs).values()
    parsed = parse(grid)
    axes = [override for override in parsed if override.is_sweep_override() and str(override.key_or_group) != "seed"]
    if not axes:
        raise UserError("sweep.search=optuna has nothing to search; give a key several values, as in 'optimizer.lr=tag(log,interval(1e-5,1e-3))'.")
    fixed = [override for override in parsed if override not in axes]
    found = SearchPlan(_lines(axes), _lines(fixed), {str(axis.key_or_group): _distribution(axis) for axis in axes}, planner)
    found.jobs(0, {str(axis.key_or_group): _an_end(axis) for axis in axes})
    return found


def _lines(overrides: Sequence[Override]) -> tuple[str, ...]:
    return tuple(str(override.input_line) for override in overrides)


def _distribution(axis: Override) -> Any:
    """interval(a, b) is a range of numbers, of whole ones where both ends are; tag(log, ...) makes it logarithmic; other axes are choices."""
    try:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
    except ModuleNotFoundError as error:
        raise UserError("sweep.search=optuna needs optuna, which is not installed; pip install 'ebft[optuna]'.") from error
    if not axis.is_interval_sweep():
        return CategoricalDistribution([value.split("=", 1)[1] for value in values(axis)])
    ends: Any = axis.value()
    kind = IntDistribution if isinstance(ends.start, int) and isinstance(ends.end, int) else FloatDistribution
    try:
        return kind(ends.start, ends.end, log="log" in ends.tags)
    except ValueError as error:
        raise UserError(f"{axis.input_line} is no interval to search: {error}") from error


def _an_end(axis: Override) -> Any:
    sweep: Any = axis.value()
    return sweep.start if axis.is_interval_sweep() else values(axis)[0].split("=", 1)[1]
