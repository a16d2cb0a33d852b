"""Baselines and advantages (method.md section 5)."""

import pytest
import torch
from torch import Tensor

from ebft.objective.advantages import (
    STD_FLOOR,
    advantages,
    leave_row_out,
    outcome_advantages,
    rloo_baselines,
    row_sums,
)
from ebft.objective.rewards import alignment_and_diversity
from ebft.types import Embeddings

B, K, D = 2, 3, 7


def reward_parts(X: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return alignment_and_diversity(Embeddings(X, y), "none")


def features_of(n_samples: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(5)
    return torch.randn(B, n_samples, K, D, generator=draw, dtype=torch.float64), torch.randn(
        B, K, D, generator=draw, dtype=torch.float64
    )


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[None, :, None]


@pytest.mark.parametrize(
    ("alignment", "diversity", "b_alignment", "b_diversity"),
    [
        (column(6, 4), column(1, 1), [4, 6], [0, 0]),
        (column(6, 4, 8), column(1, 2, 3), [6, 7, 5], [4, 2, 0]),
        (column(1, 2, 3, 4, 10), column(3, 6, 9, 12, 15), [4.75, 4.5, 4.25, 4, 2.5], [13, 11, 9, 7, 5]),
    ],
)
def test_baselines_by_hand(
    alignment: Tensor, diversity: Tensor, b_alignment: list[float], b_diversity: list[float]
) -> None:
    """N = 5: (1 + 2 + 3 + 4 + 10 - 1) / 4 = 4.75 and (45 - 2 * 3) / 3 = 13."""
    for baseline, expected in zip(rloo_baselines(alignment, diversity), (b_alignment, b_diversity), strict=True):
        assert baseline.flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("none", [6 * 2 - 1 * 3, 4 * 2 - 2 * 3, 8 * 2 - 3 * 3]),
        ("rloo", [0 * 2 + 3 * 3, -3 * 2 - 0 * 3, 3 * 2 - 3 * 3]),
    ],
)
def test_advantages_by_hand(kind: str, expected: list[float]) -> None:
    """alignment_coef 2, diversity_coef 3, and the parts and baselines of the case N = 3 above."""
    assert advantages(column(6, 4, 8), column(1, 2, 3), 2.0, 3.0, kind).flatten().tolist() == pytest.approx(expected)


def test_the_batch_baseline_by_hand() -> None:
    """Three rows of N = 1, K = 1: weights (1 - 1/2)^2 + (1 - 3/4)^2 = 5/16, 1/4 as its second token is not valid, and
    1/16."""
    log_probs = torch.tensor([[0.5, 0.75], [0.5, 0.1], [0.75, 1.0]], dtype=torch.float64).log()[:, None, None]
    valid = torch.tensor([[True, True], [True, False], [True, True]])[:, None, None]
    sums = row_sums(torch.tensor([4.0, -8.0, 16.0], dtype=torch.float64)[:, None, None], log_probs, valid)
    assert sums.flatten().tolist() == pytest.approx([5 / 4, -2, 1, 5 / 16, 1 / 4, 1 / 16])
    nowhere = torch.full((3, 1, 1), float("nan"), dtype=torch.float64)
    both = [
        torch.cat([x, y], dim=2)
        for x, y in ((log_probs, nowhere[..., None].expand(3, 1, 1, 2)), (valid, valid & False))
    ]
    reward = torch.cat([torch.tensor([4.0, -8.0, 16.0], dtype=torch.float64)[:, None, None], nowhere], dim=2)
    assert torch.equal(row_sums(reward, *both), sums)  # with a block that does not exist
    others = leave_row_out(sums, *sums.sum(1))
    assert others.tolist() == pytest.approx([(-2 + 1) / (5 / 16), (5 / 4 + 1) / (3 / 8), (5 / 4 - 2) / (9 / 16)])


