"""Figures that tell whether a reward still carries signal (method.md section 6)."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from ebft.types import Rollout

EQUAL_REWARDS = 1e-6  # rewards of one context that differ by less give it no advantage but rounding


@runtime_checkable
class Verified(Protocol):
    """Completions with their verdicts, of one micro-batch."""

    @property
    def rollout(self) -> Rollout: ...
    @property
    def reference(self) -> Float[Tensor, "B N 1 G"] | None: ...
    @property
    def rewards(self) -> Float[Tensor, "B N"]: ...
    @property
    def passed(self) -> Bool[Tensor, "B N"]: ...
    @property
    def judged(self) -> Bool[Tensor, "B N"]: ...
    @property
    def truncated(self) -> Bool[Tensor, "B N"]: ...
    @property
    def advantages(self) -> Float[Tensor, "B N"]: ...


def outcomes(prepared: Sequence[Verified]) -> dict[str, Float[Tensor, ""]]:
    """Means over all completions of an optimiser batch, rewards and passes over the judged ones."""
    judged = torch.cat([part.judged for part in prepared])
    spread = torch.cat([part.advantages.abs().amax(1) for part in prepared])
    figures = {
        "verifier_error_share": (~judged).float().mean(),
        "truncated_share": torch.cat([part.truncated for part in prepared]).float().mean(),
        "zero_advantage_share": (spread <= EQUAL_REWARDS).float().mean(),
        "completion_tokens": torch.cat([part.rollout.valid.sum((2, 3)) for part in prepared]).float().mean(),
    }
    if judged.any():
        figures["reward"] = torch.cat([part.rewards for part in prepared])[judged].mean()
        figures["passed_share"] = torch.cat([part.passed for part in prepared])[judged].float().mean()
    ratios = [(part.rollout.log_probs - part.reference)[part.rollout.valid] for part in prepared if part.reference is not None]
    if sum(map(len, ratios)):
        figures["kl"] = torch.cat(ratios).mean()  # per token that counts, without bias
    return figures


@runtime_checkable
class Rewarded(Protocol):
    """Rollouts with their rewards, of one micro-batch."""

    @property
    def rollout(self) -> Rollout: ...
    @property
    def alignment(self) -> Float[Tensor, "B N K"]: ...
    @property
    def diversity(self) -> Float[Tensor, "B N K"]: ...
    @property
    def reward(self) -> Float[Tensor, "B N K"]: ...
    @property
    def advantages(self) -> Float[Tensor, "B N K"]: ...
    @property
    def whitening_sign(self) -> Float[Tensor, "B N K"] | None: ...
    @property
    def reused(self) -> Int[Tensor, "B N K"]: ...


def signal(prepared: Sequence[Rewarded], stop_token: int | None) -> dict[str, Float[Tensor, ""]]:
    """Means over all rollouts of an optimiser batch; shares lie in [0, 1]. Nothing is asked of the device."""
    exists = torch.cat([part.rollout.blocks.valid.flatten() for part in prepared])

    def mean(values: Shaped[Tensor, "M N"] | Shaped[Tensor, "M"]) -> Float[Tensor, ""]:
        each = values.float().mean(1) if values.ndim == 2 else values.float()
        return torch.where(exists, each, 0).sum() / exists.sum()

    def gather(name: str) -> Float[Tensor, "M N"]:
        return torch.cat([_contexts(getattr(part, name)) for part in prepared])

    rewards, advantages = gather("reward"), gather("advantages")
    tokens = torch.cat([_contexts(part.rollout.tokens) for part in prepared])
    reused = torch.cat([_contexts(part.reused) for part in prepared]).sum(1)
    figures = {
        "reward": mean(rewards),
        "alignment": mean(gather("alignment")),
        "diversity": mean(gather("diversity")),
        "advantage_std": mean((advantages - mean(advantages)).square()).sqrt(),
        "zero_advantage_share": mean(rewards.amax(1) - rewards.amin(1) <= EQUAL_REWARDS),
        "duplicate_share": mean(_has_twin(tokens)),
        "reused_share": torch.where(exists, reused, 0).sum() / sum(part.rollout.valid.sum() for part in prepared),
    }
    if prepared[0].whitening_sign is not None:
        figures["negative_whitening_share"] = mean(gather("whitening_sign") < 0)
    if stop_token is not None:
        figures["starts_with_eos_share"] = mean(tokens[..., 0] == stop_token)
    return figures


def _contexts(x: Tensor) -> Tensor:
    """[B, N, K, ...] to [M, N, ...]: the M = B * K blocks, one after the other."""
    return x.transpose(1, 2).flatten(0, 1)


def _has_twin(tokens: Int[Tensor, "M N G"]) -> Bool[Tensor, "M N"]:
    """True where another rollout of the same context has the same tokens."""
    return (tokens[:, :, None] == tokens[:, None]).all(-1).sum(-1) > 1
