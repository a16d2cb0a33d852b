"""Figures that tell whether a reward still carries signal (method.md section 6)."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from ebft.methods.base import Tally
from ebft.types import Rollout, is_any

EQUAL_REWARDS = 1e-6  # rewards of one context that differ by less tell its rollouts apart by rounding alone


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


def outcomes(prepared: Sequence[Verified]) -> dict[str, Tally]:
    """Means over all completions of an optimiser batch, rewards and passes over the judged ones."""

    def joined(figure: Callable[[Verified], Tensor]) -> Tensor:
        return torch.cat([figure(part).flatten() for part in prepared])

    judged, spread = joined(lambda part: part.judged), joined(lambda part: part.advantages.abs().amax(1))
    everyone = torch.ones_like(judged)
    figures = {
        "verifier_error_share": Tally.of(~judged, everyone),
        "truncated_share": Tally.of(joined(lambda part: part.truncated), everyone),
        "zero_advantage_share": Tally.of(spread <= EQUAL_REWARDS, torch.ones_like(spread, dtype=torch.bool)),
        "completion_tokens": Tally.of(joined(lambda part: part.rollout.valid.sum((2, 3))), everyone),
        "reward": Tally.of(joined(lambda part: part.rewards), judged),
        "passed_share": Tally.of(joined(lambda part: part.passed), judged),
    }
    if all(part.reference is not None for part in prepared):  # per token that counts, without bias
        figures["kl"] = Tally.of(joined(_log_ratios), joined(lambda part: part.rollout.valid))
    return figures


def _log_ratios(part: Verified) -> Float[Tensor, "B N 1 G"]:
    assert part.reference is not None
    return part.rollout.log_probs - part.reference


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


def signal(prepared: Sequence[Rewarded], stop_tokens: tuple[int, ...]) -> dict[str, Tally]:
    """Means over all rollouts of an optimiser batch; shares lie in [0, 1]. Nothing is asked of the device."""
    exists = torch.cat([part.rollout.blocks.valid.flatten() for part in prepared])

    def tally(values: Shaped[Tensor, "M N"] | Shaped[Tensor, "M"], is_spread: bool = False) -> Tally:
        return Tally.of(values, exists[:, None].expand_as(values) if values.ndim == 2 else exists, is_spread)

    def gather(name: str) -> Float[Tensor, "M N"]:
        return torch.cat([_contexts(getattr(part, name)) for part in prepared])

    rewards = gather("reward")
    tokens = torch.cat([_contexts(part.rollout.tokens) for part in prepared])
    reused = torch.cat([_contexts(part.reused) for part in prepared]).sum(1)
    generated = torch.stack([part.rollout.valid.sum() for part in prepared]).sum()
    figures = {
        "reward": tally(rewards),
        "alignment": tally(gather("alignment")),
        "diversity": tally(gather("diversity")),
        "advantage_std": tally(gather("advantages"), is_spread=True),
        "zero_advantage_share": tally(rewards.amax(1) - rewards.amin(1) <= EQUAL_REWARDS),
        "duplicate_share": tally(_has_twin(tokens)),
        "reused_share": Tally.ratio(torch.where(exists, reused, 0).sum(), generated),
    }
    if prepared[0].whitening_sign is not None:
        figures["negative_whitening_share"] = tally(gather("whitening_sign") < 0)
    if stop_tokens:
        figures["starts_with_eos_share"] = tally(is_any(tokens[..., 0], stop_tokens))
    return figures


def _contexts(x: Tensor) -> Tensor:
    """[B, N, K, ...] to [M, N, ...]: the M = B * K blocks, one after the other."""
    return x.transpose(1, 2).flatten(0, 1)


def _has_twin(tokens: Int[Tensor, "M N G"]) -> Bool[Tensor, "M N"]:
    """True where another rollout of the same context has the same tokens."""
    return (tokens[:, :, None] == tokens[:, None]).all(-1).sum(-1) > 1
