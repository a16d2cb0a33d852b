"""From rollouts to verdicts: decode what was generated and ask the verifier."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from ebft.parallel.pulse import PULSE
from ebft.tasks.base import Question, Verdict, Verifier
from ebft.types import Rollout, is_any


@dataclass(frozen=True)
class Grader:
    """A verifier with the questions of a data set, in the order of its rows."""

    verifier: Verifier
    questions: Sequence[Question]
    decode: Callable[[int, list[list[int]]], list[str]]  # completions of the question with that number
    stop_tokens: tuple[int, ...]

    def texts(self, rollout: Rollout, row_ids: Int[Tensor, "B"]) -> list[list[str]]:
        """The N completions of every row (K = 1), up to their stop token and without it."""
        counted = (rollout.valid & ~is_any(rollout.tokens, self.stop_tokens)).cpu()
        rows = zip(row_ids.tolist(), rollout.tokens.cpu(), counted, strict=True)
        return [
            self.decode(number, [branch[mask].tolist() for branch, mask in zip(row[:, 0], masks[:, 0], strict=True)])
            for number, row, masks in rows
        ]

    def __call__(self, rollout: Rollout, row_ids: Int[Tensor, "B"]) -> list[list[Verdict]]:
        """A verdict for each of the N completions of every row."""
        texts = self.texts(rollout, row_ids)
        asked = [self.questions[row] for row, row_texts in zip(row_ids.tolist(), texts, strict=True) for _ in row_texts]
        with PULSE.busy():
            verdicts = iter(self.verifier.verify_all([text for row_texts in texts for text in row_texts], asked))
        return [[next(verdicts) for _ in row_texts] for row_texts in texts]
