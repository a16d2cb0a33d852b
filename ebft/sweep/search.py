"""Search with Optuna's ask and tell: a trial is a cell, its value the mean of `sweep.metric` over the cell's seeds."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ebft.config.schema import UserError
from ebft.config.stored import text_of
from ebft.config.sweeps import GridConfig
from ebft.sweep import state as states
from ebft.sweep.jobs import MANIFEST, Job, folder

Parameters = Mapping[str, Any]


class Search:
    """A source of jobs. A new study is told what the sweep's folder knows of earlier trials, so a search goes on where
    it was left."""

    def __init__(
        self,
        directory: Path,
        config: GridConfig,
        space: Mapping[str, Any],
        make: Callable[[int, Parameters], Sequence[Job]],
        earlier: Sequence[Job],
        lower_is_better: bool,
        at_a_time: int,
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._directory, self._config, self._space = optuna, directory, config, dict(space)
        self._make, self._at_a_time = make, at_a_time
        self._earlier = {job.trial: self._parameters(job) for job in earlier}
        self._open: dict[int, tuple[Any, Sequence[Job]]] = {}  # trial -> Optuna's, and its jobs
        self._asked = 0
        self._known: dict[str, states.State | None] = {}  # jobs of all trials by name, None while they run
        # a resumed search must not repeat the first one's draws
        sampler = optuna.samplers.TPESampler(seed=len(self._earlier))
        self.study = optuna.create_study(direction="minimize" if lower_is_better else "maximize", sampler=sampler)

    def _parameters(self, job: Job) -> Parameters:
        """The trial's parameters as numbers again, which `sweep.json` keeps as text. Raises UserError for what this
        search cannot have chosen: parameters become overrides, and the file may be anybody's."""
        found = {}
        for key, distribution in self._space.items():
            value = _chosen(distribution, job.keys.get(key, ""))
            if value is None:
                raise UserError(
                    f"{self._directory / MANIFEST} has {key}={job.keys.get(key)} in trial {job.trial}, which this "
                    "search cannot have chosen; choose another sweep.dir."
                )
            found[key] = value
        return found

    def next(self) -> Sequence[Job]:
        """Gives as many trials as may be open at a time; earlier ones first, with the parameters that they had."""
        jobs: list[Job] = []
        while self._asked < self._config.num_trials and len(self._open) < self._at_a_time:
            jobs += self._ask()
        return jobs

    def _ask(self) -> Sequence[Job]:
        number = self._asked
        self._asked += 1
        if number in self._earlier:
            self.study.enqueue_trial(dict(self._earlier[number]))
        trial = self.study.ask(self._space)
        jobs = self._make(number, trial.params)
        if all(job.name in self._known for job in jobs):  # Optuna may choose twice what it chose before
            self._tell(trial, jobs)
            return []
        self._known |= dict.fromkeys(job.name for job in jobs)
        self._open[number] = (trial, jobs)
        return jobs

    def ended(self, job: Job, state: states.State) -> None:
        """Tells Optuna when the last job of a trial has ended."""
        assert job.trial is not None
        self._known[job.name] = state
        trial, jobs = self._open[job.trial]
        if all(self._known[each.name] for each in jobs):
            del self._open[job.trial]
            self._tell(trial, jobs)

    def _tell(self, trial: Any, jobs: Sequence[Job]) -> None:
        ended = [self._known[job.name] for job in jobs]
        if all(state is not None and state.kind == states.DONE for state in ended):
            self.study.tell(trial, fmean(self._value(job) for job in jobs))
        else:
            self.study.tell(trial, state=self._optuna.trial.TrialState.FAIL)

    def _value(self, job: Job) -> float:
        final = json.loads(text_of(folder(self._directory, job.name) / "summary.json"))["final"]
        if self._config.metric not in final:
            measured = ", ".join(name for name in final if not name.endswith("_stderr"))
            raise UserError(f"sweep.metric={self._config.metric} is not measured by {job.name}; it has {measured}.")
        return float(final[self._config.metric])

    def best(self) -> tuple[Parameters, float] | None:
        """Parameters and value of the best trial, None while none is complete."""
        complete = any(trial.state == self._optuna.trial.TrialState.COMPLETE for trial in self.study.trials)
        return (self.study.best_params, self.study.best_value) if complete else None


def _chosen(distribution: Any, text: str) -> Any:
    """The value of one of Optuna's distributions that a text stands for; None where it has no such value."""
    if not hasattr(distribution, "low"):
        return text if text in distribution.choices else None
    try:
        value = json.loads(text)
    except ValueError:
        return None
    kinds = int if isinstance(distribution.low, int) else int | float
    is_inside = isinstance(value, kinds) and distribution.low <= value <= distribution.high
    return value if is_inside else None
