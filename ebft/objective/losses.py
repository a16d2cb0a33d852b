"""Losses with explicit denominators (method.md section 7).

A denominator counts over the whole optimiser batch, so that the parts of its micro-batches add up to the same loss and
gradient however the batch was cut. It is a tensor, never 0 where its numerator is not; 0 over 0 is 0.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def policy_gradient(
    log_probs: Float[Tensor, "B N K G"],
    advantages: Float[Tensor, "B N K"],
    valid: Bool[Tensor, "B N K G"],
    denominator: Int[Tensor, ""],
) -> Float[Tensor, ""]:
    """- sum over valid tokens of advantage(sample, block) * log p(token), over `denominator` valid tokens."""
    weighted = advantages.detach()[..., None] * log_probs
    return -torch.where(valid, weighted, 0).sum() / denominator.clamp_min(1)


def cross_entropy(
    log_probs: Float[Tensor, "B T_minus_1"], loss_mask: Bool[Tensor, "B T_minus_1"], denominator: Int[Tensor, ""]
) -> Float[Tensor, ""]:
    """- sum of the log-probs (temperature 1) of the tokens that count, over `denominator` of them; nats per token."""
    return -torch.where(loss_mask, log_probs, 0).sum() / denominator.clamp_min(1)


def kl_penalty(
    log_probs: Float[Tensor, "B N K G"],
    reference: Float[Tensor, "B N K G"],
    valid: Bool[Tensor, "B N K G"],
    denominator: Int[Tensor, ""],
    estimator: str,
) -> Float[Tensor, ""]:
    """Mean over valid tokens of an estimate of KL(p | reference) from samples of p, with r = log p - log reference.

    k2 = r^2 / 2            its gradient is that of the KL divergence, in expectation
    k3 = exp(-r) - 1 + r    unbiased as a value, never negative; its gradient is that of KL(reference | p)

    """
    ratio = log_probs - reference
    estimate = ratio.square() / 2 if estimator == "k2" else torch.exp(-ratio) - 1 + ratio
    return torch.where(valid, estimate, 0).sum() / denominator.clamp_min(1)
