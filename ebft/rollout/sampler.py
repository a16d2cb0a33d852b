"""Strided block-parallel rollouts: the row is forwarded once, then one token of every branch at a time over its cached
keys and values.

With `reuse`, every step of every block is drawn from the row's logits first. What a rollout draws there holds up to and
with its first token that is not the row's; from that one on it is a branch. Branches that drew the same tokens behind
the same anchor are one until they part, and a branch leaves when it has ended.
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ebft.geometry.attention import StepContext
from ebft.geometry.blocks import block_branches, from_branches, to_branches
from ebft.geometry.reuse import ABOVE_TOKENS, distinct, largest, leading_matches
from ebft.models.decoder import RowForward
from ebft.models.policy import LanguageModel
from ebft.types import Batch, Blocks, Rollout, is_any


def uniforms(
    key: str, row_ids: Int[Tensor, "B"], num_blocks: int, n_samples: int, generate_length: int
) -> Float[Tensor, "B N K G"]:
    """Uniform draws in [0, 1) for every token, a function of `key` and the row alone.

    Neither the other rows of a batch nor the number of blocks changes a row's draws, so micro-batches and resumed runs
    sample what the whole, undisturbed run samples.
    """

    def draw(row: int) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(f"{key}/{row}".encode()).digest())
        return np.random.default_rng(seed).random((num_blocks, n_samples, generate_length), dtype=np.float32)

    return torch.from_numpy(np.stack([draw(row) for row in row_ids.tolist()])).transpose(1, 2)


RUN = 128  # tokens of the vocabulary, whose probabilities are added up at once
BELOW_ONE = 1 - 2**-23  # of float32


@dataclass
class PartialRollouts:
    """Rollouts that are being drawn, block-major."""

    tokens: Int[Tensor, "B R G"]
    log_probs: Float[Tensor, "B R G"]
    last: Int[Tensor, "B R"]  # number of the latest token that holds; G where all do
    active: Bool[Tensor, "B R"]  # the others need no more tokens
    anchors: Int[Tensor, "B R"]  # of the branches that begin with the first token that is not the row's
    branch: Int[Tensor, "B R"]  # whose hidden states predict the next token

    @property
    def latest(self) -> Int[Tensor, "B R"]:
        return self.tokens.take_along_dim(self.last.clamp_max(self.tokens.shape[2] - 1)[..., None], dim=2).squeeze(2)

    def stop(self, stop_tokens: tuple[int, ...]) -> None:
        """Rollouts that have all their tokens, or their stop token, need no more."""
        step = torch.arange(self.tokens.shape[2], device=self.tokens.device)
        self.active &= self.last < self.tokens.shape[2] - 1
        if stop_tokens:
            self.active &= ~(is_any(self.tokens, stop_tokens) & (step <= self.last[..., None])).any(-1)

    def merge(self, context: StepContext, most: int) -> tuple[Int[Tensor, "B C"], Int[Tensor, "B C"]]:
        """Tokens and anchors of the different branches that go on; one branch for all rollouts that were one and drew
        the same token."""
        before, latest = self.branch, self.latest
        self.branch, first, _ = distinct(before * ABOVE_TOKENS + latest, self.active, most)
        anchors = self.anchors.gather(1, first)
        context.regroup(anchors, before.gather(1, first))
        return latest.gather(1, first), anchors

    def draw(
        self,
        policy: LanguageModel,
        hidden: Float[Tensor, "B C H"],
        draws: Float[Tensor, "B R G"],
        temperature: float,
        most: int,
    ) -> None:
        """The next token of every rollout that goes on, of which a row has so many at `most`."""
        chosen = self.active.int().argsort(dim=1, descending=True, stable=True)[:, :most]
        rows, place = (
            torch.arange(len(chosen), device=chosen.device)[:, None],
            (self.last.gather(1, chosen) + 1).clamp_max(self.tokens.shape[2] - 1),
        )
        active = self.active.gather(1, chosen)
        drawn = _draw(
            policy, hidden[rows, self.branch.gather(1, chosen)], draws[rows, chosen, place][..., None], temperature
        )
        for held, new in zip((self.tokens, self.log_probs), drawn, strict=True):
            held[rows, chosen, place] = torch.where(active, new.squeeze(-1), held[rows, chosen, place])
        self.last = self.last + 1


def sample(
    policy: LanguageModel,
    batch: Batch,
    blocks: Blocks,
    draws: Float[Tensor, "B N K G"],
    temperature: float,
    stop_tokens: tuple[int, ...],
    reuse: bool,
    kept: RowForward | None = None,
) -> tuple[Rollout, Float[Tensor, "B T H"]]:
    """Roll out every block: token t of a branch is the inverse CDF of softmax(logits / temperature) at its draw.

    A branch ends with its first stop token, if there are any: that token counts, later ones are marked invalid and
    filled with the first of `stop_tokens`. The last token of a branch is never forwarded, for nothing is predicted from
    it; nor is the row where its forward was `kept`. Returns the row's hidden states as well, which the rollouts needed
    and its cross-entropy can use.
    """
    n_samples, num_steps, uniform = draws.shape[1], draws.shape[3], to_branches(draws)
    with policy.inference_mode():
        row, context = policy.prefill(batch, blocks, n_samples, num_steps - 1, kept)
        rollouts = _begin(
            batch,
            blocks,
            *_along_the_row(policy, blocks, row, draws, temperature, num_steps if reuse else 1),
            num_steps,
            reuse,
        )
        # all that a step has to ask a device
        matches = rollouts.last.masked_fill(~rollouts.active, num_steps).cpu() if reuse else None
        for step in range(num_steps - 1):
            tokens, anchors, most = rollouts.latest, rollouts.anchors, rollouts.anchors.shape[1]
            if matches is not None:
                rollouts.stop(stop_tokens)
                most = largest(rollouts.active.sum(1), int((matches < num_steps - 1 - step).sum(1).max()))
                if most == 0:
                    break
                tokens, anchors = rollouts.merge(context, most)
            hidden = policy.step_hidden(tokens, anchors, context)
            rollouts.draw(policy, hidden, uniform, temperature, most)
    # out of inference mode
    drawn, scored = (from_branches(x, n_samples).clone() for x in (rollouts.tokens, rollouts.log_probs))
    rollout = until_stop(blocks, drawn, scored, stop_tokens)
    return replace(rollout, matches=None if matches is None else matches.clone()), row


def _along_the_row(
    policy: LanguageModel,
    blocks: Blocks,
    row: Float[Tensor, "B T H"],
    draws: Float[Tensor, "B N K G"],
    temperature: float,
    num_steps: int,
) -> tuple[Int[Tensor, "B N K J"], Float[Tensor, "B N K J"]]:
    """Tokens that the N rollouts of a block draw at every step as if all before were the row's, from one distribution,
    and their log-probs."""
    steps = []
    for step in range(num_steps):
        before = (blocks.anchors + step - 1).clamp_max(row.shape[1] - 1)
        steps.append(
            _draw(policy, row.take_along_dim(before[..., None], dim=1), draws[..., step].transpose(1, 2), temperature)
        )
    tokens, log_probs = (torch.stack(drawn, dim=-1).transpose(1, 2) for drawn in zip(*steps, strict=True))
    return tokens, log_probs


def _begin(
    batch: Batch,
    blocks: Blocks,
    tokens: Int[Tensor, "B N K J"],
    log_probs: Float[Tensor, "B N K J"],
    num_steps: int,
    reuse: bool,
) -> PartialRollouts:
    """Rollouts of which the row has been drawn; without `reuse` its first token, of every branch."""
    n_samples, known = tokens.shape[1], tokens.shape[3]
    shared = to_branches(leading_matches(batch, blocks, tokens) if reuse else torch.zeros_like(tokens[..., 0]))
    anchors, exists = (block_branches(x, n_samples) for x in (blocks.anchors, blocks.valid))
    tokens, log_probs = (torch.nn.functional.pad(to_branches(x), (0, num_steps - known)) for x in (tokens, log_probs))
    if reuse:
        return PartialRollouts(tokens, log_probs, shared, exists, anchors + shared, branch=anchors + shared)
    every = torch.arange(anchors.shape[1], device=anchors.device).expand_as(anchors)
    return PartialRollouts(tokens, log_probs, shared, torch.ones_like(exists), anchors, branch=every)


def _draw(
    policy: LanguageModel, hidden: Float[Tensor, "B C H"], uniform: Float[Tensor, "B C J"], temperature: float
) -> tuple[Int[Tensor, "B C J"], Float[Tensor, "B C J"]]:
    """J tokens from the distribution behind every position, and their log-probs; so many positions at a time as their
    logits allow."""
    drawn, size = [], policy.max_logit_positions
    for states, targets in zip(*(x.flatten(0, 1).split(size) for x in (hidden, uniform)), strict=True):
        scaled = policy.logits(states).div_(temperature)
        weights = scaled.sub_(scaled.amax(-1, keepdim=True)).exp_()  # in place: logits are large, and nobody else's
        token = inverse_cdf(weights, targets)
        drawn.append((token, weights.gather(-1, token).log() - weights.sum(-1, keepdim=True).log()))
    tokens, log_probs = (torch.cat(parts).unflatten(0, uniform.shape[:2]) for parts in zip(*drawn, strict=True))
    return tokens, log_probs


def inverse_cdf(probabilities: Float[Tensor, "*b V"], uniform: Float[Tensor, "*b J"]) -> Int[Tensor, "*b J"]:
    """The first token up to which more than the share `uniform` of the distribution lies; `probabilities` need not sum
    to 1. First the run of tokens in which it lies, then its place there: only that run is summed token by token."""
    size = min(RUN, probabilities.shape[-1])
    missing = -probabilities.shape[-1] % size
    runs = torch.nn.functional.pad(probabilities, (0, missing)) if missing else probabilities
    runs = runs.unflatten(-1, (-1, size))
    cumulative = runs.sum(-1).cumsum(-1)
    targets = (uniform * cumulative[..., -1:]).contiguous()  # as searchsorted asks, with a warning
    run = torch.searchsorted(cumulative, targets, right=True).clamp_max(cumulative.shape[-1] - 1)
    before = torch.nn.functional.pad(cumulative, (1, 0)).gather(-1, run)
    within = runs.take_along_dim(run[..., None], dim=-2).cumsum(-1)
    # rounding must not lead behind the run's last token that can be drawn
    left = torch.minimum(targets - before, within[..., -1] * BELOW_ONE)
    place = torch.searchsorted(within, left[..., None].contiguous(), right=True).squeeze(-1)
    return (run * size + place).clamp_max(probabilities.shape[-1] - 1)  # of what is not a number, any token


def until_stop(
    blocks: Blocks, tokens: Int[Tensor, "B N K G"], log_probs: Float[Tensor, "B N K G"], stop_tokens: tuple[int, ...]
) -> Rollout:
    """Tokens behind a branch's first stop token become the first of `stop_tokens`, and invalid."""
    valid = blocks.valid[:, None, :, None].expand(tokens.shape)
    if stop_tokens:
        stops = is_any(tokens, stop_tokens).long()
        stopped = stops.cumsum(-1) - stops > 0  # before this token
        tokens, valid = tokens.masked_fill(stopped, stop_tokens[0]), valid & ~stopped
    return Rollout(blocks, tokens, log_probs, valid)
