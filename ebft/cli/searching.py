"""The axes of one grid as Optuna's search space, and its trials as jobs."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Override

from ebft.cli.grid import merged, parse, values
from ebft.cli.keys import is_whole
from ebft.cli.planning import Planner
from ebft.config.schema import UserError
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
        # with the plus of a key that is added
        elements = {str(axis.key_or_group): axis.get_key_element() for axis in parse(self.axes)}
        cell = merged(self.fixed, [f"{elements[key]}={value}" for key, value in parameters.items()])
        seeded = itertools.product(*(values(override) for override in parse(cell)))
        return [self.planner.job("", list(one), [*parameters, "seed"], {}, trial) for one in seeded]


def plan(planner: Planner, runs: Sequence[str]) -> tuple[SearchPlan, list[Job]]:
    """What is searched, and choices of it in which every axis has its ends or all its options. Raises UserError where
    there is nothing to search, or where one of those choices cannot run."""
    if planner.sweep.variants:
        raise UserError("sweep.search=optuna searches one grid; set sweep.variants={} or choose another sweep.")
    (grid,) = planner.grids(runs).values()
    parsed = parse(grid)
    axes = [override for override in parsed if override.is_sweep_override() and str(override.key_or_group) != "seed"]
    if not axes:
        raise UserError(
            "sweep.search=optuna has nothing to search; give a key several values, as in "
            "'optimizer.lr=tag(log,interval(1e-5,1e-3))'."
        )
    fixed = [override for override in parsed if override not in axes]
    found = SearchPlan(
        _lines(axes), _lines(fixed), {str(axis.key_or_group): _distribution(axis) for axis in axes}, planner
    )
    options = {str(axis.key_or_group): _options(axis) for axis in axes}
    first = {key: choices[0] for key, choices in options.items()}
    others = [{**first, key: option} for key, choices in options.items() for option in choices[1:]]
    return found, [job for trial, choice in enumerate([first, *others]) for job in found.jobs(trial, choice)]


def _lines(overrides: Sequence[Override]) -> tuple[str, ...]:
    return tuple(str(override.input_line) for override in overrides)


def _distribution(axis: Override) -> Any:
    """interval(a, b) is a range of numbers, of whole ones where the key is one; tag(log, ...) makes it logarithmic;
    other axes are choices."""
    try:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
    except ModuleNotFoundError as error:
        raise UserError(
            "sweep.search=optuna needs optuna, which is not installed; pip install 'ebft[optuna]'."
        ) from error
    if not axis.is_interval_sweep():
        return CategoricalDistribution(_options(axis))
    start, end = _ends(axis)
    sweep: Any = axis.value()
    try:
        return (IntDistribution if isinstance(start, int) else FloatDistribution)(start, end, log="log" in sweep.tags)
    except ValueError as error:
        raise UserError(f"{axis.input_line} is no interval to search: {error}") from error


def _ends(axis: Override) -> tuple[float, float]:
    """The ends of an interval, which Hydra makes one of floats whatever they look like; of a key that has no type,
    whole where both are."""
    sweep: Any = axis.value()
    ends = (sweep.start, sweep.end)
    whole, are_whole = is_whole(str(axis.key_or_group)), all(float(end).is_integer() for end in ends)
    if whole and not are_whole:
        raise UserError(
            f"{axis.input_line} has ends that are no whole numbers, and {axis.key_or_group} is one; choose whole ends."
        )
    return (int(ends[0]), int(ends[1])) if whole or (whole is None and are_whole) else ends


def _options(axis: Override) -> list[Any]:
    """The ends of an interval, or every choice."""
    return list(_ends(axis)) if axis.is_interval_sweep() else [value.split("=", 1)[1] for value in values(axis)]
