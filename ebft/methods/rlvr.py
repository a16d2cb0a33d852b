"""Reinforcement learning from verifiable rewards: the policy answers, the data's task judges, policy gradient does the
rest.

    maximise  E_{q, y ~ p_theta(.|q)} reward(y, q)  -  kl_coef * KL(p_theta | p_reference)  -  ce_coef * cross-entropy

One optimiser step, strictly on-policy: N completions of every prompt to their end (the sampler's case K = 1), one
verdict each, advantages among the completions of a prompt. A token's weight in the loss, with advantage A_j and R
completions in the optimiser batch:

    none, rloo  A_j / R                    the gradient of the expected reward, without bias (arXiv 2402.14740)
    grpo        A_j / (R * tokens of j)    arXiv 2402.03300, at one step a batch, where its ratios are 1
    dr_grpo     A_j / (R * max_new_tokens) arXiv 2503.20783

The KL estimators are Schulman's (http://joschu.net/blog/kl-approx.html). As a loss k1 has no gradient in expectation,
so it is taken from the reward instead, log-ratio of the whole completion; k2 and k3 are means over tokens in the loss.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ebft.config.methods import RLVRConfig
from ebft.config.schema import SamplerConfig
from ebft.geometry.blocks import completion_blocks, make_branches
from ebft.geometry.reuse import branches_of
from ebft.methods.base import Counts, Ingredients, Loss, Tally, branch_tokens
from ebft.methods.metrics import outcomes
from ebft.methods.scoring import scored
from ebft.models.decoder import FORWARD_TOKENS, RowForward
from ebft.models.logprobs import Labels, branch_labels, row_labels
from ebft.models.policy import LanguageModel
from ebft.objective.advantages import outcome_advantages
from ebft.objective.losses import cross_entropy, kl_penalty, policy_gradient
from ebft.rollout.completions import Decoding, complete
from ebft.tasks.grader import Grader
from ebft.types import Batch, Rollout


@dataclass(frozen=True)
class RLVRExperience:
    """What a micro-batch contributes to an update."""

    batch: Batch
    text: Labels  # the rows' own tokens
    rollout: Rollout  # K = 1; valid where a token counts in the loss
    reference: Float[Tensor, "B N 1 G"] | None  # the reference policy's log-probs
    rewards: Float[Tensor, "B N"]
    passed: Bool[Tensor, "B N"]
    judged: Bool[Tensor, "B N"]  # False: the verifier's machinery failed
    counted: Bool[Tensor, "B N"]
    truncated: Bool[Tensor, "B N"]
    advantages: Float[Tensor, "B N"]
    row: RowForward | None  # its forward, if it was kept for the update


class RLVR:
    def __init__(
        self,
        config: RLVRConfig,
        sampler: SamplerConfig,
        policy: LanguageModel,
        reference: LanguageModel | None,
        grader: Grader,
        seed: int,
    ) -> None:
        self.config, self.sampler, self.policy, self.reference = config, sampler, policy, reference
        self.grader, self.seed = grader, seed

    @classmethod
    def of(cls, given: Ingredients) -> "RLVR":
        config = given.config
        assert isinstance(config.method, RLVRConfig)
        assert given.grader is not None
        return cls(config.method, config.sampler, given.policy, given.reference, given.grader, config.seed)

    def prepare(self, batch: Batch, step: int, is_only_microbatch: bool) -> RLVRExperience:
        config, device = self.config, self.policy.device
        blocks = completion_blocks(batch)
        if not config.ce_coef:
            batch = batch.columns(blocks.reach[0])  # the answers that stand behind the prompts are of no use
        text = row_labels(batch).to(device)
        batch, blocks = batch.to(device), blocks.to(device)
        row = self.policy.kept_forward(batch) if is_only_microbatch else None
        decoding, key = Decoding(self.sampler.temperature, top_p=1.0), f"{self.seed}/train/{step}"
        done = complete(
            self.policy,
            batch,
            blocks,
            self.sampler.n_samples,
            config.max_new_tokens,
            decoding,
            key,
            self.grader.stop_tokens,
            kept=row,
        )
        verdicts = self.grader(done.rollout, batch.row_ids)

        scores = torch.tensor(
            [[torch.nan if verdict.score is None else verdict.score for verdict in row] for row in verdicts],
            device=device,
        )
        ended = torch.tensor([[verdict.ended for verdict in row] for row in verdicts], device=device)
        judged, truncated = ~scores.isnan(), done.truncated[..., 0] & ~ended
        rewards = torch.where(judged & ~truncated, scores, 0)
        counted = judged & ~truncated if config.truncated == "masked" else judged
        reference = self._reference_log_probs(batch, done.rollout)
        penalised = rewards
        if reference is not None and config.kl_estimator == "k1":
            ratio = torch.where(done.rollout.valid, done.rollout.log_probs - reference, 0)
            penalised = rewards - config.kl_coef * ratio.sum((2, 3))
        rollout = Rollout(
            done.rollout.blocks,
            done.rollout.tokens,
            done.rollout.log_probs,
            done.rollout.valid & counted[..., None, None],
        )
        passed = torch.tensor([[verdict.passed for verdict in row] for row in verdicts], device=device) & ~truncated
        return RLVRExperience(
            batch,
            text,
            rollout,
            reference,
            rewards,
            passed,
            judged,
            counted,
            truncated,
            outcome_advantages(penalised, counted, config.advantage),
            row,
        )

    def _reference_log_probs(self, batch: Batch, rollout: Rollout) -> Float[Tensor, "B N 1 G"] | None:
        if self.reference is None:
            return None
        branches = make_branches(rollout.blocks, rollout.predicting.tokens, FORWARD_TOKENS[batch.tokens.device.type])
        labels = branch_labels(batch, rollout, branches, self.sampler.temperature)
        with self.reference.decoder.inference_mode():
            (log_probs,) = self.reference.log_probs(self.reference.flat_hidden(batch, branches), labels)
        return rollout.like_tokens(log_probs).clone()

    def counts(self, prepared: RLVRExperience) -> Counts:
        return {
            "completions": prepared.counted.sum(),
            "generated": prepared.rollout.valid.sum(),
            "targets": prepared.text.wanted.sum(),
        }

    def losses(self, prepared: RLVRExperience, totals: Counts, max_tokens: int | None) -> Iterator[Loss]:
        """Policy gradient + kl_coef * KL penalty + ce_coef * cross-entropy, of the completions group by group and then
        of the rows."""
        config, batch, rollout = self.config, prepared.batch, prepared.rollout
        room = None if max_tokens is None else branch_tokens(batch, max_tokens)
        # ends of different lengths would leave gaps behind long completions in groups
        packed = self.sampler.reuse and room is None
        branches = branches_of(batch, rollout.predicting, packed, room)
        text = prepared.text if config.ce_coef else None
        for part in scored(self.policy, batch, rollout, branches, self.sampler.temperature, text, prepared.row):
            total = policy_gradient(part.log_probs, self._weights(prepared), part.wanted, totals["completions"])
            parts = {"policy_gradient": total}
            if prepared.reference is not None and config.kl_estimator != "k1":
                parts["kl_penalty"] = kl_penalty(
                    part.log_probs, prepared.reference, part.wanted, totals["generated"], config.kl_estimator
                )
                total = total + config.kl_coef * parts["kl_penalty"]
            if part.text is not None:
                parts["cross_entropy"] = cross_entropy(part.text, prepared.text.wanted, totals["targets"])
                total = total + config.ce_coef * parts["cross_entropy"]
            yield part.loss(total, parts)

    def _weights(self, prepared: RLVRExperience) -> Float[Tensor, "B N 1"]:
        """The weight of a completion's tokens in the policy gradient, over the denominator."""
        weights = prepared.advantages
        if self.config.advantage == "grpo":
            weights = weights / prepared.rollout.valid.sum((2, 3)).clamp_min(1)
        elif self.config.advantage == "dr_grpo":
            weights = weights / self.config.max_new_tokens
        return weights[..., None]

    def row_tokens(self, batch: Batch) -> list[int]:
        return [batch.tokens.shape[1] + self.sampler.n_samples * self.config.max_new_tokens] * len(batch)

    def metrics(self, prepared: list[RLVRExperience]) -> dict[str, Tally]:
        return outcomes(prepared)

    @property
    def tokens_forwarded(self) -> float:
        return self.policy.decoder.tokens_forwarded + (
            0 if self.reference is None else self.reference.decoder.tokens_forwarded
        )
