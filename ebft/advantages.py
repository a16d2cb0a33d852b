"""From rewards to advantages (method.md section 5)."""

import torch
from jaxtyping import Float
from torch import Tensor

STD_FLOOR = 1e-4  # group_norm: groups whose rewards hardly differ keep small advantages instead of amplified rounding


def rloo_baselines(alignment: Float[Tensor, "B N K"], diversity: Float[Tensor, "B N K"]) -> tuple[Float[Tensor, "B N K"], Float[Tensor, "B N K"]]:
    """Baselines of both reward parts that do not depend on sample j.

        b_alignment_j = mean over i != j of alignment_i
        b_diversity_j = (sum_i diversity_i - 2 diversity_j) / (N - 2),  0 at N = 2

    The second is twice the mean phi_i . phi_l over the pairs that exclude j; the plain leave-one-out mean keeps pairs with j and biases the
    gradient.
    """
    num_samples = alignment.shape[1]
    assert num_samples >= 2, "a leave-one-out baseline needs two samples"
    for_alignment = (alignment.sum(1, keepdim=True) - alignment) / (num_samples - 1)
    if num_samples == 2:
        return for_alignment, torch.zeros_like(diversity)
    return for_alignment, (diversity.sum(1, keepdim=True) - 2 * diversity) / (num_samples - 2)


def advantages(
    alignment: Float[Tensor, "B N K"], diversity: Float[Tensor, "B N K"], alignment_coef: float, diversity_coef: float, kind: str
) -> Float[Tensor, "B N K"]:
    """`none`: the reward itself. `rloo`: minus its baselines. `group_norm`: that, over the standard deviation of the N rewards of its context."""
    reward = alignment_coef * alignment - diversity_coef * diversity
    if kind == "none":
        return reward
    for_alignment, for_diversity = rloo_baselines(alignment, diversity)
    centred = reward - alignment_coef * for_alignment + diversity_coef * for_diversity
    if kind == "rloo":
        return centred
    assert kind == "group_norm", kind
    return centred / (reward.std(1, keepdim=True) + STD_FLOOR)
