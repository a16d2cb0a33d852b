"""From rewards to advantages (method.md section 5)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

ROUNDING = 1e-9  # of a sum of weights: what is left of it when a row that is alone is taken out
STD_FLOOR = 1e-4  # group_norm: groups whose rewards hardly differ keep small advantages instead of amplified rounding


def rloo_baselines(
    alignment: Float[Tensor, "B N K"], diversity: Float[Tensor, "B N K"]
) -> tuple[Float[Tensor, "B N K"], Float[Tensor, "B N K"]]:
    """Baselines of both reward parts that do not depend on sample j.

        b_alignment_j = mean over i != j of alignment_i
        b_diversity_j = (sum_i diversity_i - 2 diversity_j) / (N - 2),  0 at N = 2

    The second is twice the mean phi_i . phi_l over the pairs that exclude j; the plain leave-one-out mean keeps pairs
    with j and biases the gradient.
    """
    num_samples = alignment.shape[1]
    assert num_samples >= 2, "a leave-one-out baseline needs two samples"
    for_alignment = (alignment.sum(1, keepdim=True) - alignment) / (num_samples - 1)
    if num_samples == 2:
        return for_alignment, torch.zeros_like(diversity)
    return for_alignment, (diversity.sum(1, keepdim=True) - 2 * diversity) / (num_samples - 2)


def advantages(
    alignment: Float[Tensor, "B N K"],
    diversity: Float[Tensor, "B N K"],
    alignment_coef: float,
    diversity_coef: float,
    kind: str,
) -> Float[Tensor, "B N K"]:
    """`none`: the reward itself, as for `batch`, whose baseline needs the whole optimiser batch (`leave_row_out`).
    `rloo`: minus its baselines. `group_norm`: that, over the standard deviation of the N rewards of its context."""
    reward = alignment_coef * alignment - diversity_coef * diversity
    if kind in ("none", "batch"):
        return reward
    for_alignment, for_diversity = rloo_baselines(alignment, diversity)
    centred = reward - alignment_coef * for_alignment + diversity_coef * for_diversity
    if kind == "rloo":
        return centred
    assert kind == "group_norm", kind
    return centred / (reward.std(1, keepdim=True) + STD_FLOOR)


def row_sums(
    reward: Float[Tensor, "B N K"], log_probs: Float[Tensor, "B N K G"], valid: Bool[Tensor, "B N K G"]
) -> Float[Tensor, "2 B"]:
    """[sum w r, sum w] of every row's rollouts, in float64, with w = sum over valid tokens of (1 - p)^2: about how
    much of the update hangs on a rollout, for the gradient of a token's log-prob at its own logit is 1 - p. With such
    weights the mean reward is close to the constant that leaves least noise (Weaver and Tao, arXiv 1301.2315)."""
    weight = torch.where(valid, (1 - log_probs.exp()).square(), 0).sum(-1).double()
    pull = torch.where(valid.any(-1), weight * reward, 0)  # what stands in a block that does not exist is nothing
    return torch.stack([pull.sum((1, 2)), weight.sum((1, 2))])


def leave_row_out(
    own: Float[Tensor, "2 B"], reward: Float[Tensor, ""], weight: Float[Tensor, ""]
) -> Float[Tensor, "B"]:
    """Baseline of every row: the weighted mean reward of the optimiser batch's other rows, whose `row_sums` add up with
    its own to `reward` and `weight`; 0 where there is no other.

    What a row samples does not move its own baseline, so the gradient stays unbiased.
    """
    others = weight - own[1]
    exists = others > ROUNDING * weight
    return torch.where(exists, (reward - own[0]) / torch.where(exists, others, 1), 0)


def outcome_advantages(rewards: Float[Tensor, "B N"], counted: Bool[Tensor, "B N"], kind: str) -> Float[Tensor, "B N"]:
    """Advantages of one verified reward a completion; completions that do not count get 0 and move nobody's baseline.

    none     r_j
    rloo     r_j - mean over counted i != j of r_i, 0 where there is no other (Ahmadian et al., arXiv 2402.14740)
    grpo     (r_j - mean) / std over the counted ones of a row (Shao et al., arXiv 2402.03300)
    dr_grpo  r_j - mean (Liu et al., arXiv 2503.20783); rloo times (n - 1) / n

    """
    rewards = torch.where(counted, rewards, 0)
    number, total = counted.sum(1, keepdim=True), rewards.sum(1, keepdim=True)
    if kind == "none":
        advantage = rewards
    elif kind == "rloo":
        advantage = torch.where(number > 1, rewards - (total - rewards) / (number - 1).clamp_min(1), 0)
    else:
        advantage = rewards - total / number.clamp_min(1)
        if kind == "grpo":
            squares = torch.where(counted, advantage.square(), 0).sum(1, keepdim=True)
            advantage = advantage / ((squares / (number - 1).clamp_min(1)).sqrt() + STD_FLOOR)
        else:
            assert kind == "dr_grpo", kind
    return torch.where(counted, advantage, 0)
