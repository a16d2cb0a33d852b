"""Every knob of a sweep as a typed, frozen dataclass: its grid, how its runs are started, what its comparison shows."""

from dataclasses import dataclass
from typing import Any

from ebft.config.schema import above, at_least, one_of


@dataclass(frozen=True)
class GridConfig:
    """Which runs a sweep has, how they are run, and what its comparison shows."""

    name: str  # of the sweep; also W&B's group
    dir: str  # holds everything of the sweep
    grid: list[str]  # overrides of ebft-train in Hydra's grammar; those with several values are its axes
    variants: dict[str, list[str]]  # name -> further overrides; each is a grid of its own, empty: one grid
    search: str = one_of("grid", "optuna")  # every run of the grid, or Optuna's choice of its axes
    num_trials: int = at_least(1)  # of search=optuna
    metric: str  # what search, early stopping and mode=power go by
    # median: stop a run that does worse than the median of the others at the same step
    early_stopping: str = one_of("none", "median")
    early_stopping_after: int = at_least(1)  # evaluations after the base before a run can be stopped
    retry_failed: bool
    max_restarts: int = at_least(0)  # of a run that was killed, within one ebft-sweep
    reference: str | None  # the cell that differences are taken to; null: base
    # columns of the comparison; empty: cross-entropy, feature matching at the training length, and what answers are
    # judged by
    metrics: list[str]
    split: list[str]  # keys that tell one table from another
    by: list[str]  # keys that tell one cell from another where variants do not; empty: those in which runs differ
    difference: float | None = above(0)  # that mode=power is to find seeds and rows for; null: it shows what some see
    reported: dict[str, dict[str, float]]  # cell -> metric -> what a publication reports
    reported_source: str | None  # where that stands


@dataclass(frozen=True)
class LauncherConfig:
    name: str


@dataclass(frozen=True)
class LocalLauncherConfig(LauncherConfig):
    """Processes on this machine."""

    slots_per_device: int = at_least(1)  # runs at a time on each GPU, or on the CPU where there is none
    gpus: int = at_least(1)  # of a run, of trainer.processes=N as many
    threads: int | None = at_least(1)  # of each run; null: cores divided by slots, or OMP_NUM_THREADS if fewer


@dataclass(frozen=True)
class SlurmLauncherConfig(LauncherConfig):
    """Jobs of a SLURM cluster, by submitit."""

    cluster: str = one_of("slurm", "local", "debug")  # submitit's executors; local runs jobs here, as for a rehearsal
    max_jobs: int = at_least(1)  # in the queue at a time
    minutes: int = at_least(1)  # time limit of a job; one that reaches it is saved and queued again
    nodes: int = at_least(1)  # of a job
    tasks_per_node: int = at_least(1)  # processes of a run on each node, a GPU each
    gpus: int = at_least(0)  # of each node
    cpus: int = at_least(1)  # of each task
    memory_gb: int = at_least(1)  # of each node
    partition: str | None
    account: str | None
    parameters: dict[str, Any]  # further parameters of submitit's executor, e.g. slurm_constraint


@dataclass(frozen=True)
class RayLauncherConfig(LauncherConfig):
    """Tasks of a Ray cluster."""

    address: str | None  # of a cluster, or auto; null: started here and stopped afterwards
    max_jobs: int = at_least(1)  # submitted at a time
    gpus: float = at_least(0)
    cpus: float = at_least(0)


@dataclass(frozen=True)
class SweepConfig:
    mode: str = one_of("plan", "run", "status", "collect", "power")
    sweep: GridConfig
    launcher: LauncherConfig


# The class behind each value of the launcher's selector key.
LAUNCHERS = {"local": LocalLauncherConfig, "slurm": SlurmLauncherConfig, "ray": RayLauncherConfig}
