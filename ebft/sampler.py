"""Strided block-parallel rollouts: the row is forwarded once, then one token of every branch at a time over its cached keys and values."""

import hashlib

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ebft.blocks import block_branches, from_branches
from ebft.models import LanguageModel
from ebft.types import Batch, Blocks, Rollout


def uniforms(key: str, row_ids: Int[Tensor, "B"], num_blocks: int, n_samples: int, generate_length: int) -> Float[Tensor, "B N K G"]:
    """Uniform draws in [0, 1) for every token, a function of `key` and the row alone.

    Neither the other rows of a batch nor the number of blocks changes a row's draws, so micro-batches and resumed runs sample what the
    whole, undisturbed run samples.
    """

    def draw(row: int) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(f"{key}/{row}".encode()).digest())
        return np.random.default_rng(seed).random((num_blocks, n_samples, generate_length), dtype=np.float32)

    return torch.from_numpy(np.stack([draw(row) for row in row_ids.tolist()])).transpose(1, 2)


def sample(
    policy: LanguageModel, batch: Batch, blocks: Blocks, draws: Float[Tensor, "B N K G"], temperature: float, stop_token: int | None
) -> tuple[Rollout, Float[Tensor, "B T H"]]:
    """Roll out every block: token t of a branch is the inverse CDF of softmax(logits / temperature) at its draw.

    A branch ends with its first `stop_token`, if there is one: that token counts, later ones are marked invalid and filled with it. The
    last token of a branch is never forwarded, for nothing is predicted from it. Returns the row's hidden states as well, which the rollouts
    needed and its cross-entropy can use.
    """
    n_samples, generate_length = draws.shape[1], draws.shape[3]
    anchors = block_branches(blocks.anchors, n_samples)
    with policy.evaluating():
        row, context = policy.prefill(batch, blocks, n_samples, generate_length - 1)
        before = row.take_along_dim((blocks.anchors - 1)[..., None], dim=1)
        first = draws[..., 0].transpose(1, 2)  # the N first tokens of a block come from one distribution
        token, log_prob = (block.flatten(1) for block in _draw(policy.logits(before), first, temperature))
        tokens, log_probs = [token], [log_prob]
        for step in range(1, generate_length):
            hidden = policy.step_hidden(token, anchors, context)
            uniform = draws[..., step].transpose(1, 2).flatten(1)[..., None]
            token, log_prob = (branch.squeeze(-1) for branch in _draw(policy.logits(hidden), uniform, temperature))
            tokens.append(token)
            log_probs.append(log_prob)
    drawn, scored = (from_branches(torch.stack(steps, dim=-1), n_samples) for steps in (tokens, log_probs))
    return until_stop(blocks, drawn, scored, stop_token), row


def _draw(logits: Float[Tensor, "B R V"], uniform: Float[Tensor, "B R J"], temperature: float) -> tuple[Tensor, Tensor]:
    """J tokens from every distribution, and their log-probs."""
    log_probs = (logits / temperature).log_softmax(-1)
    token = inverse_cdf(log_probs.exp(), uniform)
    return token, log_probs.gather(-1, token)


def inverse_cdf(probabilities: Float[Tensor, "*b V"], uniform: Float[Tensor, "*b J"]) -> Int[Tensor, "*b J"]:
    """The first token up to which more than the share `uniform` of the distribution lies; `probabilities` need not sum to 1."""
    cumulative = probabilities.cumsum(-1)
    targets = (uniform * cumulative[..., -1:]).contiguous()  # as searchsorted asks, with a warning
    return torch.searchsorted(cumulative, targets, right=True).clamp_max(probabilities.shape[-1] - 1)


def until_stop(blocks: Blocks, tokens: Int[Tensor, "B N K G"], log_probs: Float[Tensor, "B N K G"], stop_token: int | None) -> Rollout:
    """Later tokens than a branch's first `stop_token` become `stop_token` and invalid."""
    valid = blocks.valid[:, None, :, None].expand(tokens.shape)
    if stop_token is not None:
        stopped = (tokens == stop_token).cumsum(-1) - (tokens == stop_token).long() > 0  # before this token
        tokens, valid = tokens.masked_fill(stopped, stop_token), valid & ~stopped
    return Rollout(blocks, tokens, log_probs, valid)