def test_a_row_without_another_has_no_batch_baseline() -> None:
    """Nor has one whose others' tokens were all certain."""
    alone = torch.tensor([[3.7], [0.3]], dtype=torch.float64)
    assert leave_row_out(alone, *alone.sum(1)).tolist() == [0.0]
    certain = torch.tensor([[3.7, 0.0], [0.3, 0.0]], dtype=torch.float64)
    assert leave_row_out(certain, *certain.sum(1)).tolist() == pytest.approx([0.0, 3.7 / 0.3])
    assert leave_row_out(torch.zeros(2, 3), torch.tensor(0.0), torch.tensor(0.0)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("n_samples", [2, 3, 5])
def test_a_baseline_does_not_move_when_its_own_sample_does(n_samples: int) -> None:
    X, y = features_of(n_samples)
    before = rloo_baselines(*reward_parts(X, y))
    for j in range(n_samples):
        moved = X.clone()
        moved[:, j] = torch.linspace(-3, 5, D, dtype=X.dtype)
        for was, now in zip(before, rloo_baselines(*reward_parts(moved, y)), strict=True):
            torch.testing.assert_close(now[:, j], was[:, j], rtol=0, atol=1e-12)
            assert n_samples == 2 or (now - was).abs().amax() > 0.1


def test_the_plain_leave_one_out_mean_of_the_combined_reward_moves_with_its_own_sample() -> None:
    """Every other sample's diversity holds a pair with sample j, so their mean is no baseline for j: at N = 3 its
    derivative by phi_0 is -(phi_1 + phi_2) / 2."""
    X, y = features_of(3)
    X.requires_grad_()
    alignment, diversity = reward_parts(X, y)
    plain = (alignment - diversity)[:, 1:].mean(1)
    moved = torch.autograd.grad(plain.sum(), X)[0][:, 0]
    torch.testing.assert_close(moved, -(X[:, 1] + X[:, 2]) / 2)


@pytest.mark.parametrize("n_samples", [3, 5])
def test_diversity_baseline_is_twice_the_mean_over_pairs_without_the_sample(n_samples: int) -> None:
    X, y = features_of(n_samples)
    _, baseline = rloo_baselines(*reward_parts(X, y))
    for j in range(n_samples):
        pairs = [
            (X[:, i] * X[:, k]).sum(-1)
            for i in range(n_samples)
            for k in range(n_samples)
            if i != k and j not in (i, k)
        ]
        torch.testing.assert_close(baseline[:, j], 2 * torch.stack(pairs).mean(0))


def test_group_norm_divides_by_the_deviation_over_the_samples_of_one_context() -> None:
    """An implementation took the deviation over blocks: a block with large rewards then drowned its neighbours."""
    alignment = torch.stack([column(6, 4, 8)[..., 0], 100 * column(6, 4, 8)[..., 0]], dim=-1)
    made = advantages(alignment, torch.zeros_like(alignment), 1.0, 1.0, "group_norm")
    torch.testing.assert_close(made[..., 0], made[..., 1], rtol=1e-3, atol=1e-3)


def test_group_norm_works_with_one_block() -> None:
    """The deviation over a single block was NaN. Rewards 6, 4, 8 minus their baselines are 0, -3, 3; their deviation is
    2."""
    made = advantages(column(6, 4, 8), column(0, 0, 0), 1.0, 1.0, "group_norm")
    assert made.flatten().tolist() == pytest.approx([0, -1.5, 1.5], rel=1e-3)


@pytest.mark.parametrize("kind", ["rloo", "group_norm"])
@pytest.mark.parametrize("n_samples", [2, 3, 5])
def test_equal_rewards_give_no_advantage(n_samples: int, kind: str) -> None:
    alignment = torch.full((B, n_samples, K), 1.7)
    diversity = torch.zeros_like(alignment)
    torch.testing.assert_close(
        advantages(alignment, diversity, 1.0, 0.5, kind), torch.zeros_like(alignment), rtol=0, atol=1e-2
    )


@pytest.mark.parametrize("kind", ["rloo", "group_norm"])
def test_two_samples_keep_their_diversity_without_a_baseline(kind: str) -> None:
    """At N = 2 no pair excludes a sample; an implementation rewrote the settings instead."""
    with_term, without = (
        advantages(column(6, 4), column(1, 1), 1.0, coef, "rloo").flatten().tolist() for coef in (1.0, 0.0)
    )
    assert without == [2, -2]
    assert with_term == [1, -3]
    assert advantages(column(6, 4), column(1, 1), 1.0, 1.0, kind).isfinite().all()


def test_one_sample_has_its_reward_as_advantage() -> None:
    assert advantages(column(6), column(0), 1.5, 1.0, "none").flatten().tolist() == [9]


ALL = [True, True, True, True]


@pytest.mark.parametrize(
    ("kind", "counted", "expected"),
    [
        ("none", ALL, [1, 0, 0, 0.6]),
        ("rloo", ALL, [1 - 0.2, -1.6 / 3, -1.6 / 3, 0.6 - 1 / 3]),
        ("dr_grpo", ALL, [0.6, -0.4, -0.4, 0.2]),
        ("grpo", ALL, [x / ((0.72 / 3) ** 0.5 + STD_FLOOR) for x in (0.6, -0.4, -0.4, 0.2)]),
        ("none", [True, False, True, True], [1, 0, 0, 0.6]),
        ("rloo", [True, False, True, True], [1 - 0.3, 0, -0.8, 0.6 - 0.5]),
        ("dr_grpo", [True, False, True, False], [0.5, 0, -0.5, 0]),
        ("grpo", [True, False, True, False], [0.5 / (0.5**0.5 + STD_FLOOR), 0, -0.5 / (0.5**0.5 + STD_FLOOR), 0]),
        ("rloo", [True, False, False, False], [0, 0, 0, 0]),
        ("grpo", [False, False, False, False], [0, 0, 0, 0]),
    ],
)
def test_outcome_advantages_by_hand(kind: str, counted: list[bool], expected: list[float]) -> None:
    """Rewards 1, 0, 0, 0.6, of which some do not count; a second row with one reward for all has no advantage but its
    reward."""
    rewards = torch.tensor([[1, 0, 0, 0.6], [0.5, 0.5, 0.5, 0.5]], dtype=torch.float64)
    mask = torch.tensor([counted, ALL])
    found = outcome_advantages(rewards, mask, kind)
    assert found[0].tolist() == pytest.approx(expected)
    assert found[1].tolist() == pytest.approx([0.5] * 4 if kind == "none" else [0] * 4)


def test_the_reward_of_a_completion_that_does_not_count_is_never_read() -> None:
    rewards = torch.tensor([[1.0, torch.nan, 0.0]])
    for kind in ("none", "rloo", "grpo", "dr_grpo"):
        assert outcome_advantages(rewards, torch.tensor([[True, False, True]]), kind).isfinite().all()
