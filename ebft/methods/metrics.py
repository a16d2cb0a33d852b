"""Figures that tell whether a reward still carries signal (method.md section 6)."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
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


def outcomes(prepared: Sequence[Verified]) -> dict[str, float]:
    """Means over all completions of an optimiser batch, rewards and passes over the judged ones, in one copy to the host."""
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
    values: list[float] = torch.stack(list(figures.values())).tolist()
    return dict(zip(figures, values, strict=True))


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
    def whitening_sign(self) -> Float[Tensor, "B N K"]: ...
    @property
    def reused(self) -> Int[Tensor, "B N K"]: ...


def signal(prepared: Sequence[Rewarded], stop_token: int | None) -> dict[str, float]:
    """Means over all rollouts of an optimiser batch, in one copy to the host; shares lie in [0, 1]."""

    def gather(name: str) -> Float[Tensor, "M N"]:
        return torch.cat([_contexts(getattr(part, name), part.rollout) for part in prepared])

    rewards, advantages = gather("reward"), gather("advantages")
    tokens = torch.cat([_contexts(part.rollout.tokens, part.rollout) for part in prepared])
    reused = torch.cat([_contexts(part.reused, part.rollout) for part in prepared]).sum()
    assert len(tokens), "an optimiser batch holds rows with blocks only"
    figures = {
        "reward": rewards.mean(),
        "alignment": gather("alignment").mean(),
        "diversity": gather("diversity").mean(),
        "advantage_std": (advantages - advantages.mean()).square().mean().sqrt(),
        "zero_advantage_share": (rewards.amax(1) - rewards.amin(1) <= EQUAL_REWARDS).float().mean(),
        "duplicate_share": _has_twin(tokens).float().mean(),
        "negative_whitening_share": (gather("whitening_sign") < 0).float().mean(),
        "reused_share": reused / sum(part.rollout.valid.sum() for part in prepared),
    }
    if stop_token is not None:
        figures["starts_with_eos_share"] = (tokens[..., 0] == stop_token).float().mean()
    values = torch.stack(list(figures.values())).tolist()
    return dict(zip(figures, values, strict=True))


def _contexts(x: Tensor, rollout: Rollout) -> Tensor:
    """[B, N, K, ...] to [M, N, ...]: the M blocks that exist, one after the other."""
    return x.transpose(1, 2)[rollout.blocks.valid]


def _has_twin(tokens: Int[Tensor, "M N G"]) -> Bool[Tensor, "M N"]:
    """True where another rollout of the same context has the same tokens."""
    return (tokens[:, :, None] == tokens[:, None]).all(-1).sum(-1) > 1
