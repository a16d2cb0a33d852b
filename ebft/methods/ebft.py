"""Energy-based fine-tuning (Jelassi et al., arXiv 2603.12248): match the features of the model's own rollouts with the
real continuation's.

    minimise  rl_coef * L_CFM(theta) + ce_coef * cross-entropy(theta)
    L_CFM = E_{c,y} | E_{yhat ~ p_theta(.|c)} phi(c, yhat) - phi(c, y) |^2

One optimiser step, strictly on-policy: roll out N short branches at every anchor, embed them and the real continuation
with the frozen phi, reward alignment with the reference and diversity among the branches, take the policy gradient.
With `sampler.reuse` no stage forwards a token twice that a rollout shares with its row or with another rollout. Where a
step is one micro-batch, its rows' forward serves sampling and update alike.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ebft.config.methods import EBFTConfig
from ebft.config.schema import SamplerConfig
from ebft.geometry.blocks import find_blocks
from ebft.geometry.reuse import branches_of, leading_matches
from ebft.methods.base import Counts, Cut, Ingredients, Loss, Tally, branch_tokens
from ebft.methods.metrics import signal
from ebft.methods.own import own_reward
from ebft.methods.scoring import scored
from ebft.models.decoder import RowForward
from ebft.models.logprobs import Labels, row_labels
from ebft.models.own_features import Phi
from ebft.models.policy import LanguageModel
from ebft.objective.advantages import advantages, leave_row_out, row_sums
from ebft.objective.losses import cross_entropy, policy_gradient
from ebft.objective.rewards import signed_rewards
from ebft.rollout.sampler import sample, uniforms
from ebft.types import Batch, Blocks, Rollout, to_device


@dataclass(frozen=True)
class EBFTExperience:
    """What a micro-batch contributes to an update."""

    batch: Batch
    text: Labels  # the row's own tokens
    rollout: Rollout
    alignment: Float[Tensor, "B N K"]
    diversity: Float[Tensor, "B N K"]
    reward: Float[Tensor, "B N K"]
    advantages: Float[Tensor, "B N K"]  # of advantage=batch, before its baseline
    row_sums: Float[Tensor, "2 B"] | None  # of advantage=batch alone
    whitening_sign: Float[Tensor, "B N K"] | None  # of the authors' whitening alone
    reused: Int[Tensor, "B N K"]  # tokens that the row's forward stood for
    row: RowForward | None  # its forward, if it was kept for the update


class EBFT:
    def __init__(
        self,
        config: EBFTConfig,
        sampler: SamplerConfig,
        policy: LanguageModel,
        phi: Phi,
        seed: int,
        stop_tokens: tuple[int, ...],
        micro_batches_together: int = 1,
    ) -> None:
        self.config, self.sampler, self.policy, self.phi = config, sampler, policy, phi
        self.seed, self.stop_tokens, self.micro_batches_together = seed, stop_tokens, micro_batches_together
        self.reward = None if config.reward is None else own_reward(config.reward, policy.device)

    @classmethod
    def of(cls, given: Ingredients) -> "EBFT":
        config = given.config
        assert isinstance(config.method, EBFTConfig)
        return cls(
            *(config.method, config.sampler, given.policy, given.phi, config.seed, given.stop_tokens),
            given.micro_batches_together,
        )

    def prepare(self, batch: Batch, step: int, is_only_microbatch: bool) -> EBFTExperience:
        config, geometry, device = self.config, self.sampler, self.policy.device
        blocks = self._blocks(batch)
        draws = uniforms(
            f"{self.seed}/train/{step}",
            batch.row_ids,
            blocks.anchors.shape[1],
            geometry.n_samples,
            geometry.generate_length,
        )
        text = row_labels(batch).to(device)
        batch, blocks, draws = batch.to(device), blocks.to(device), to_device(draws, device)

        row = self.policy.kept_forward(batch) if is_only_microbatch else None
        rollout, _ = sample(
            self.policy, batch, blocks, draws, geometry.temperature, self.stop_tokens, geometry.reuse, row
        )
        embeddings = self.phi.embeddings(batch, rollout, geometry.reuse)
        alignment, diversity, sign = signed_rewards(embeddings, self.phi.features.whitening)
        if self.reward is None:
            reward = config.alignment_coef * alignment - config.diversity_coef * diversity
            advantage = advantages(alignment, diversity, config.alignment_coef, config.diversity_coef, config.advantage)
        else:  # of which nothing is known, so that its baseline is that of an alignment
            reward = self.reward(embeddings)
            advantage = advantages(reward, torch.zeros_like(reward), 1.0, 0.0, config.advantage)
        matches = (
            leading_matches(batch, blocks, rollout.tokens)
            if geometry.reuse
            else torch.zeros_like(rollout.tokens[..., 0])
        )
        reused = matches.minimum(rollout.valid.sum(-1))
        sums = row_sums(reward, rollout.log_probs, rollout.valid) if config.advantage == "batch" else None
        return EBFTExperience(batch, text, rollout, alignment, diversity, reward, advantage, sums, sign, reused, row)

    def prepare_together(self, batch: Batch, cuts: list[Cut], step: int) -> list[EBFTExperience]:
        """Rollouts hold no activations, so that those of several micro-batches can be drawn together."""
        at_a_time, prepared = self.micro_batches_together, list[EBFTExperience]()
        for first in range(0, len(cuts), at_a_time):
            group = cuts[first : first + at_a_time]
            start, stop = group[0][0], group[-1][1]
            whole = self.prepare(batch.rows(start, stop), step, False)
            prepared += (
                [whole]
                if len(group) == 1
                else [self._part(whole, batch.rows(*cut), slice(cut[0] - start, cut[1] - start)) for cut in group]
            )
        return prepared

    def _part(self, whole: EBFTExperience, part: Batch, rows: slice) -> EBFTExperience:
        """What is in `whole` of some of its rows, which are `part`: its blocks are their first."""
        device, blocks = self.policy.device, self._blocks(part).to(self.policy.device)
        here = rows, slice(None), slice(0, blocks.anchors.shape[1])
        return EBFTExperience(
            batch=whole.batch.rows(rows.start, rows.stop),
            text=row_labels(part).to(device),
            rollout=whole.rollout.of(rows, blocks),
            alignment=whole.alignment[here],
            diversity=whole.diversity[here],
            reward=whole.reward[here],
            advantages=whole.advantages[here],
            row_sums=None if whole.row_sums is None else whole.row_sums[:, rows],
            whitening_sign=None if whole.whitening_sign is None else whole.whitening_sign[here],
            reused=whole.reused[here],
            row=None,
        )

    def counts(self, prepared: EBFTExperience) -> Counts:
        counts = {"generated": prepared.rollout.valid.sum(), "targets": prepared.text.wanted.sum()}
        if prepared.row_sums is not None:
            counts["reward"], counts["weight"] = prepared.row_sums.sum(1)
        return counts

    def losses(self, prepared: EBFTExperience, totals: Counts, max_tokens: int | None) -> Iterator[Loss]:
        """rl_coef * policy gradient + ce_coef * cross-entropy, of the branches group by group and then of the row."""
        config, batch, rollout = self.config, prepared.batch, prepared.rollout
        branches = branches_of(batch, rollout.predicting, self.sampler.reuse, branch_tokens(batch, max_tokens))
        text, temperature = prepared.text if config.ce_coef else None, self.sampler.temperature
        advantage = prepared.advantages
        if prepared.row_sums is not None:
            baselines = leave_row_out(prepared.row_sums, totals["reward"], totals["weight"])
            advantage = advantage - baselines.to(advantage.dtype)[:, None, None]
        for part in scored(self.policy, batch, rollout, branches, temperature, text, prepared.row):
            rl = policy_gradient(part.log_probs, advantage, part.wanted, totals["generated"])
            total, parts = config.rl_coef * rl, {"policy_gradient": rl}
            if part.text is not None:
                parts["cross_entropy"] = cross_entropy(part.text, prepared.text.wanted, totals["targets"])
                total = total + config.ce_coef * parts["cross_entropy"]
            yield part.loss(total, parts)

    def metrics(self, prepared: list[EBFTExperience]) -> dict[str, Tally]:
        return signal(prepared, self.stop_tokens)

    def row_tokens(self, batch: Batch) -> list[int]:
        own = self.sampler.n_samples * self.sampler.generate_length
        return [batch.tokens.shape[1] + own * num_blocks for num_blocks in self._blocks(batch).valid.sum(1).tolist()]

    def _blocks(self, batch: Batch) -> Blocks:
        geometry = self.sampler
        return find_blocks(batch, geometry.anchors, geometry.context_length, geometry.stride, geometry.generate_length)

    @property
    def tokens_forwarded(self) -> float:
        return self.policy.decoder.tokens_forwarded + self.phi.tokens_forwarded
