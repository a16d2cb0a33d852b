"""From rollouts to verdicts: decode what was generated and ask the verifier."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from ebft.parallel.pulse import PULSE
from ebft.tasks.base import Question, Verdict, Verifier
from ebft.types import Rollout


@dataclass(frozen=True)
class Grader:
    """A verifier with the questions of a data set, in the order of its rows."""

    verifier: Verifier
    questions: Sequence[Question]
    decode: Callable[[list[int]], str]
    stop_token: int

    def texts(self, rollout: Rollout) -> list[list[str]]:
        """The N completions of every row (K = 1), up to their stop token and without it."""
        counted = rollout.valid & (rollout.tokens != self.stop_token)
        return [
            [self.decode(branch[mask].tolist()) for branch, mask in zip(row[:, 0], masks[:, 0], strict=True)]
            for row, masks in zip(rollout.tokens.cpu(), counted.cpu(), strict=True)
        ]

    def __call__(self, rollout: Rollout, row_ids: Int[Tensor, "B"]) -> list[list[Verdict]]:
        """A verdict for each of the N completions of every row."""
        texts = self.texts(rollout)
        asked = [self.questions[row] for row, row_texts in zip(row_ids.tolist(), texts, strict=True) for _ in row_texts]
        with PULSE.busy():
            verdicts = iter(self.verifier.verify_all([text for row_texts in texts for text in row_texts], asked))
        return [[next(verdicts) for _ in row_texts] for row_texts in texts]
