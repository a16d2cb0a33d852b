"""The best evaluation of a run by one metric, whose weights are kept, and when to stop waiting for a better one.

The run's last weights and its final figures stay what they are: whoever picks the best of several evaluations and
reports that very figure reports too good a one, unless it was picked on rows of its own (`eval.sets`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ebft.comparison.known_metrics import expected
from ebft.config.identity import flat, resolved
from ebft.config.schema import RunFailure, TrainConfig, UserError
from ebft.output.metric_names import (
    BY_DIRECTION,
    NEITHER,
    WAYS,
    check_known,
    family,
    in_own_set,
    lower_is_better,
    short,
)

KEY = "trainer.keep_best"


@dataclass
class Best:
    """The first of the best evaluations so far, the one before training included."""

    metric: str
    lower: bool
    stop_after: int | None  # evaluations without a better one that end the run
    step: int | None = None  # of the best; None before the first evaluation
    figures: Mapping[str, float] = field(default_factory=dict)  # of that evaluation
    waited: int = 0  # evaluations since then

    @classmethod
    def of(cls, config: TrainConfig, directions: Mapping[str, str]) -> "Best | None":
        """None where no metric is to be kept by; `directions` are those of a user's own task. Raises UserError for a
        metric that this run does not measure, and for one without a better side."""
        metric = config.trainer.keep_best
        if metric is None:
            return None
        own = directions.get(short(in_own_set(metric)))
        if own is None:
            _check_measured(metric, config)
        lower = lower_is_better(metric) if own is None else WAYS[own]
        if lower is NEITHER:
            raise UserError(
                f"{KEY}={metric} is better neither high nor low; choose one that is, as eval/cross_entropy."
            )
        return cls(metric, lower, config.trainer.stop_after)

    @property
    def value(self) -> float:
        return self.figures[self.metric]

    @property
    def is_over(self) -> bool:
        """Whether there was no better evaluation for as long as the run is to wait."""
        return self.stop_after is not None and self.waited >= self.stop_after

    def saw(self, step: int, figures: Mapping[str, float]) -> None:
        """An evaluation that lacks the metric, as where no answer could be judged, is no better one. RunFailure if the
        first one lacks it."""
        value = figures.get(self.metric)
        if self.step is None and value is None:
            raise RunFailure(f"{KEY}={self.metric} could not be measured at step {step}; choose another metric.")
        if self.step is None or (value is not None and (value < self.value if self.lower else value > self.value)):
            self.step, self.figures, self.waited = step, dict(figures), 0
        else:
            self.waited += 1

    def state(self) -> dict[str, Any]:
        return {"metric": self.metric, "step": self.step, "figures": dict(self.figures), "waited": self.waited}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.step, self.figures, self.waited = state["step"], state["figures"], state["waited"]

    def summary(self) -> dict[str, Any] | None:
        """For summary.json; None before the first evaluation."""
        if self.step is None:
            return None
        return {"metric": self.metric, "value": self.value, "step": self.step, "figures": dict(self.figures)}


def _check_measured(metric: str, config: TrainConfig) -> None:
    try:
        check_known(metric)
    except UserError as error:
        raise UserError(f"{KEY}: {error}") from error
    names = expected(flat(resolved(config)))
    if metric not in names and family(metric) not in BY_DIRECTION:  # a translation's directions show in its rows alone
        raise UserError(f"{KEY}={metric} is not measured by this run; it measures {', '.join(sorted(names))}.")
