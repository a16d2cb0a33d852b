"""From a sweep's grids to its jobs, every one of them composed and checked. Loads no torch."""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from ebft.cli.grid import Composer, axes, merged, parse, values
from ebft.comparison.runs import FROM_RUN
from ebft.config.quoting import quoted
from ebft.config.schema import ProjectTrackerConfig, TrainConfig, UserError
from ebft.config.sweeps import GridConfig
from ebft.output import tracking
from ebft.sweep.jobs import Job, folder, name_of, settings_of

OWN = ("hydra", "resume")  # keys of a run that the sweep sets


class Planner:
    """Jobs of grids, in order; a job that starts from another's model is named after that one."""

    def __init__(self, directory: Path, sweep: GridConfig, found: Sequence[str] = ()) -> None:
        """`found` is Hydra's search path, where configurations of the user's own are found, if there are any."""
        self.directory, self.sweep, self.found = directory, sweep, found
        self._composer = Composer(found)

    def jobs(self, command_line: Sequence[str]) -> list[Job]:
        """Every run of every variant. Raises UserError for the first that cannot compose, for an empty grid, and for
        two runs that are the same."""
        grids = self.grids(command_line)
        order = _in_order_of_need(grids)
        jobs: dict[str, list[Job]] = {}
        for variant in order:
            jobs[variant] = [self.job(variant, cell, moving, jobs) for cell, moving in _cells(grids[variant])]
        planned = [job for variant in grids for job in jobs[variant]]
        _refuse_twins(planned)
        return planned

    def grids(self, command_line: Sequence[str]) -> dict[str, list[str]]:
        """The overrides of each variant: those of the sweep, its own, and those of the command line; a later one of a
        key replaces an earlier one."""
        variants = self.sweep.variants or {"": []}
        grids = {name: merged(self.sweep.grid, own, command_line) for name, own in variants.items()}
        for name, own in variants.items():
            _refuse_replaced_start(name, own, command_line)
        for name, grid in grids.items():
            if not grid:
                raise UserError(
                    f"{_key(name)} is empty; name what runs differ in, as in: ebft-sweep method=sft,ebft seed=0,1."
                )
            if theirs := [override for override in grid if override.lstrip("+~").split("=")[0].split(".")[0] in OWN]:
                raise UserError(
                    f"{theirs[0]} is for ebft-sweep to set; leave it out, and choose the folder with sweep.dir."
                )
        return grids

    def job(
        self,
        variant: str,
        cell: Sequence[str],
        moving: Iterable[str],
        planned: dict[str, list[Job]],
        trial: int | None = None,
    ) -> Job:
        """The job of one cell of a grid, of which the keys `moving` have several values. Raises UserError."""
        config = self._config(variant, cell)
        needed = _needed(config, variant, planned)
        model = config.model.path if needed is None else FROM_RUN + needed.name
        overrides = [*self.found, *cell]
        if needed is not None:
            overrides = merged(
                overrides, [f"model.path={quoted(str(folder(self.directory.absolute(), needed.name) / 'model'))}"]
            )
        tracking.check(config.tracker)
        if isinstance(config.tracker, ProjectTrackerConfig) and config.tracker.group is None:
            overrides = merged(overrides, [f"tracker.group={quoted(self.sweep.name)}"])
        keys = {
            key: value
            for key, _, value in (override.lstrip("+~").partition("=") for override in cell)  # ~key has no value
            if key in set(moving)
        }
        settings, needs = settings_of(config, model), None if needed is None else needed.name
        return Job(name_of(settings), variant, keys, config.seed, tuple(overrides), needs, trial, settings, config)

    def _config(self, variant: str, cell: Sequence[str]) -> TrainConfig:
        try:
            config = self._composer.config(cell)
            if config.plan_only:
                raise UserError("plan_only=true trains nothing; leave it out, and plan a sweep with mode=plan.")
        except UserError as error:
            raise UserError(
                f"{f'sweep.variants.{variant}: ' if variant else ''}{' '.join(cell)} cannot run: {error}"
            ) from error
        return config


def _key(variant: str) -> str:
    return f"sweep.variants.{variant}" if variant else "sweep.grid"


def _refuse_replaced_start(variant: str, own: Sequence[str], command_line: Sequence[str]) -> None:
    replacing = [str(override.input_line) for override in parse(command_line) if override.key_or_group == "model.path"]
    for start in (override for override in own if _named_runs([override])):
        if replacing:
            raise UserError(
                f"{replacing[0]} would replace {start} of {_key(variant)} as well; write it into sweep.grid, or leave "
                "it out."
            )


def _cells(grid: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """Each cell of the grid, with the keys that have several values."""
    found = axes(grid)
    moving = [key for key, choices in found.items() if len(choices) > 1]
    return [(list(cell), moving) for cell in itertools.product(*found.values())]


def _in_order_of_need(grids: dict[str, list[str]]) -> list[str]:
    """Variants, those that others start from first. Raises UserError for one that does not exist or that needs
    itself."""
    order: list[str] = []
    needs = {name: _named_runs(grid) for name, grid in grids.items()}
    for name, named in needs.items():
        if missing := named - set(grids):
            there = f"there are {', '.join(grids)}" if name else "sweep.variants is empty"
            raise UserError(f"{_key(name)} starts from run:{min(missing)}, which is no variant; {there}.")
    while len(order) < len(grids):
        ready = [name for name in grids if name not in order and needs[name] <= set(order)]
        if not ready:
            raise UserError(
                f"sweep.variants: {', '.join(name for name in grids if name not in order)} start from one another; "
                "one must start from a model."
            )
        order += ready
    return order


def _named_runs(grid: Sequence[str]) -> set[str]:
    """The variants whose models a grid starts from."""
    starts = [values(override) for override in parse(grid) if override.key_or_group == "model.path"]
    paths = [start.partition("=")[2].replace("\\", "").strip("'\"") for choices in starts for start in choices]
    return {path.removeprefix(FROM_RUN) for path in paths if path.startswith(FROM_RUN)}


def _needed(config: TrainConfig, variant: str, planned: dict[str, list[Job]]) -> Job | None:
    """The job whose model this config starts from: of that variant, with the same seed and data."""
    if not config.model.path.startswith(FROM_RUN):
        return None
    name = config.model.path.removeprefix(FROM_RUN)
    found = [
        job
        for job in planned[name]
        if job.config is not None and (job.seed, job.config.data) == (config.seed, config.data)
    ]
    if len(found) != 1:
        raise UserError(
            f"sweep.variants.{variant} starts from run:{name}, which has {len(found)} runs of seed {config.seed} on "
            "this data; it must have one."
        )
    return found[0]


def _refuse_twins(jobs: Sequence[Job]) -> None:
    seen: dict[str, Job] = {}
    for job in jobs:
        if job.name in seen:
            raise UserError(
                f"Two runs of the grid are the same, {' '.join(seen[job.name].overrides)} and "
                f"{' '.join(job.overrides)}; leave one out "
                "(keys that only say where and how a run is computed make no other run)."
            )
        seen[job.name] = job
