"""A method with rollouts, as a user would write it: of N completions of every prompt, learn the best one.

ebft-train --config-dir tests/own/conf method=best_of_n
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ebft.config.methods import OwnMethodConfig
from ebft.config.schema import Needs, SamplerConfig, at_least
from ebft.geometry.blocks import completion_blocks, make_branches
from ebft.methods.base import Counts, Ingredients, Loss, Tally, branch_tokens
from ebft.methods.scoring import scored
from ebft.objective.losses import cross_entropy
from ebft.rollout.completions import Decoding, complete
from ebft.types import Batch, Rollout


@dataclass(frozen=True)
class BestOfNConfig(OwnMethodConfig):
    max_new_tokens: int = at_least(1)  # of a completion

    def needs(self, sampler: SamplerConfig) -> Needs:
        return Needs("completions", self.max_new_tokens, updated_rollouts=1, asks_questions=True)


@dataclass(frozen=True)
class Chosen:
    """A micro-batch with the best completion of every prompt."""

    batch: Batch
    best: Rollout  # N = K = 1; valid where a token counts in the loss
    scores: Float[Tensor, "B N"]  # of all completions, 0 where none was given
    judged: Bool[Tensor, "B N"]
    learned: Bool[Tensor, "B"]  # prompts with a completion above 0


class BestOfN:
    Config = BestOfNConfig

    def __init__(self, given: Ingredients) -> None:
        assert given.grader is not None
        self.config, self.sampler, self.seed = given.config.method, given.config.sampler, given.config.seed
        self.policy, self.grader = given.policy, given.grader

    @classmethod
    def of(cls, given: Ingredients) -> "BestOfN":
        return cls(given)

    def prepare(self, batch: Batch, step: int, is_only_microbatch: bool) -> Chosen:
        device, length = self.policy.device, self.config.max_new_tokens
        batch, blocks = batch.to(device), completion_blocks(batch).to(device)
        decoding, key = Decoding(self.sampler.temperature, top_p=1.0), f"{self.seed}/train/{step}"
        stop, n_samples = self.grader.stop_tokens, self.sampler.n_samples
        rollout = complete(self.policy, batch, blocks, n_samples, length, decoding, key, stop).rollout
        verdicts = [[verdict.score for verdict in row] for row in self.grader(rollout, batch.row_ids)]
        judged = torch.tensor([[score is not None for score in row] for row in verdicts], device=device)
        scores = torch.tensor([[score or 0.0 for score in row] for row in verdicts], device=device)
        highest, which = scores.max(1).values, scores.argmax(1)  # argmax is the first of several
        rows, learned = torch.arange(len(batch), device=device), highest > 0
        tokens, log_probs, valid = (x[rows, which][:, None] for x in (rollout.tokens, rollout.log_probs, rollout.valid))
        best = Rollout(rollout.blocks, tokens, log_probs, valid & learned[:, None, None, None])
        return Chosen(batch, best, scores, judged, learned)

    def counts(self, prepared: Chosen) -> Counts:
        return {"tokens": prepared.best.valid.sum()}

    def losses(self, prepared: Chosen, totals: Counts, max_tokens: int | None) -> Iterator[Loss]:
        """- 1/M sum of log p(token) at temperature 1, M the valid tokens of all best completions of the batch."""
        batch, best = prepared.batch, prepared.best
        branches = make_branches(best.blocks, best.predicting.tokens, branch_tokens(batch, max_tokens))
        for part in scored(self.policy, batch, best, branches, temperature=1.0, text=None):
            loss = cross_entropy(part.log_probs.flatten(1), part.wanted.flatten(1), totals["tokens"])
            yield part.loss(loss, {"best_of_n": loss})

    def row_tokens(self, batch: Batch) -> list[int]:
        return [batch.tokens.shape[1] + self.sampler.n_samples * self.config.max_new_tokens] * len(batch)

    def metrics(self, prepared: list[Chosen]) -> dict[str, Tally]:
        scores, judged = (torch.cat([getattr(x, name) for x in prepared]) for name in ("scores", "judged"))
        learned = torch.cat([x.learned for x in prepared])
        best = scores.max(1).values
        return {
            "reward": Tally.of(scores, judged),
            "best_reward": Tally.of(best, judged.any(1)),
            "learned": Tally.of(learned.double(), torch.ones_like(learned)),
        }

    @property
    def tokens_forwarded(self) -> float:
        return self.policy.decoder.tokens_forwarded
