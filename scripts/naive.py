"""EBFT as plainly as it can be put down: the slow twin of `ebft/methods/ebft.py`, for its results and for its cost.

Each of the N rollouts has a full copy of the row with its own tokens of all blocks behind it, step by step as the
authors' release lays them out:

    [ T row tokens | step 0 of blocks 0 .. K-1 | step 1 of blocks 0 .. K-1 | ... ]

Everything is forwarded again for every generated step, through all layers and the whole output head, with transformers'
own attention and a dense mask over all pairs. It knows rows that hold one document each, blocks everywhere, last-token
features and no end of sequence.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from ebft.config.methods import EBFTConfig
from ebft.config.schema import FeaturesConfig, SamplerConfig
from ebft.methods.base import Counts, Loss
from ebft.models.policy import LanguageModel
from ebft.objective.advantages import advantages
from ebft.objective.features import tap_indices
from ebft.objective.rewards import alignment_and_diversity
from ebft.rollout.sampler import uniforms
from ebft.types import Batch, Embeddings


def layout(anchors: Int[Tensor, "K"], row_length: int, num_steps: int) -> tuple[Int[Tensor, "S"], Bool[Tensor, "S S"]]:
    """Position ids of T row tokens with `num_steps` tokens of every block behind them, and [i, j]: i sees j (method.md
    section 2)."""
    num_blocks = len(anchors)
    block = torch.cat([torch.full((row_length,), -1), torch.arange(num_blocks).repeat(num_steps)])
    step = torch.cat([torch.arange(row_length), torch.arange(num_steps).repeat_interleave(num_blocks)])
    in_row = block == -1
    position = torch.where(in_row, step, anchors[block] + step)
    context_length = torch.where(in_row, position + 1, anchors[block])
    sees_row = in_row[None, :] & (position[None, :] < context_length[:, None])
    sees_own = ~in_row[:, None] & (block[None, :] == block[:, None]) & (step[None, :] <= step[:, None])
    return position, sees_row | sees_own


@dataclass(frozen=True)
class NaiveExperience:
    row: Int[Tensor, "B T"]
    anchors: Int[Tensor, "K"]
    tokens: Int[Tensor, "B N K G"]
    log_probs: Float[Tensor, "B N K G"]
    embeddings: Embeddings
    advantages: Float[Tensor, "B N K"]


class NaiveEBFT:
    """A `Method` like `EBFT`, with the same draws at the same seed. Takes the policy's model away from branch
    attention."""

    def __init__(
        self,
        config: EBFTConfig,
        sampler: SamplerConfig,
        features: FeaturesConfig,
        policy: LanguageModel,
        phi: PreTrainedModel,
        seed: int,
    ) -> None:
        assert sampler.anchors == "all", sampler.anchors
        assert (features.embed_method, features.normalize) == ("last_token", "joint"), features
        self.config, self.sampler, self.features, self.seed = config, sampler, features, seed
        self.model, self.phi = policy.model, phi
        for model in (self.model, self.phi):
            model.set_attn_implementation("sdpa")
        self.tokens_forwarded = 0.0

    def prepare(self, batch: Batch, step: int) -> NaiveExperience:
        config, geometry, row = self.config, self.sampler, batch.tokens
        last = row.shape[1] - geometry.generate_length
        anchors = torch.arange(geometry.context_length, last + 1, geometry.stride)
        key = f"{self.seed}/train/{step}"
        draws = uniforms(key, batch.row_ids, len(anchors), geometry.n_samples, geometry.generate_length)
        tokens, log_probs = self.sample(row, anchors, draws)
        embeddings = self.embeddings(row, anchors, tokens)
        parts = alignment_and_diversity(embeddings, self.features.whitening)
        advantage = advantages(*parts, config.alignment_coef, config.diversity_coef, config.advantage)
        return NaiveExperience(row, anchors, tokens, log_probs, embeddings, advantage)

    @torch.no_grad()
    def sample(
        self, row: Tensor, anchors: Tensor, draws: Float[Tensor, "B N K G"]
    ) -> tuple[Int[Tensor, "B N K G"], Float[Tensor, "B N K G"]]:
        """A full forward of all N copies for every generated step."""
        tokens = torch.empty((*draws.shape[:3], 0), dtype=torch.long)
        log_probs = torch.empty((*draws.shape[:3], 0))
        for step in range(draws.shape[3]):
            logits = self.predicting(self.logits(row, anchors, tokens), anchors, row.shape[1], step)
            scaled = (logits / self.sampler.temperature).log_softmax(-1)
            cumulative = scaled.exp().cumsum(-1)
            token = (
                (cumulative <= draws[..., step, None] * cumulative[..., -1:])
                .sum(-1, keepdim=True)
                .clamp_max(logits.shape[-1] - 1)
            )
            tokens = torch.cat([tokens, token], dim=-1)
            log_probs = torch.cat([log_probs, scaled.gather(-1, token)], dim=-1)
        return tokens, log_probs

    @torch.no_grad()
    def embeddings(self, row: Tensor, anchors: Tensor, tokens: Int[Tensor, "B N K G"]) -> Embeddings:
        """A full forward of all N copies through phi; its output head alone is left out."""
        (_, _, num_blocks, num_steps), row_length = tokens.shape, row.shape[1]
        hidden = self.forward(self.phi.base_model, row, anchors, tokens, output_hidden_states=True).hidden_states
        tapped = torch.cat(
            [hidden[tap] for tap in tap_indices(list(self.features.feature_layers), self.phi.config.num_hidden_layers)],
            dim=-1,
        )
        features = torch.nn.functional.normalize(tapped, dim=-1).unflatten(0, tokens.shape[:2])
        last_step = row_length + (num_steps - 1) * num_blocks
        return Embeddings(features[:, :, last_step:], features[:, 0, anchors + num_steps - 1])

    def counts(self, prepared: NaiveExperience) -> Counts:
        return {
            "generated": torch.tensor(prepared.tokens.numel()),
            "targets": torch.tensor(prepared.row[:, 1:].numel()),
        }

    def loss(self, prepared: NaiveExperience, totals: Counts) -> Loss:
        """All logits of a full forward of all N copies; the cross-entropy is the mean over the copies."""
        row, row_length, tokens = prepared.row, prepared.row.shape[1], prepared.tokens
        logits = self.logits(row, prepared.anchors, tokens)
        steps = [self.predicting(logits, prepared.anchors, row_length, step) for step in range(tokens.shape[3])]
        scaled = (torch.stack(steps, dim=3) / self.sampler.temperature).log_softmax(-1)
        log_probs = scaled.gather(-1, tokens[..., None]).squeeze(-1)
        rl = -(prepared.advantages[..., None] * log_probs).sum() / totals["generated"]
        text = logits[:, :, : row_length - 1].log_softmax(-1)
        targets = row[:, None, 1:, None].expand(-1, tokens.shape[1], -1, -1)
        ce = -text.gather(-1, targets).sum() / tokens.shape[1] / totals["targets"]
        return Loss(self.config.rl_coef * rl + self.config.ce_coef * ce, {"policy_gradient": rl, "cross_entropy": ce})

    def logits(self, row: Tensor, anchors: Tensor, tokens: Int[Tensor, "B N K G"]) -> Float[Tensor, "B N S V"]:
        return self.forward(self.model, row, anchors, tokens).logits.unflatten(0, tokens.shape[:2])

    def predicting(
        self, logits: Float[Tensor, "B N S V"], anchors: Tensor, row_length: int, step: int
    ) -> Float[Tensor, "B N K V"]:
        """The logits of every block's token `step`: the row's before the anchor, then those of the block's token
        before."""
        before = row_length + (step - 1) * len(anchors)
        return logits[:, :, anchors - 1] if step == 0 else logits[:, :, before : before + len(anchors)]

    def forward(
        self, module: PreTrainedModel, row: Tensor, anchors: Tensor, tokens: Int[Tensor, "B N K G"], **settings: bool
    ) -> Any:
        copies = row[:, None].expand(-1, tokens.shape[1], -1)
        flat = torch.cat([copies, tokens.transpose(2, 3).flatten(2)], dim=2).flatten(0, 1)
        positions, mask = layout(anchors, row.shape[1], tokens.shape[3])
        self.tokens_forwarded += flat.numel() * (3 if torch.is_grad_enabled() else 1)
        return module(
            input_ids=flat, position_ids=positions[None], attention_mask=mask[None, None], use_cache=False, **settings
        )

    def metrics(self, prepared: list[NaiveExperience]) -> dict[str, float]:
        return {}

    def rollouts(self, num_blocks: float) -> str:
        return f"{num_blocks:.1f} blocks in each of {self.sampler.n_samples} copies of a row"

    def tokens_per_row(self, row_length: int, num_blocks: float) -> dict[str, float]:
        n_samples, length = self.sampler.n_samples, self.sampler.generate_length
        whole = n_samples * (row_length + num_blocks * length)
        sampling = n_samples * sum(row_length + num_blocks * step for step in range(length))
        return {"sampling": sampling, "features": whole, "update": 3 * whole}
