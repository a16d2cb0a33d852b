"""Figures that tell whether a reward still carries signal (method.md section 6)."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ebft.types import Rollout

EQUAL_REWARDS = 1e-6  # rewards of one context that differ by less give it no advantage but rounding


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


def signal(prepared: Sequence[Rewarded], stop_token: int | None) -> dict[str, float]:
    """Means over all rollouts of an optimiser batch, in one copy to the host; shares lie in [0, 1]."""

    def gather(name: str) -> Float[Tensor, "M N"]:
        return torch.cat([_contexts(getattr(part, name), part.rollout) for part in prepared])

    rewards, advantages = gather("reward"), gather("advantages")
    tokens = torch.cat([_contexts(part.rollout.tokens, part.rollout) for part in prepared])
    assert len(tokens), "an optimiser batch holds rows with blocks only"
    figures = {
        "reward": rewards.mean(),
        "alignment": gather("alignment").mean(),
        "diversity": gather("diversity").mean(),
        "advantage_std": (advantages - advantages.mean()).square().mean().sqrt(),
        "zero_advantage_share": (rewards.amax(1) - rewards.amin(1) <= EQUAL_REWARDS).float().mean(),
        "duplicate_share": _has_twin(tokens).float().mean(),
        "negative_whitening_share": (gather("whitening_sign") < 0).float().mean(),
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
