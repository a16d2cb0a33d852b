"""Several held-out sets in one evaluation: the run's own, and further ones whose figures are called `NAME/FIGURE`."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from ebft.evaluation import Evaluation, Evaluator
from ebft.models.own_features import Phi
from ebft.models.policy import LanguageModel

Value = TypeVar("Value")


class SetsEvaluator:
    """Evaluates on the run's own rows, then on every set, by the same code."""

    def __init__(self, own: Evaluator, sets: Mapping[str, Evaluator]) -> None:
        self.own, self.sets = own, sets

    @property
    def phi(self) -> Phi:
        return self.own.phi

    @property
    def num_ticks(self) -> int:
        return self.own.num_ticks + sum(evaluator.num_ticks for evaluator in self.sets.values())

    def __call__(self, policy: LanguageModel, tick: Callable[[], None]) -> Evaluation:
        """Samples and answers to be read are those of the run's own rows."""
        result = self.own(policy, tick)
        for name, evaluator in self.sets.items():
            result = _with_set(result, name, evaluator(policy, tick))
        return result


def _with_set(result: Evaluation, name: str, other: Evaluation) -> Evaluation:
    def called(values: dict[str, Value]) -> dict[str, Value]:
        return {f"{name}/{figure}": value for figure, value in values.items()}

    return Evaluation(
        result.scores | called(other.scores),
        result.samples,
        result.figures | called(other.figures),
        result.answers,
        result.shares | called(other.shares),
        result.draws | called(other.draws),
    )
